#!/usr/bin/env bash
# Builds fake-gcs-server, a Google Cloud Storage double, into target/parts/bin; prints its path.
set -euo pipefail
module=github.com/fsouza/fake-gcs-server
version=v1.56.1

home=$(dirname "$0")/../../target/parts
mkdir -p "$home/bin"
home=$(cd "$home" && pwd)
program=$home/bin/fake-gcs-server

# Two runs at once must not build the same program.
exec 9>"$home/.gcs.lock"
flock 9
if [ "$(cat "$program.version" 2>/dev/null)" != "$version" ] || ! [ -x "$program" ]; then
  command -v go >/dev/null || { echo "gcs.sh: needs go" >&2; exit 1; }
  GOBIN="$home/bin" CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -ldflags='-s -w' "$module@$version" >&2
  echo "$version" >"$program.version"
fi
echo "$program"
