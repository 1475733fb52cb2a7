#!/bin/sh
# Stands before rustc for the crates of this repository, and has them counted by libFuzzer: by options of the stable
# compiler, so no other toolchain is needed. What runs while building is left as it is.
case " $* " in
    *" build_script_build "* | *" --crate-type proc-macro "*) exec "$@" ;;
esac
exec "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
