# Sourced by part scripts. debian_package PACKAGE PROGRAM: prints the path of PROGRAM; installs PACKAGE when it is not there.
debian_package() {
  local package=$1 program=$2 home policy=/usr/sbin/policy-rc.d made=
  home=$(dirname "${BASH_SOURCE[0]}")/../../target/parts
  mkdir -p "$home"
  # Two runs at once must not install at the same time.
  exec 9>"$home/.debian_package.lock"
  flock 9
  if ! command -v "$program" >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "$program is not installed: install the Debian package $package" >&2; exit 1; }
    # Packages would start services of their own.
    if ! [ -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod +x "$policy"
      made=1
    fi
    local install=(apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$package") failed=
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" >&2 || { apt-get -qq -o DPkg::Lock::Timeout=300 update >&2 && "${install[@]}" >&2; } || failed=1
    [ -z "$made" ] || rm -f "$policy"
    [ -z "$failed" ] || { echo "cannot install the Debian package $package" >&2; exit 1; }
  fi
  command -v "$program"
}
