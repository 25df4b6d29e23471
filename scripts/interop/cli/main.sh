#!/usr/bin/env bash
# Interoperability cases of the nats command line tool. See ../README.md for what each case promises
# and for the lines a program exchanges with scripts/interop.sh. Usage: main.sh PATH-OF-NATS

set -euo pipefail

readonly nats_tool=$1
# shellcheck source=scripts/interop/tool_cases.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tool_cases.sh"

# nats ARGUMENTS...: the tool, with its server and without a terminal.
nats() {
    timeout "$WAIT_SECONDS_MAX" "$nats_tool" --server "$NATS_URL" --no-context "$@" </dev/null 2>&1
}

# in_background FILE ARGUMENTS...: the tool keeps running, its output goes to FILE.
in_background() {
    local output=$1
    shift
    timeout $((WAIT_SECONDS_MAX * 3)) "$nats_tool" --server "$NATS_URL" --no-context "$@" \
        </dev/null >"$output" 2>&1 &
    background+=($!)
}

# holds FILE TEXT: whether the file has a line that is this text.
holds() {
    grep --quiet --line-regexp --fixed-strings -- "$2" "$1"
}

# counts FILE TEXT NUMBER: whether so many lines are this text.
counts() {
    (($(grep --count --line-regexp --fixed-strings -- "$2" "$1") == $3))
}

# publish_once_and_see FILE SUBJECT: whether the subscriber that writes FILE is there. The tool says
# that it subscribes before the server knows of it, so this is tried until the first message comes.
publish_once_and_see() {
    nats pub --quiet "$2" started >/dev/null && holds "$1" started
}

publish_subscribe() {
    in_background "$work/sub" sub --raw cli.publish
    eventually publish_once_and_see "$work/sub" cli.publish ||
        fail "nats sub received nothing: $(tail -n 1 "$work/sub")" || return
    nats pub --quiet --count 100 cli.publish 'message {{ Count }}' >/dev/null
    eventually holds "$work/sub" 'message 100' || fail "message 100 did not arrive" || return
    local expected
    expected=$(printf 'message %d\n' {1..100})
    [[ $(grep '^message ' "$work/sub") == "$expected" ]] ||
        fail "the messages came in another order"
}

wildcards() {
    in_background "$work/star" sub --raw 'cli.wild.*'
    in_background "$work/tail" sub --raw 'cli.>'
    eventually publish_once_and_see "$work/star" cli.wild.start || fail "no message to *" || return
    eventually publish_once_and_see "$work/tail" cli.wild.start || fail "no message to >" || return
    nats pub --quiet cli.wild.one.two deep >/dev/null
    nats pub --quiet cli.wild.one shallow >/dev/null
    eventually holds "$work/star" shallow || fail "cli.wild.one is missing from *" || return
    eventually holds "$work/tail" shallow || fail "cli.wild.one is missing from >" || return
    holds "$work/tail" deep || fail "cli.wild.one.two is missing from >" || return
    counts "$work/star" deep 0 || fail "cli.wild.one.two came to *"
}

request_reply() {
    in_background "$work/reply" reply cli.service --echo
    eventually answers || fail "no answer: $(nats request --raw cli.service ping)" || return
    local number
    for number in {1..10}; do
        [[ $(nats request --raw cli.service "question $number") == "question $number" ]] ||
            fail "question $number was not echoed" || return
    done
}

answers() {
    [[ $(nats request --raw cli.service ping) == ping ]]
}

no_responders() {
    local output
    output=$(nats request cli.nobody 'anyone?' || true)
    [[ ${output,,} == *'no responders'* ]] || fail "expected no responders, got: $output"
}

