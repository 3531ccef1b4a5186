#!/usr/bin/env bash
# Puts redis-server in place (the Debian package, without starting its service); prints its path.
set -euo pipefail
. "$(dirname "$0")/debian_package.bash"
debian_package redis-server redis-server
