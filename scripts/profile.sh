#!/usr/bin/env bash
# Draws a flame graph of a Midge shard under the standard load, in one command.
set -euo pipefail

readonly INFERNO_VERSION=0.12.8
readonly START_SECONDS_MAX=15

usage() {
  cat <<'TEXT'
Usage: scripts/profile.sh [options]

Builds Midge and the harness, starts Midge with one shard, puts a load on it, samples the process with
`perf record`, and draws a flame graph: one SVG file that needs nothing else.

  --run WORKLOAD      what midge-bench runs
                      (default "throughput --payload 128 --publishers 4 --subscribers 4")
  --duration TIME     of the load (default 10s)
  --frequency HERTZ   samples per second and thread (default 499)
  --flags FLAGS       more flags of Midge, such as "--busy-poll 50"
  --pin-server CORE   core of the shard (default 0)
  --pin-load CORES    cores of the load (default: all others; 0 on a host with one core)
  --output FILE       where the picture goes (default bench-results/profile-DATE.svg)
  --midge PROGRAM     use this Midge instead of building one
  --bench PROGRAM     use this midge-bench instead of building one
  --help              this text

It needs `perf` (Debian: linux-perf) and the right to use it. The drawing tool, inferno, is installed once by
`cargo install` into $MIDGE_TOOLS_CACHE, by default ${XDG_CACHE_HOME:-$HOME/.cache}/midge-tools.
TEXT
}

fail() {
  echo "profile.sh: $1" >&2
  exit 1
}

run="throughput --payload 128 --publishers 4 --subscribers 4"
duration=10s
frequency=499
flags=""
pin_server=0
pin_load=""
output=""
midge=""
bench=""
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --run | --duration | --frequency | --flags | --pin-server | --pin-load | --output | --midge | --bench)
      [ $# -ge 2 ] || fail "$1 needs a value"
      name="${1#--}"
      printf -v "${name//-/_}" '%s' "$2"
      shift 2
      ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cache="${MIDGE_TOOLS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/midge-tools}"
work="$(mktemp -d -t midge-profile.XXXXXX)"
server=""

clean_up() {
  if [ -n "$server" ] && kill "$server" 2>/dev/null; then
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

command -v perf >/dev/null || fail "no perf on PATH: install it (Debian: apt install linux-perf)"
if ! perf record --output "$work/try" -- true >"$work/try.log" 2>&1; then
  cat "$work/try.log" >&2
  fail "perf may not record here. As root: sysctl kernel.perf_event_paranoid=1 (now $(
    cat /proc/sys/kernel/perf_event_paranoid 2>/dev/null || echo unknown)); in a container it also needs CAP_PERFMON"
fi

if [ ! -x "$cache/bin/inferno-flamegraph" ] || [ "$(cat "$cache/inferno-version" 2>/dev/null)" != "$INFERNO_VERSION" ]; then
  command -v cargo >/dev/null || fail "no cargo on PATH to install inferno with"
  echo "installing inferno $INFERNO_VERSION into $cache"
  cargo install --quiet --locked --root "$cache" --version "$INFERNO_VERSION" inferno ||
    fail "inferno $INFERNO_VERSION could not be installed"
  echo "$INFERNO_VERSION" >"$cache/inferno-version"
fi

if [ -z "$midge" ] || [ -z "$bench" ]; then
  (cd "$root" && cargo build --release --bin midge --bin midge-bench)
  target="${CARGO_TARGET_DIR:-$root/target}"
  midge="${midge:-$target/release/midge}"
  bench="${bench:-$target/release/midge-bench}"
fi
[ -x "$midge" ] || fail "no program $midge"
[ -x "$bench" ] || fail "no program $bench"
if [ -z "$pin_load" ]; then
  cores="$(nproc --all)"
  if [ "$cores" -gt 1 ]; then pin_load="1-$((cores - 1))"; else pin_load=0; fi
fi
[ -n "$output" ] || output="$root/bench-results/profile-$(date +%Y-%m-%d-%H%M%S).svg"
mkdir -p "$(dirname "$output")"

# Midge picks a free port and writes it down.
# shellcheck disable=SC2086 # --flags are words
"$midge" --addr 127.0.0.1 --port -1 --ports_file_dir "$work" --shards 1 --cores "$pin_server" $flags \
  >"$work/server.log" 2>&1 &
server=$!
deadline=$((SECONDS + START_SECONDS_MAX))
until url="$(cat "$work"/*.ports 2>/dev/null | grep --only-matching --max-count=1 'nats://[^"]*')"; do
  if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -gt "$deadline" ]; then
    cat "$work/server.log" >&2
    fail "Midge did not start"
  fi
  sleep 0.05
done

# The stacks are unwound from the debug information of the release build: no other build is needed.
read -r -a words <<<"$run"
status=0
perf record --quiet --pid "$server" --freq "$frequency" --call-graph dwarf,16384 --output "$work/data" -- \
  "$bench" "${words[@]}" --server "$url" --server-pid "$server" --duration "$duration" \
  --pin-load "$pin_load" --no-floor || status=$?
[ "$status" -eq 0 ] || [ "$status" -eq 2 ] || fail "the load or perf ended with status $status"

echo "reading the samples"
# Inlined frames would start one addr2line for each sample.
perf script --no-inline --input "$work/data" >"$work/stacks" 2>"$work/script.log"
"$cache/bin/inferno-collapse-perf" <"$work/stacks" >"$work/folded" 2>"$work/collapse.log"
if [ ! -s "$work/folded" ]; then
  cat "$work/script.log" "$work/collapse.log" >&2
  fail "perf took no sample: was the server idle?"
fi
"$cache/bin/inferno-flamegraph" --title "midge: $run" <"$work/folded" >"$output"
echo "flame graph: $output"