queue_groups() {
    local member total
    for member in 1 2 3 4; do
        in_background "$work/member$member" sub --raw --queue workers cli.work
    done
    for member in 1 2 3 4; do
        eventually publish_once_and_see "$work/member$member" cli.work ||
            fail "member $member received nothing" || return
    done
    nats pub --quiet --count 400 cli.work work >/dev/null
    eventually shared_out 400 || fail "the group got $(work_count) of 400 messages" || return
    for member in 1 2 3 4; do
        total=$(grep --count --line-regexp work "$work/member$member")
        # 100 are expected; less than 50 or more than 150 is more than five deviations off.
        ((total >= 50 && total <= 150)) || fail "member $member got $total of 400" || return
    done
}

work_count() {
    cat "$work"/member* | grep --count --line-regexp work
}

shared_out() {
    (($(work_count) == $1))
}

headers() {
    in_background "$work/sub" sub cli.headers
    eventually publish_once_and_see "$work/sub" cli.headers || fail "nats sub got nothing" || return
    nats pub --quiet -H 'Trace-Id:a b' -H 'Accept:first' cli.headers 'with headers' >/dev/null
    eventually holds "$work/sub" 'with headers' || fail "the message did not arrive" || return
    holds "$work/sub" 'Trace-Id: a b' || fail "Trace-Id is missing" || return
    holds "$work/sub" 'Accept: first' || fail "Accept is missing"
}

max_payload() {
    in_background "$work/sub" sub --raw cli.large
    eventually publish_once_and_see "$work/sub" cli.large || fail "nats sub got nothing" || return
    head --bytes 1048576 /dev/zero | tr '\0' x >"$work/payload"
    "$nats_tool" --server "$NATS_URL" --no-context pub --quiet --no-templates --force-stdin \
        cli.large <"$work/payload" >"$work/pub" 2>&1 || fail "$(tail -n 1 "$work/pub")" || return
    eventually holds_payload || fail "1048576 bytes did not arrive whole" || return
    printf x >>"$work/payload"
    if "$nats_tool" --server "$NATS_URL" --no-context pub --quiet --no-templates --force-stdin \
        cli.large <"$work/payload" >"$work/pub" 2>&1; then
        fail "one byte more raised no error" || return
    fi
    grep --quiet --ignore-case 'maximum payload' "$work/pub" ||
        fail "one byte more: $(tail -n 1 "$work/pub")"
}

holds_payload() {
    [[ $(grep xxx "$work/sub" | wc --bytes) == 1048577 ]]
}

bench() {
    in_background "$work/bench" bench sub cli.bench --clients 2 --msgs 20000 --size 128 --no-progress
    local subscriber=${background[-1]}
    # Each of the two subscribers waits for 20000 messages: run publishers until both are done.
    eventually published_until_done "$subscriber" || fail "nats bench sub did not end" || return
    wait "$subscriber" || fail "nats bench sub: $(tail -n 1 "$work/bench")" || return
    background=()
    grep --quiet 'msgs/sec' "$work/bench" || fail "nats bench sub reported no rate"
}

published_until_done() {
    nats bench pub cli.bench --clients 2 --msgs 20000 --size 128 --no-progress >"$work/bench.pub" &&
        grep --quiet 'msgs/sec' "$work/bench.pub" && ! kill -0 "$1" 2>/dev/null
}

round_trip() {
    local output
    output=$(nats rtt 5) || fail "nats rtt: $output" || return
    [[ $output == *"${NATS_URL}"* ]] || fail "nats rtt did not name the server: $output"
}

# Whoever listens is named, and gets nothing unless it is asked for.
traces() {
    in_background "$work/traced" sub --connection-name listener cli.traced
    eventually publish_once_and_see "$work/traced" cli.traced || fail "nats sub got nothing" || return
    local output
    output=$(nats trace cli.traced 'only traced') || fail "nats trace: $output" || return
    [[ $output == *listener* ]] || fail "nats trace does not name the listener: $output" || return
    output=$(nats trace --deliver cli.traced delivered) || fail "nats trace: $output" || return
    eventually holds "$work/traced" delivered || fail "the message did not arrive" || return
    counts "$work/traced" 'only traced' 0 || fail "what was only traced arrived"
}

run_cases
