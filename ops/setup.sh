# Sourced by ops/demo and ops/test: finds or installs what they need. It says what is missing and how to get
# it where it cannot install it; it starts no service and touches no cluster of the system's.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '== %s\n' "$*" >&2; }
stop_with() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# cargo, in the repository, so that its pinned toolchain is used.
run_cargo() { (cd "$root" && cargo "$@"); }

need_rust() {
  command -v cargo > /dev/null || PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  command -v cargo > /dev/null ||
    stop_with "Rust is missing: install it from https://rustup.rs, then run this again"
  command -v cc > /dev/null || install_packages gcc libc6-dev ||
    stop_with "a C linker is missing: install gcc (Debian and Ubuntu: apt-get install gcc libc6-dev)"
}

# The folder of the built programs of a profile: debug or release.
built() {
  local target
  target=$(run_cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
  printf '%s/%s' "$target" "$1"
}

# Postgres as the given longshore finds it.
need_postgres() {
  local longshore=$1
  # A folder given by hand is an answer, even a wrong one.
  if [ -z "${LONGSHORE_PG_BIN-}" ] && ! "$longshore" postgres where > /dev/null 2>&1; then
    say "installing Postgres"
    install_postgres || true # what is missing is said next
  fi
  "$longshore" postgres where > /dev/null
}

# What some faults of the harness need; without it they are skipped, and said to be.
need_troublemakers() {
  local missing=()
  command -v pgbouncer > /dev/null || [ -e /usr/sbin/pgbouncer ] || missing+=(pgbouncer)
  [ -e /usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 ] || missing+=(libfaketime)
  command -v prometheus > /dev/null || missing+=(prometheus)
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}" || true
}

install_postgres() {
  if command -v apt-get > /dev/null; then
    install_packages postgresql
  elif command -v brew > /dev/null; then
    brew install postgresql@17 >&2
  else
    return 1
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Debian and Ubuntu, as root or with sudo that asks no password; fails elsewhere.
install_packages() {
  command -v apt-get > /dev/null && as_root true 2> /dev/null || return 1
  # In a subshell, so that the settings which keep apt from making and starting a cluster go again with it.
  (
    policy=/usr/sbin/policy-rc.d
    clusters=/etc/postgresql-common/createcluster.d
    own_policy=
    trap 'as_root rm -f "$clusters/longshore.conf"; [ -z "$own_policy" ] || as_root rm -f "$policy"' EXIT
    as_root mkdir -p "$clusters"
    echo "create_main_cluster = false" | as_root tee "$clusters/longshore.conf" > /dev/null
    if [ ! -e "$policy" ]; then
      own_policy=yes
      printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" > /dev/null
      as_root chmod 755 "$policy"
    fi
    as_root apt-get update -q >&2 || true # an old list may serve
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@" >&2
  )
}
