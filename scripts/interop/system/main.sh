#!/usr/bin/env bash
# Cases of the system account: the nats command line tool as an operator uses it, and nats-server's own types.
# See ../README.md for what each case promises and for the lines a program exchanges with scripts/interop.sh.
# Usage: main.sh PATH-OF-NATS PATH-OF-MONITOR-TYPES, with the server on server.conf at NATS_URL, its monitoring
# port at NATS_MONITOR, and a nats-server on the same file at REFERENCE_URL and REFERENCE_MONITOR.

set -euo pipefail

readonly nats_tool=$1 monitor_types=$2
# The events and the statistics of two servers, one after the other.
readonly TYPES_SECONDS_MAX=120
# shellcheck source=scripts/interop/tool_cases.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tool_cases.sh"

# nats USER ARGUMENTS...: the tool as a user whose password is its name, without a terminal.
nats() {
    local user=$1
    shift
    timeout "$WAIT_SECONDS_MAX" "$nats_tool" --server "$NATS_URL" --user "$user" --password "$user" \
        --no-context "$@" </dev/null 2>&1
}

# in_background FILE USER ARGUMENTS...: the tool keeps running, its output goes to FILE.
in_background() {
    local output=$1 user=$2
    shift 2
    timeout $((WAIT_SECONDS_MAX * 3)) "$nats_tool" --server "$NATS_URL" --user "$user" \
        --password "$user" --no-context "$@" </dev/null >"$output" 2>&1 &
    background+=($!)
}

# shows TEXT USER ARGUMENTS...: whether the tool succeeds and its output has the text.
shows() {
    local text=$1 output
    shift
    output=$(nats "$@") && grep --quiet --fixed-strings -- "$text" <<<"$output"
}

# expect TEXT ARGUMENTS...: as shows, for the system user, with a complaint.
expect() {
    local text=$1
    shift
    shows "$text" sys "$@" || fail "nats $*: no '$text' in: $(nats sys "$@" | tail -n 3)"
}

# value NAME ARGUMENTS...: the text or number of the first field of this name in the tool's JSON.
value() {
    local name=$1
    shift
    # The tool's output may go on when grep has seen enough.
    { nats sys "$@" || true; } | grep --only-matching --max-count 1 "\"$name\": *[^,}]*" |
        head -n 1 | sed 's/^[^:]*: *//; s/"//g'
}

# A client of account A that stays, and is there.
start_member() {
    in_background "$work/member" a sub --raw system.member --connection-name system-member
    eventually shows system-member sys server report connections --account A ||
        fail "the member is not in the report: $(tail -n 2 "$work/member")"
}

server_list() {
    expect ' interop ' server list || return
    expect 2.15.3 server list || return
    expect interop server ping 1 || return
    # Whoever is not of the system account sees no server.
    if nats a server list >"$work/stranger"; then
        fail "a stranger lists the servers: $(tail -n 2 "$work/stranger")"
    fi
}

server_info() {
    local port=${NATS_URL##*:}
    expect 'Server information for interop' server info || return
    expect "Host: 127.0.0.1:$port" server info || return
    expect 'Maximum Payload: 1.0 MiB' server info
}

reports() {
    start_member || return
    expect 'Top 1 Connections out of 1' server report connections --account A || return
    expect ' SYS ' server report accounts || return
    expect ' A ' server report accounts || return
    expect 'ok (200)' server report health || return
    expect interop server report mem || return
    expect interop server report cpu
}

requests() {
    local subject
    start_member || return
    for subject in variables connections subscriptions routes gateways leafnodes accounts jetstream \
        jetstream-health ipqueue raft; do
        expect '"data":' server request "$subject" || return
    done
    expect '"server_name":"interop"' server request variables || return
    expect '"name":"system-member"' server request connections || return
    expect '"accounts":[' server request accounts || return
    expect '"disabled":true' server request jetstream || return
    # A server of another name is not meant, so nobody answers.
    if shows '"data":' sys server request variables --name nobody; then
        fail "a server of another name answered"
    fi
}

checks() {
    expect 'OK Connection' server check connection || return
    expect 'OK interop' server check server --name interop || return
    if nats sys server check server --name interop --conn-warn 1 --conn-critical 1 >"$work/check"; then
        fail "one connection is no alarm: $(tail -n 1 "$work/check")" || return
    fi
    grep --quiet 'CRITICAL interop' "$work/check" ||
        fail "one connection is no alarm: $(tail -n 1 "$work/check")"
}

top() {
    start_member || return
    nats sys top interop --output "$work/top" --max-refresh 1 >"$work/top.log" ||
        fail "nats top: $(tail -n 1 "$work/top.log")" || return
    grep --quiet 'NATS server version 2.15.3' "$work/top" || fail "nats top shows no server" || return
    grep --quiet system-member "$work/top" || fail "nats top does not show the member"
}

events() {
    in_background "$work/events" sys events --all --short
    eventually came_and_went || fail "no arrival and leave: $(tail -n 3 "$work/events")" || return
    eventually was_refused || fail "no refusal: $(tail -n 3 "$work/events")"
}

# The tool says that it listens before the server knows of it, so this is tried again.
came_and_went() {
    nats a pub system.event hello >/dev/null || true
    grep --quiet '\[Connection\] user: a .*in account A' "$work/events" &&
        grep --quiet '\[Disconnection\] user: a .*in account A' "$work/events"
}

was_refused() {
    timeout "$WAIT_SECONDS_MAX" "$nats_tool" --server "$NATS_URL" --user a --password wrong \
        --no-context pub system.event hello >/dev/null 2>&1 </dev/null || true
    grep --quiet 'Authentication Failure' "$work/events"
}

account_info() {
    shows 'Account: A (A)' a account info || fail "$(nats a account info | head -n 5)" || return
    shows 'User: b' b account info || fail "$(nats b account info | head -n 5)"
}

kick() {
    local client server
    start_member || return
    client=$(nats sys server request connections | grep --only-matching \
        '"cid":[0-9]*,[^}]*"name":"system-member"' | grep --only-matching '[0-9]*' | head -n 1)
    server=$(value id server request variables)
    expect '"server"' server request kick "$client" "$server" || return
    eventually grep --quiet --ignore-case disconnect "$work/member" ||
        fail "client $client was not told to go: $(tail -n 2 "$work/member")" || return
    expect 'no such client' server request kick 999999 "$server"
}

monitor_types() {
    timeout "$TYPES_SECONDS_MAX" "$monitor_types" -tested "$NATS_URL" \
        -tested-monitor "$NATS_MONITOR" -reference "$REFERENCE_URL" \
        -reference-monitor "$REFERENCE_MONITOR" >"$work/types" 2>&1 ||
        { cat "$work/types" >&2 && fail "$(tail -n 1 "$work/types"), first: $(head -n 1 "$work/types")"; }
}

run_cases
