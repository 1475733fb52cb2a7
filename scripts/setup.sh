#!/usr/bin/env bash
# Finds what is named on the command line, or installs it: with apt-get on Debian and Ubuntu, with brew on macOS.
# Says nothing where all is there. What cannot be installed gets one line that names the package; then the status is 1.
#
#   scripts/setup.sh cargo cc redis-server postgres pgbouncer strace
set -euo pipefail

PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/bin:/usr/sbin:/opt/homebrew/bin"
missing=0

# The package that holds a program, on this system; empty if there is none.
package_of() {
    case "$(uname -s):$1" in
        *:cargo) ;;
        Darwin:redis-server) echo redis ;;
        *:postgres) echo postgresql ;;
        *:pgbouncer) echo pgbouncer ;;
        Darwin:*) ;;
        *:cc) echo gcc libc6-dev ;;
        *:c++) echo g++ ;;
        *) echo "$1" ;;
    esac
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

apt_install() {
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
    as_root "${install[@]}" || { as_root apt-get update -qq && as_root "${install[@]}"; }
}

# Tries to install packages; what the installer says goes to stderr.
install() {
    if command -v apt-get >/dev/null; then
        apt_install "$@" >&2
    elif command -v brew >/dev/null; then
        brew install "$@" >&2
    else
        return 1
    fi
}

complain() {
    case "$1" in
        cargo) echo "missing: cargo; install a Rust toolchain, see https://rustup.rs" ;;
        cc) echo "missing: cc; install the package \`gcc\` (Debian, Ubuntu: build-essential; macOS: xcode-select --install)" ;;
        c++) echo "missing: c++; install the package \`g++\` (Debian, Ubuntu: build-essential; macOS: xcode-select --install)" ;;
        postgres) echo "missing: PostgreSQL; install the package \`postgresql\` (its server, with initdb)" ;;
        redis-server) echo "missing: redis-server; install the package \`redis-server\` (macOS and others: \`redis\`)" ;;
        *) echo "missing: $1; install the package \`$1\`" ;;
    esac >&2
}

# True if a program can be run; the package of PostgreSQL puts its server outside of the search path.
is_there() {
    command -v "$1" >/dev/null || { [ "$1" = postgres ] && compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
}

for program in "$@"; do
    # There is no strace on macOS, and no test that needs it there.
    if [ "$program" = strace ] && [ "$(uname -s)" != Linux ]; then
        continue
    fi
    if is_there "$program"; then
        continue
    fi
    read -ra packages <<<"$(package_of "$program")"
    if [ "${#packages[@]}" -gt 0 ]; then
        echo "installing ${packages[*]}" >&2
        install "${packages[@]}" || true
    fi
    if ! is_there "$program"; then
        complain "$program"
        missing=1
    fi
done
exit "$missing"
