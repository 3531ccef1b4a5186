#!/usr/bin/env bash
# Installs Azurite, a double of Azure Blob Storage, under target/parts/azurite; prints the path of its start script for Node.
set -euo pipefail
package=azurite@3.35.0

home=$(dirname "$0")/../../target/parts
mkdir -p "$home"
home=$(cd "$home" && pwd)
folder=$home/azurite

# Two runs at once must not install into the same folder.
exec 9>"$home/.azurite.lock"
flock 9
if [ "$(cat "$folder/installed.txt" 2>/dev/null)" != "$package" ]; then
  command -v npm >/dev/null || { echo "azurite.sh: needs node with npm" >&2; exit 1; }
  rm -rf "$folder"
  mkdir -p "$folder"
  printf '{"private": true}\n' >"$folder/package.json"
  (cd "$folder" && npm install --silent --no-audit --no-fund --ignore-scripts "$package" >&2)
  echo "$package" >"$folder/installed.txt"
fi
echo "$folder/node_modules/azurite/dist/src/blob/main.js"
