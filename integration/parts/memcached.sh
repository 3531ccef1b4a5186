#!/usr/bin/env bash
# Puts memcached in place (the Debian package, without starting its service); prints its path.
set -euo pipefail
. "$(dirname "$0")/debian_package.bash"
debian_package memcached memcached
