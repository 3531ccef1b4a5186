#!/usr/bin/env bash
# Makes a virtual environment under target/parts/python with the versions of requirements.txt; prints the path of its interpreter.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=$here/../../target/parts
mkdir -p "$home"
home=$(cd "$home" && pwd)
venv=$home/python

# Two runs at once must not build the same environment.
exec 9>"$home/.python.lock"
flock 9
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
  command -v python3 >/dev/null || { echo "python.sh: needs python3 with venv" >&2; exit 1; }
  rm -rf "$venv"
  python3 -m venv "$venv" >&2
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt" >&2
  cp "$here/requirements.txt" "$venv/installed.txt"
fi
echo "$venv/bin/python"
