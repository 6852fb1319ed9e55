#!/usr/bin/env bash
# Says what is missing to build reeve, before a compiler says it worse. Installs nothing.
#
#   toolchain.sh              what a build needs
#   toolchain.sh fmt clippy   and these parts of cargo
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
readonly wanted

fail() {
    printf 'toolchain: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

# Where rustup puts it; a shell that was open before, or a service, does not have it on its path.
if ! command -v cargo >/dev/null 2>&1 && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
    fail "cargo is installed and not on the PATH" ". \"${CARGO_HOME:-$HOME/.cargo}/env\"   puts it there."
fi
for tool in cargo rustc; do
    command -v "$tool" >/dev/null 2>&1 || fail "$tool is missing" \
        "Install Rust $wanted or newer, with cargo, rustfmt and clippy (by rustup, or packages that are that new)."
done
found=$(rustc --version | cut -d ' ' -f 2)
if [[ $(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) != "$wanted" ]]; then
    fail "Rust $found is too old" "Install Rust $wanted or newer (with rustup: rustup update)."
fi
command -v cc >/dev/null 2>&1 || fail 'a C compiler is missing (for the linker and one dependency)' \
    'On Debian: apt-get install gcc libc6-dev'
for part in "$@"; do
    name=$part
    [[ $part != fmt ]] || name=rustfmt
    cargo "$part" --version >/dev/null 2>&1 || fail "cargo $part is missing" \
        "Add the component $name to your Rust (with rustup: rustup component add $name)."
done
