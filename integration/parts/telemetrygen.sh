#!/usr/bin/env bash
# Builds telemetrygen of the OpenTelemetry collector into target/parts/bin; prints its path.
set -euo pipefail
module=github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen
version=v0.161.0

home=$(dirname "$0")/../../target/parts
mkdir -p "$home/bin"
home=$(cd "$home" && pwd)
program=$home/bin/telemetrygen

# Two runs at once must not build the same program.
exec 9>"$home/.telemetrygen.lock"
flock 9
if [ "$(cat "$program.version" 2>/dev/null)" != "$version" ] || ! [ -x "$program" ]; then
  command -v go >/dev/null || { echo "telemetrygen.sh: needs go" >&2; exit 1; }
  GOBIN="$home/bin" CGO_ENABLED=0 GOFLAGS=-buildvcs=false go install -ldflags='-s -w' "$module@$version" >&2
  echo "$version" >"$program.version"
fi
echo "$program"
