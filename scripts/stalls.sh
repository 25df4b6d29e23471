#!/usr/bin/env bash
# Measures the longest PING of others while one client, a reload or monitoring causes a lot of work at once.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/stalls.sh [options] [-- more options of `midge-bench stalls`]

Builds Midge and the harness, plays every case on Midge with 1, 2 and 4 shards and on nats-server in turns, and
prints the longest PING of two clients that do nothing else: one on the first shard, where the case comes from, and
one on the last (a nats-server has no shards: both are its clients). `midge-bench stalls --help` describes the cases.

Ends with status 2 when Midge's longest PING is above the aim and above nats-server's in the same run, or a
server could not play a case.

  --case NAME         only this case; may be repeated
  --shards LIST       numbers of shards (default 1,2,4)
  --rounds N          rounds, each runs every server once; medians are reported (default 3)
  --aim TIME          a PING up to this is good (default 25ms)
  --pin-server CORES  cores of the servers (default: all)
  --pin-load CORES    cores of the load and of the probes (default: all)
  --midge PROGRAM     use this Midge instead of building one
  --nats PROGRAM      use this nats-server instead of the one on PATH
  --bench PROGRAM     use this midge-bench instead of building one
  --help              this text

Needs `ulimit -n` of 12,000 or more. The case `idle` shows the host's own effect on a PING: figures close to it
say nothing about the server.
TEXT
}

fail() {
  echo "stalls.sh: $1" >&2
  exit 1
}

midge="" bench="" nats="${NATS_SERVER:-}"
options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --midge | --nats | --bench)
      [ $# -ge 2 ] || fail "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --case | --shards | --rounds | --aim | --pin-server | --pin-load)
      [ $# -ge 2 ] || fail "$1 needs a value"
      options+=("$1" "$2")
      shift 2
      ;;
    --) shift; options+=("$@"); break ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ -n "$nats" ] || nats="$(command -v nats-server || true)"
if [ -z "$nats" ] || [ ! -x "$nats" ]; then
  fail "no nats-server on PATH: name one by --nats PROGRAM or the variable NATS_SERVER"
fi
if [ -z "$midge" ] || [ -z "$bench" ]; then
  (cd "$root" && cargo build --release --workspace --bins)
  target="${CARGO_TARGET_DIR:-$root/target}/release"
  midge="${midge:-$target/midge}"
  bench="${bench:-$target/midge-bench}"
fi
[ -x "$midge" ] || fail "no program $midge"
[ -x "$bench" ] || fail "no program $bench"

exec "$bench" stalls --midge "$midge" --nats "$nats" "${options[@]}"
