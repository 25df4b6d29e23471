# shellcheck shell=bash
# What the two programs around the nats command line tool share: sourced by cli/main.sh and system/main.sh, which
# define `nats`, `in_background` and a function for each case, and end with `run_cases`.

readonly WAIT_SECONDS_MAX=10
work=$(mktemp -d -t midge-interop-tool.XXXXXX)
# The tool's own contexts and settings must play no part.
export XDG_CONFIG_HOME=$work/config
background=()
# What `fail` said of the case that runs.
complaint=''

clean_up() {
    end_background
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM

end_background() {
    local pid
    for pid in "${background[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    background=()
}

# A case is over at its first complaint: `step || fail ... || return`.
fail() {
    complaint=$*
    return 1
}

# eventually COMMAND...: whether it succeeds before the deadline.
eventually() {
    local deadline=$((SECONDS + WAIT_SECONDS_MAX))
    until "$@"; do
        ((SECONDS <= deadline)) || return 1
        sleep 0.05
    done
}

run_cases() {
    local name
    for name in $INTEROP_CASES; do
        complaint=''
        rm -rf "${work:?}"/*
        "$name" || complaint=${complaint:-failed}
        end_background
        if [[ -z $complaint ]]; then
            printf 'RESULT %s pass\n' "$name"
        else
            printf 'RESULT %s fail %s\n' "$name" "$(tr '\n' ' ' <<<"$complaint")"
        fi
    done
}
