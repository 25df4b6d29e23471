#!/usr/bin/env bash
# Checks licences, sources and duplicates of all dependencies, and that none is unused; on request also advisories.
#
# The tools are built once, into the cache of scripts/interop.sh, because that takes minutes.
set -euo pipefail

readonly CARGO_DENY_VERSION=0.20.2
readonly CARGO_MACHETE_VERSION=0.9.2
readonly ADVISORIES=https://github.com/RustSec/advisory-db

usage() {
  cat <<'TEXT'
Usage: scripts/dependencies.sh [--advisories] [--help]

Checks Cargo.lock against scripts/deny.toml, by cargo-deny and without the network, and looks for dependencies that
no code uses, by cargo-machete. Both are taken from $MIDGE_INTEROP_CACHE, by default
${XDG_CACHE_HOME:-$HOME/.cache}/midge-interop, and built there if they are missing or of another version.

  --advisories  instead: checks Cargo.lock against the RustSec advisories, fetched anew. Fails, and says so, if
                their repository cannot be reached
TEXT
}

advisories=no
case "${1:-}" in
  "") ;;
  --advisories) advisories=yes ;;
  --help) usage; exit 0 ;;
  *) echo "dependencies.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cache="${MIDGE_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/midge-interop}"

# installed NAME VERSION: builds a cargo tool into the cache unless it is there.
installed() {
  if [[ "$("$cache/bin/$1" --version 2>/dev/null || true)" != *"$2" ]]; then
    cargo install "$1" --version "$2" --locked --root "$cache"
  fi
}

installed cargo-deny "$CARGO_DENY_VERSION"
cd "$root"
if [[ $advisories == yes ]]; then
  if ! git ls-remote --exit-code "$ADVISORIES" HEAD >/dev/null; then
    echo "dependencies.sh: $ADVISORIES cannot be reached: advisories were NOT checked" >&2
    exit 1
  fi
  "$cache/bin/cargo-deny" --config scripts/deny.toml check advisories
  exit
fi
installed cargo-machete "$CARGO_MACHETE_VERSION"
cargo fetch --locked
"$cache/bin/cargo-deny" --offline --config scripts/deny.toml check licenses sources bans
"$cache/bin/cargo-machete" --with-metadata .
