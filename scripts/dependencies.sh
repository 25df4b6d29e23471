#!/usr/bin/env bash
# Licences, sources and duplicates of all dependencies, by cargo-deny's checks that need no network.
#
# cargo-deny itself is built once, into the cache that scripts/interop.sh has, because that takes minutes.
set -euo pipefail

readonly CARGO_DENY_VERSION=0.20.2

usage() {
  cat <<'TEXT'
Usage: scripts/dependencies.sh [--help]

Checks Cargo.lock against scripts/deny.toml. cargo-deny is taken from $MIDGE_INTEROP_CACHE, by default
${XDG_CACHE_HOME:-$HOME/.cache}/midge-interop, and built there if it is missing or of another version.
TEXT
}

case "${1:-}" in
  "") ;;
  --help) usage; exit 0 ;;
  *) echo "dependencies.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cache="${MIDGE_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/midge-interop}"
program="$cache/bin/cargo-deny"
if [ "$("$program" --version 2>/dev/null || true)" != "cargo-deny $CARGO_DENY_VERSION" ]; then
  cargo install cargo-deny --version "$CARGO_DENY_VERSION" --locked --root "$cache"
fi
cd "$root"
cargo fetch --locked
"$program" --offline --config scripts/deny.toml check licenses sources bans
