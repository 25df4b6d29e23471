#!/usr/bin/env bash
# Runs the standard latency suite against a server that is already running.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/latency.sh [options] [-- more options of `midge-bench`, such as --user or --tls-ca]

Runs open-loop latency at several rates, requests, and a sweep to the knee against a running server, each
with the host's noise floor, and draws one report of all.

  --server URL      default nats://127.0.0.1:4222
  --pin-load CORES  cores of the load (default: not pinned)
  --duration TIME   of each run (default 10s)
  --payload SIZE    default 128
  --output DIR      where the results go (default bench-results/latency-DATE)
  --bench PROGRAM   use this midge-bench instead of building one
  --help            this text
TEXT
}

fail() {
  echo "latency.sh: $1" >&2
  exit 1
}

server=nats://127.0.0.1:4222
pin_load=""
duration=10s
payload=128
output=""
bench=""
more=()
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --server | --pin-load | --duration | --payload | --output | --bench)
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
if [ -z "$bench" ]; then
  (cd "$root" && cargo build --release --package midge-bench)
  bench="${CARGO_TARGET_DIR:-$root/target}/release/midge-bench"
fi
[ -x "$bench" ] || fail "no program $bench"
[ -n "$output" ] || output="$root/bench-results/latency-$(date +%Y-%m-%d-%H%M%S)"

common=(--server "$server" --duration "$duration" --payload "$payload")
[ -z "$pin_load" ] || common+=(--pin-load "$pin_load")

folders=()
invalid=0
run() {
  local name="$1"
  shift
  local status=0
  "$bench" "$@" "${common[@]}" --output "$output/$name" ${more[@]+"${more[@]}"} || status=$?
  # Status 2: measured, but not valid on this host, as table and report say; the rest is still run.
  case "$status" in
    0) ;;
    2) invalid=$((invalid + 1)) ;;
    130) exit 130 ;;
    *) fail "'$name' failed" ;;
  esac
  folders+=("$output/$name")
}

run rate-1k latency --rate 1k
run rate-10k latency --rate 10k --no-floor
run rate-10k-poisson latency --rate 10k --arrival poisson --no-floor
run rate-50k latency --rate 50k --no-floor
run request-1k latency --mode request --rate 1k --no-floor
run request-10k latency --mode request --rate 10k --publishers 50 --no-floor
run sweep sweep --no-floor

"$bench" report "${folders[@]}" --output "$output" >/dev/null || [ "$invalid" -gt 0 ]
echo "report: $output/report.html"
if [ "$invalid" -gt 0 ]; then
  echo "latency.sh: $invalid of ${#folders[@]} runs are not valid on this host" >&2
  exit 2
fi
