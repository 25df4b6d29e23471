#!/usr/bin/env bash
# Compares Midge with the nats-server on PATH, by the standard suite, in one command.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/compare.sh [options] [-- more options of `midge-bench compare`]

Builds Midge and the harness, starts Midge and nats-server in turns on the same cores, and prints every
figure of both with its spread and the ratio with a confidence interval. Writes a report beside it.

  --suite NAME        standard (default), quick, latency, first-try or readme: the rows of README's tables, Midge
                      with one shard. first-try: both servers on their defaults beside the load, nothing pinned, no floor
  --rounds N          rounds, each runs both servers (default 5)
  --duration TIME     of each run (default 5s; the suites readme and first-try have their own)
  --tls               both over TLS, with certificates made for the occasion
  --websocket KIND    both over WebSocket: plain, deflate (messages deflated) or tls
  --pin-server CORES  cores of the servers (default 0; with first-try all)
  --pin-load CORES    cores of the load (default: all others; 0 on a host with one core; with first-try all)
  --congestion NAME   congestion control of the load's own sockets (default: the host's)
  --output DIR        where the report goes (default bench-results/DATE)
  --midge PROGRAM     use this Midge instead of building one
  --nats PROGRAM      use this nats-server instead of the one on PATH
  --bench PROGRAM     use this midge-bench instead of building one
  --help              this text

For figures to show to others: a quiet host (see scripts/tune-host.sh), nothing else running.
TEXT
}

fail() {
  echo "compare.sh: $1" >&2
  exit 1
}

suite=standard
rounds=5
duration=5s
pin_server=""
pin_load=""
congestion=""
output=""
midge=""
nats="${NATS_SERVER:-}"
bench=""
tls=()
more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --tls) tls=(--tls --tlscert "{tls_cert}" --tlskey "{tls_key}"); shift ;;
    --websocket)
      case "${2:-}" in
        plain) tls=(-c "{websocket}") ;;
        deflate | tls) tls=(-c "{websocket_$2}") ;;
        *) fail "--websocket wants plain, deflate or tls" ;;
      esac
      shift 2
      ;;
    --suite | --rounds | --duration | --pin-server | --pin-load | --congestion | --output | --midge | --nats | --bench)
      [ $# -ge 2 ] || fail "$1 needs a value"
      name="${1#--}"
      printf -v "${name//-/_}" '%s' "$2"
      shift 2
      ;;
    --) shift; more=("$@"); break ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

if [ -z "$nats" ]; then
  nats="$(command -v nats-server || true)"
fi
if [ -z "$nats" ] || [ ! -x "$nats" ]; then
  fail "no nats-server on PATH. Get one from https://github.com/nats-io/nats-server/releases
or by: go install github.com/nats-io/nats-server/v2@v2.15.3
or name one by --nats PROGRAM or the variable NATS_SERVER"
fi

if [ -z "$midge" ] || [ -z "$bench" ]; then
  (cd "$root" && cargo build --release --workspace --bins)
  target="${CARGO_TARGET_DIR:-$root/target}"
  midge="${midge:-$target/release/midge}"
  bench="${bench:-$target/release/midge-bench}"
fi
[ -x "$midge" ] || fail "no program $midge"
[ -x "$bench" ] || fail "no program $bench"

if [ "$suite" != first-try ]; then
  pin_server="${pin_server:-0}"
fi
if [ -z "$pin_load" ] && [ "$suite" != first-try ]; then
  cores="$(nproc --all)"
  if [ "$cores" -gt 1 ]; then pin_load="1-$((cores - 1))"; else pin_load=0; fi
fi
[ -n "$output" ] || output="$root/bench-results/$(date +%Y-%m-%d-%H%M%S)"

# The kernel refuses cores that do not exist with a clear message; Midge takes one shard per core it may use.
# The monitoring port tells the share of messages that crossed shards.
at="-a 127.0.0.1 -p {port} -m {monitor} ${tls[*]-}"
midge_line="'$midge' $at"
command=("$bench" compare --name-a midge --name-b nats-server --b "'$nats' $at" --rounds "$rounds"
  ${pin_server:+--pin-server "$pin_server"} ${pin_load:+--pin-load "$pin_load"}
  ${congestion:+--congestion "$congestion"} ${more[@]+"${more[@]}"})

if [ "$suite" = first-try ]; then
  exec "${command[@]}" --a "$midge_line" --suite first-try --no-floor --output "$output"
fi

if [ "$suite" != readme ]; then
  exec "${command[@]}" --a "$midge_line" --suite "$suite" --duration "$duration" --output "$output"
fi
midge_line+=" --shards 1 --no-pin"
exec "${command[@]}" --a "$midge_line" --suite readme --output "$output"
