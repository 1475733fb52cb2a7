#!/usr/bin/env bash
# Finds what is named on the command line, or installs it: with apt-get on Debian and Ubuntu, with brew on macOS; moto and
# azurite, servers of buckets for the tests, by pip and npm into the build directory.
# Says nothing where all is there. What cannot be installed gets one line that names the package; then the status is 1.
#
#   scripts/setup.sh cargo cc redis-server postgres pgbouncer strace moto azurite
set -euo pipefail

PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/bin:/usr/sbin:/opt/homebrew/bin"
scripts=$(cd "$(dirname "$0")" && pwd)
servers=${CARGO_TARGET_DIR:-$scripts/../target}/servers
azurite_version=3.35.0
missing=0

# The package that holds a program, on this system; empty if there is none.
package_of() {
    case "$(uname -s):$1" in
        *:cargo) ;;
        Darwin:redis-server) echo redis ;;
        *:postgres) echo postgresql ;;
        *:pgbouncer) echo pgbouncer ;;
        Darwin:*) ;;
        *:moto | *:azurite) ;;
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

# moto in a virtual environment of its own. The mark comes last: what was cut short is made again.
install_moto() {
    local into=$servers/moto
    rm -rf "$into"
    mkdir -p "$servers"
    if ! python3 -m venv "$into" 2>/dev/null; then
        install python3 python3-venv && rm -rf "$into" && python3 -m venv "$into" || return 1
    fi
    "$into/bin/pip" install --quiet --disable-pip-version-check -r "$scripts/moto-requirements.txt" || return 1
    cp "$scripts/moto-requirements.txt" "$into/installed"
}

install_azurite() {
    local into=$servers/azurite
    rm -rf "$into"
    mkdir -p "$into"
    command -v npm >/dev/null || install npm || return 1
    npm install --prefix "$into" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
        "azurite@$azurite_version" || return 1
    echo "$azurite_version" >"$into/installed"
}

complain() {
    case "$1" in
        moto) echo "missing: moto; it needs \`python3\` with \`venv\` (Debian, Ubuntu: python3-venv) and a way to PyPI" ;;
        azurite) echo "missing: azurite; it needs \`npm\` and a way to its registry" ;;
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
    case "$1" in
        moto) cmp -s "$scripts/moto-requirements.txt" "$servers/moto/installed" ;;
        azurite) [ "$(cat "$servers/azurite/installed" 2>/dev/null)" = "$azurite_version" ] ;;
        postgres) command -v "$1" >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
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
    elif [ "$program" = moto ] || [ "$program" = azurite ]; then
        echo "installing $program" >&2
        "install_$program" >&2 || true
    fi
    if ! is_there "$program"; then
        complain "$program"
        missing=1
    fi
done
exit "$missing"
