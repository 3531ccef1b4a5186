#!/usr/bin/env bash
# Builds versitygw, an S3 server that checks signatures, into target/parts/bin; prints its path.
set -euo pipefail
module=github.com/versity/versitygw/cmd/versitygw
version=v1.8.0

home=$(dirname "$0")/../../target/parts
mkdir -p "$home/bin"
home=$(cd "$home" && pwd)
program=$home/bin/versitygw

# Two runs at once must not build the same program.
exec 9>"$home/.s3.lock"
flock 9
if [ "$(cat "$program.version" 2>/dev/null)" != "$version" ] || ! [ -x "$program" ]; then
  command -v go >/dev/null || { echo "s3.sh: needs go" >&2; exit 1; }
  GOBIN="$home/bin" CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -ldflags='-s -w' "$module@$version" >&2
  echo "$version" >"$program.version"
fi
echo "$program"
