#!/usr/bin/env bash
# Measures the effect of bcrypt logins on the latency of others: the same pair without and during a login storm.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/login-storm.sh [options]

Starts a server with one plain and one bcrypt user, measures a publisher and a subscriber at a steady rate,
then again while LOGINS clients log in with the bcrypt password at once, over and over for the whole
measurement, and prints both percentiles and their ratio. Rounds alternate; medians are reported. A round with a
measurement that the harness finds invalid is left out, and the script then ends with status 2.

  --server PROGRAM  default: this tree's release build; or any nats-server
  --logins N        clients that log in at one time (default 200)
  --cost N          of the bcrypt hash: 10 or 11 (default 11, what `nats server passwd` writes)
  --rate N          messages per second of the healthy pair (default 2000)
  --duration TIME   of each measurement (default 10s)
  --rounds N        default 3
  --pin-server CORES, --pin-load CORES
                    cores of the server, and of the pair with the storm, which takes what the pair leaves
                    over (default: not pinned)
  --bench PROGRAM   use this midge-bench instead of building one
  --help            this text
TEXT
}

fail() {
  echo "login-storm.sh: $1" >&2
  exit 1
}

server="" logins=200 cost=11 rate=2000 duration=10s rounds=3 pin_server="" pin_load="" bench=""
while [ $# -gt 0 ]; do
  case "$1" in
    --help) usage; exit 0 ;;
    --server | --logins | --cost | --rate | --duration | --rounds | --pin-server | --pin-load | --bench)
      [ $# -ge 2 ] || fail "$1 needs a value"
      name="${1#--}"
      printf -v "${name//-/_}" '%s' "$2"
      shift 2
      ;;
    *) fail "unknown option '$1' (see --help)" ;;
  esac
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}/release"
if [ -z "$bench" ]; then
  (cd "$root" && cargo build --release --package midge-bench)
  bench="$target/midge-bench"
fi
if [ -z "$server" ]; then
  (cd "$root" && cargo build --release --package midge --bin midge)
  server="$target/midge"
fi
[ -x "$bench" ] || fail "no program $bench"
[ -x "$server" ] || fail "no program $server"

# Hashes of the password "storm".
case "$cost" in
  10) hash='$2a$10$rPbzUEvkaw7T1R54oR/E9OQRC4DfCVAAAHrg/CLa18Te8pAsD43zm' ;;
  11) hash='$2a$11$aU5HuLlyK8x5jM.7SKoj6u6CL6pjLEnn.6SNPA.CUONEuAvC26oby' ;;
  *) fail "no hash of cost $cost here" ;;
esac

work="$(mktemp -d -t login-storm.XXXXXX)"
server_pid="" storm_pid=""
clean_up() {
  for pid in $storm_pid $server_pid; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap clean_up EXIT

cat >"$work/server.conf" <<CONF
listen: "127.0.0.1:-1"
authorization {
  timeout: 60
  users: [ {user: pair, password: pair}, {user: storm, password: "$hash"} ]
}
CONF
pinned=()
[ -z "$pin_server" ] || pinned=(taskset --cpu-list "$pin_server")
"${pinned[@]}" "$server" -c "$work/server.conf" >"$work/log" 2>&1 &
server_pid=$!
deadline=$((SECONDS + 15))
until grep --quiet 'Server is ready' "$work/log"; do
  kill -0 "$server_pid" 2>/dev/null && [ $SECONDS -le $deadline ] || fail "no server: $(<"$work/log")"
  sleep 0.02
done
port="$(sed --quiet 's/.*Listening for client connections on .*:\([0-9]*\)$/\1/p' "$work/log" | head -n 1)"

# All clients log in at once; when each has its answer they disconnect, and start again.
storm() {
  # The parent's trap must not run here.
  trap - EXIT
  # If it shares the pair's core it must not make the pair's sends late.
  chrt --idle --pid 0 "$BASHPID" >/dev/null
  [ -z "$pin_load" ] || taskset --cpu-list --pid "$pin_load" "$BASHPID" >/dev/null
  local sockets socket line
  while true; do
    sockets=()
    for ((index = 0; index < logins; index++)); do
      exec {socket}<>"/dev/tcp/127.0.0.1/$port"
      printf 'CONNECT {"verbose":false,"user":"storm","pass":"storm"}\r\nPING\r\n' >&"$socket"
      sockets+=("$socket")
    done
    for socket in "${sockets[@]}"; do
      while read -r -t 120 line <&"$socket"; do
        case "$line" in
          PONG*) printf '%s\n' "$EPOCHREALTIME" >>"$work/logins"; break ;;
          -ERR*) printf '%s\n' "$line" >>"$work/refused"; break ;;
        esac
      done
      exec {socket}>&-
    done
  done
}

load=(latency --server "nats://pair:pair@127.0.0.1:$port" --server-pid "$server_pid" --rate "$rate"
  --duration "$duration" --pacer sleep --no-floor)
[ -z "$pin_load" ] || load+=(--pin-load "$pin_load")

# measure NAME: prints the healthy pair's 99th percentile in microseconds, or nothing if the run is not valid.
measure() {
  local status=0
  "$bench" "${load[@]}" >"$work/$1" 2>&1 || status=$?
  case "$status" in
    0) ;;
    2) grep '^INVALID: ' "$work/$1" >&2 || true; return 0 ;;
    *) fail "the measurement failed: $(<"$work/$1")" ;;
  esac
  awk '/^latency p99 / { scale["ns"] = 0.001; scale["us"] = 1; scale["ms"] = 1000; scale["s"] = 1000000
    printf "%.1f\n", $3 * scale[$4]; exit }' "$work/$1"
}

median() {
  sort --general-numeric-sort | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'
}

quiet=() stormy=()
for ((round = 1; round <= rounds; round++)); do
  before="$(measure quiet)"
  : >"$work/logins"
  : >"$work/refused"
  storm &
  storm_pid=$!
  during="$(measure stormy)"
  kill "$storm_pid"
  wait "$storm_pid" 2>/dev/null || true
  storm_pid=""
  told="$(wc -l <"$work/logins") logins done, $(wc -l <"$work/refused") refused"
  if [ -z "$before" ] || [ -z "$during" ]; then
    echo "round $round: INVALID, left out: p99 ${before:-invalid}, in the storm ${during:-invalid}; $told"
    continue
  fi
  quiet+=("$before")
  stormy+=("$during")
  echo "round $round: p99 $before us, in the storm $during us; $told"
done
if [ "${#quiet[@]}" -gt 0 ]; then
  before="$(printf '%s\n' "${quiet[@]}" | median)"
  during="$(printf '%s\n' "${stormy[@]}" | median)"
  echo "median p99: $before us, in the storm $during us"
  awk -v before="$before" -v during="$during" 'BEGIN { printf "ratio: %.2f\n", during / before }'
fi
if [ "${#quiet[@]}" -lt "$rounds" ]; then
  echo "login-storm.sh: $((rounds - ${#quiet[@]})) of $rounds rounds are not valid on this host" >&2
  exit 2
fi
