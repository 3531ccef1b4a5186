#!/usr/bin/env bash
# Builds toxiproxy, a TCP proxy that disturbs connections, into target/parts/bin; prints its path.
set -euo pipefail
module=github.com/Shopify/toxiproxy/v2/cmd/server
version=v2.5.0

home=$(dirname "$0")/../../target/parts
mkdir -p "$home/bin"
home=$(cd "$home" && pwd)
program=$home/bin/toxiproxy-server

# Two runs at once must not build the same program.
exec 9>"$home/.toxiproxy.lock"
flock 9
if [ "$(cat "$program.version" 2>/dev/null)" != "$version" ] || ! [ -x "$program" ]; then
  command -v go >/dev/null || { echo "toxiproxy.sh: needs go" >&2; exit 1; }
  GOBIN="$home/bin" CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -ldflags='-s -w' "$module@$version" >&2
  mv "$home/bin/server" "$program"
  echo "$version" >"$program.version"
fi
echo "$program"
