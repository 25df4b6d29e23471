# Sourced by the scripts in this folder: a step shows what it runs and how long that took.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Incremental data is of no use to a machine that builds once, and takes a gigabyte.
export CARGO_INCREMENTAL=0

step() {
    local started=$SECONDS
    printf '\n==> %s\n' "$*"
    "$@"
    printf '==> %s: %d s\n' "$*" $((SECONDS - started))
}

format_and_lints() {
    step cargo fmt --all --check
    step cargo fmt --manifest-path scripts/interop/rust/Cargo.toml --check
    step cargo clippy --all-targets -- --deny warnings
}
