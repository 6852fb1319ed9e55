#!/usr/bin/env bash
# The long tests on real servers, and at the end the tables of what was seen: requests lost by scenario, crash points.
# Run by `make test-long`, after the stages that make servers, images and the build. All of the output stays in
# target/test-long.txt.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
readonly report=${CARGO_TARGET_DIR:-target}/test-long.txt

real() { cargo test --locked --test real -- "$@" --nocapture --test-threads=3 2>&1 | tee -a "$report"; }

: >"$report"
result=0
# The short scenarios are part of the table, and of the tests in `make test`.
real --include-ignored e2e_load:: e2e_crash:: || result=1
# What else is long. One measurement means something in a release build alone.
real --ignored --skip e2e_load:: --skip e2e_crash:: --skip a_thousand_upstreams || result=1

dashes() { printf -- '-%.0s' $(seq "$1"); }

printf '\n| %-50s | %5s | %6s | %7s | %8s | %8s |\n' 'load' sent failed retried 'past 5 s' 'ws shut'
printf '|%s|------:|-------:|--------:|---------:|---------:|\n' "$(dashes 52)"
grep '^| ' "$report" | grep -v '^| crash after' | sort
printf '\n| %-50s | %6s | %6s |\n|%s|-------:|-------:|\n' 'crash points' number took "$(dashes 52)"
grep '^| crash after' "$report" | sort
exit "$result"
