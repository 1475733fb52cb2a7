#!/usr/bin/env bash
# Runs the fuzz targets, each for a number of seconds: coverage-guided, by libFuzzer, with the stable toolchain.
#
#   scripts/fuzz.sh 600             all targets
#   scripts/fuzz.sh 600 decode      one of them
#
# Each begins with what is kept in fuzz/corpus; what it adds goes to target/fuzz/corpus. A finding ends the run with
# status 1. The input that made it then lies in target/fuzz, and `target/debug/fuzz-TARGET FILE` tries it again.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
target=${CARGO_TARGET_DIR:-target}

seconds=${1:?"say how many seconds"}
shift
if [ $# -eq 0 ]; then
    set -- decode merge stored journal manifest configuration
fi

RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/rustc-covered.sh" cargo build --locked -p storage-worker-fuzz --features libfuzzer

for name in "$@"; do
    echo
    echo "== $name, $seconds s"
    found="$target/fuzz/corpus/$name"
    mkdir -p "$found"
    # Beyond every limit of ids and names, yet small enough to be tried often; a manifest lies in a whole library.
    length=4096
    [ "$name" != manifest ] || length=16384
    log="$target/fuzz/$name.log"
    if ! "$target/debug/fuzz-$name" -max_total_time="$seconds" -max_len="$length" -rss_limit_mb=1024 -timeout=10 \
        -artifact_prefix="$target/fuzz/$name-" -print_final_stats=1 "$found" "fuzz/corpus/$name" >"$log" 2>&1; then
        tail -n 40 "$log"
        exit 1
    fi
    grep -E 'executed_units|new_units' "$log"
done
echo
echo "no findings"
