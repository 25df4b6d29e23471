#!/usr/bin/env bash
# Runs the official NATS clients of six languages, and the nats CLI, against a server, and checks what the server
# reports about itself against nats-server's own types.
#
# Each client is installed from its own registry into a cache outside the tree and drives the same
# cases (scripts/interop/README.md). By default the server is Midge, started under the name
# nats-server once with one shard and once with three; then the recorded transcripts are replayed
# against a real nats-server, so that they stay true to it, and the harness's tests are run against it,
# with a report of midge-bench opened in a real browser.

set -euo pipefail

readonly NATS_SERVER_VERSION=v2.15.3
readonly NATS_CLI_VERSION=v0.5.1
# NAME_ws is the program of NAME over WebSocket.
readonly LANGUAGES=(go python js java c rust cli system go_ws python_ws js_ws rust_ws)
# Cases of every language's client, and those of the command line tool or of a single language.
readonly CLIENT_CASES=(publish_subscribe wildcards request_reply no_responders queue_groups headers
    flush_fence drain max_payload reconnect lame_duck close_callbacks)
# shellcheck disable=SC2034 # used through a name reference in cases_of
readonly HELLO_CASES=("${CLIENT_CASES[@]}" hello_world)
# shellcheck disable=SC2034 # used through a name reference in cases_of
readonly SECURE_CASES=("${CLIENT_CASES[@]}" hello_world tls_password tls_nkey)
# shellcheck disable=SC2034 # used through a name reference in cases_of
readonly CLI_CASES=(publish_subscribe wildcards request_reply no_responders queue_groups headers
    max_payload bench round_trip traces)
# Cases of the system account, with the command line tool and nats-server's types: run as if they were a language.
readonly SYSTEM_CASES=(server_list server_info reports requests checks top events account_info kick
    monitor_types)
readonly ALL_CASES=("${CLIENT_CASES[@]}" hello_world tls_password tls_nkey bench round_trip traces
    "${SYSTEM_CASES[@]}")

# 32 bytes of 7, as a seed and as its public key.
readonly NKEY_SEED=SUAAOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOBYHA4DQOBZ5FE
readonly NKEY_PUBLIC=UDVEU3DD4KOFECV66VIHWEZOYX4ZKR3WV27L464SIIPOU2IUI3JCYSJF

readonly DEFAULT_PORT=4222
readonly SERVER_START_SECONDS_MAX=15
readonly SERVER_STOP_SECONDS_MAX=15
# For one program with all its cases. The longest wait of a single case is ten seconds.
readonly PROGRAM_SECONDS_MAX=180

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly programs=$root/scripts/interop
# Its programs are run as they stand there.
readonly first_page=$root/docs/src/getting-started.md
readonly cache=${MIDGE_INTEROP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/midge-interop}

usage() {
    cat <<EOF
Usage: scripts/interop.sh [OPTIONS]

  --server PATH       test this server binary instead of Midge; it gets nats-server's flags only
  --shards LIST       shard counts to run Midge with (default: 1,3)
  --only LIST         only these languages: ${LANGUAGES[*]}
  --cases LIST        only these cases: ${ALL_CASES[*]}
  --no-transcripts    run nothing against the real nats-server: neither the transcripts nor the harness's tests
  --install-only      install the clients and the real nats-server, run nothing
  --help              show this

LIST is separated by commas. The clients are kept in \$MIDGE_INTEROP_CACHE, by default
\${XDG_CACHE_HOME:-\$HOME/.cache}/midge-interop; remove it to install them afresh. Only a full run, without
--server, --only and --cases, also replays the transcripts, runs the harness's tests, and checks Midge with
Prometheus and a browser.
EOF
}

main() {
    read_arguments "$@"
    work=$(mktemp -d -t midge-interop.XXXXXX)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # A program that has died must not take the script with it.
    trap : PIPE
    mkdir -p "$cache"/{bin,logs,stamps} "$work/server"

    install_all
    if [[ $install_only == yes ]]; then
        ((${#not_installed[@]} == 0))
        return
    fi

    if [[ -n $server_path ]]; then
        link_server "$server_path"
        server_flags=()
        run_configuration "${server_path##*/}"
    else
        note "building Midge"
        (cd "$root" && cargo build --release --bin midge)
        link_server "${CARGO_TARGET_DIR:-$root/target}/release/midge"
        local count
        for count in "${shard_counts[@]}"; do
            server_flags=(--shards "$count")
            run_configuration "midge --shards $count"
        done
    fi
    if [[ $replay_transcripts == yes ]]; then
        replay_against_real_server
        watch_midge
        check_harness
    fi
    report
}

read_arguments() {
    server_path='' replay_transcripts=yes install_only=no
    shard_counts=(1 3)
    languages=("${LANGUAGES[@]}")
    wanted_cases=("${ALL_CASES[@]}")
    local option
    while (($# > 0)); do
        option=$1
        shift
        case $option in
            --help) usage && exit 0 ;;
            --no-transcripts) replay_transcripts=no && continue ;;
            --install-only) install_only=yes && continue ;;
            --server | --shards | --only | --cases) ;;
            *) refuse "unknown option $option" ;;
        esac
        (($# > 0)) || refuse "$option needs a value"
        case $option in
            --server)
                [[ -x $1 && -f $1 ]] || refuse "$1 is no program"
                server_path=$(realpath "$1") replay_transcripts=no
                ;;
            --shards)
                IFS=, read -r -a shard_counts <<<"$1"
                ;;
            --only)
                IFS=, read -r -a languages <<<"$1"
                refuse_strangers language "${LANGUAGES[*]}" "${languages[@]}"
                replay_transcripts=no
                ;;
            --cases)
                IFS=, read -r -a wanted_cases <<<"$1"
                refuse_strangers case "${ALL_CASES[*]}" "${wanted_cases[@]}"
                replay_transcripts=no
                ;;
        esac
        shift
    done
}

refuse() {
    printf 'interop.sh: %s (see --help)\n' "$1" >&2
    exit 2
}

# refuse_strangers KIND "KNOWN NAMES" NAME...
refuse_strangers() {
    local kind=$1 known=" $2 " name
    shift 2
    (($# > 0)) || refuse "no $kind given"
    for name in "$@"; do
        [[ $known == *" $name "* ]] || refuse "unknown $kind '$name'"
    done
}

note() {
    printf '==> %s\n' "$*"
}

clean_up() {
    local pid
    for pid in "${program_pid:-}" "${install_pid:-}" "${server_pid:-}" "${secure_pid:-}" "${reference_pid:-}"; do
        if [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; then
            kill "$pid" 2>/dev/null || true
            wait_for_exit "$pid" 5 || kill -KILL "$pid" 2>/dev/null || true
        fi
    done
    rm -rf "$work"
}

# wait_for_exit PID SECONDS: succeeds if the process ended in time.
wait_for_exit() {
    local deadline=$((SECONDS + $2))
    while kill -0 "$1" 2>/dev/null; do
        ((SECONDS <= deadline)) || return 1
        sleep 0.02
    done
}

# --- Installing -----------------------------------------------------------------------------------

declare -A not_installed=()

install_all() {
    # Two runs at once would write the same files.
    exec {lock}>"$cache/lock"
    flock "$lock"
    local part
    for part in "${languages[@]}"; do
        install_part "${part%_ws}"
    done
    if [[ $replay_transcripts == yes || $install_only == yes || " ${languages[*]} " == *' system '* ]]; then
        install_part server
        install_part browser
    fi
    exec {lock}>&-
}

# Runs install_NAME unless its inputs are those of the last time. A failure is kept in not_installed
# and fails every case of that language.
install_part() {
    local part=$1 log=$cache/logs/install-$1.log stamp started=$SECONDS
    stamp=$(stamp_of "$part")
    if [[ -f $cache/stamps/$part && $(<"$cache/stamps/$part") == "$stamp" ]]; then
        return
    fi
    note "installing $part"
    # In the background: so that errexit holds inside, and the trap can end it.
    (
        exec {lock}>&-
        "install_$part"
    ) >"$log" 2>&1 </dev/null &
    install_pid=$!
    if wait "$install_pid"; then
        printf '%s\n' "$stamp" >"$cache/stamps/$part"
        note "installed $part in $((SECONDS - started)) s"
    else
        not_installed[$part]="could not be installed, see $log"
        note "$part could not be installed; the end of $log:"
        tail -n 25 "$log" | sed 's/^/    /'
    fi
    install_pid=''
}

# Everything that decides what install_NAME makes: its recipe, its files, its tools' versions.
stamp_of() {
    {
        declare -f "install_$1"
        printf '%s\n' "$NATS_SERVER_VERSION" "$NATS_CLI_VERSION" "$cache"
        case $1 in
            go) go version && cat "$first_page" ;;
            cli | server | system) go version ;;
            python) python3 --version ;;
            js) node --version ;;
            java) java -version ;;
            c) gcc --version && dpkg-query --show libnats-dev ;;
            rust) rustc --version && cat "$first_page" ;;
            browser) command -v chromium ;;
        esac
        if [[ $1 == system ]]; then
            find "$programs/monitor-types" -type f -print0 | sort --zero-terminated | xargs --null cat
        fi
        if [[ -d $programs/$1 ]]; then
            find "$programs/$1" -type f -print0 | sort --zero-terminated | xargs --null cat
        fi
    } 2>&1 | sha256sum | cut -d ' ' -f 1
}

# Debian's packages, when a program or library of theirs is missing.
install_debian() {
    if ((EUID != 0)); then
        printf 'these Debian packages are missing, and only root can install them: %s\n' "$*"
        return 1
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

install_server() {
    GOBIN=$cache/bin go install "github.com/nats-io/nats-server/v2@$NATS_SERVER_VERSION"
    "$cache/bin/nats-server" --version
}

install_cli() {
    GOBIN=$cache/bin go install "github.com/nats-io/natscli/nats@$NATS_CLI_VERSION"
    "$cache/bin/nats" --version
}

# The tool and the types; the nats-server to compare with is installed separately.
install_system() {
    install_cli
    cd "$programs/monitor-types"
    go build -o "$cache/bin/monitor-types" .
}

install_browser() {
    if ! command -v chromium; then
        install_debian chromium
    fi
    chromium --version
}

install_go() {
    cd "$programs/go"
    go build -o "$cache/go/" .
    rm -rf "$cache/go-hello"
    mkdir "$cache/go-hello"
    cp go.mod go.sum "$cache/go-hello"
    hello_program go >"$cache/go-hello/main.go"
    cd "$cache/go-hello"
    go build -o "$cache/go/hello" .
}

install_python() {
    if ! python3 -c 'import venv, ensurepip'; then
        install_debian python3-venv
    fi
    rm -rf "$cache/python"
    python3 -m venv "$cache/python"
    "$cache/python/bin/pip" install --requirement "$programs/python/requirements.txt"
    "$cache/python/bin/python" -c 'import nats'
}

install_js() {
    # Copied, because Node looks for packages beside the program.
    rm -rf "$cache/js"
    cp -r "$programs/js" "$cache/js"
    cd "$cache/js"
    npm ci --no-audit --no-fund
}

install_java() {
    if ! command -v mvn; then
        install_debian maven
    fi
    if ! command -v javac; then
        install_debian default-jdk-headless
    fi
    rm -rf "$cache/java"
    mkdir -p "$cache/java/classes"
    mvn --batch-mode --file "$programs/java/pom.xml" dependency:copy-dependencies \
        -DoutputDirectory="$cache/java/lib"
    javac -d "$cache/java/classes" -classpath "$cache/java/lib/*" "$programs"/java/*.java
}

install_c() {
    if ! dpkg-query --show --showformat '${Status}' libnats-dev | grep --quiet 'ok installed' ||
        ! command -v gcc; then
        install_debian libnats-dev gcc libc6-dev
    fi
    mkdir -p "$cache/c"
    gcc -std=c17 -O1 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$cache/c/interop" \
        "$programs"/c/*.c -lnats -lpthread
}

install_rust() {
    cargo build --locked --manifest-path "$programs/rust/Cargo.toml" --target-dir "$cache/rust"
    rm -rf "$cache/rust-hello"
    mkdir -p "$cache/rust-hello/src"
    local file
    for file in Cargo.toml Cargo.lock; do
        sed 's/^name = "interop"$/name = "hello"/' "$programs/rust/$file" >"$cache/rust-hello/$file"
    done
    hello_program rust >"$cache/rust-hello/src/main.rs"
    cargo build --locked --manifest-path "$cache/rust-hello/Cargo.toml" --target-dir "$cache/rust"
}

# hello_program LANGUAGE: the program that the documentation gives to newcomers.
hello_program() {
    sed --quiet "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$first_page" | sed '1d;$d'
}

# --- The server -----------------------------------------------------------------------------------

link_server() {
    ln -s "$1" "$work/server/nats-server"
}

# A port below the kernel's range for outgoing connections: a client that keeps dialling a stopped
# server there could end up connected to itself.
pick_port() {
    local try
    for try in {1..100}; do
        port=$((10000 + RANDOM % 20000))
        if ! is_port_taken "$port"; then
            return
        fi
    done
    note "no free port found in $try tries"
    return 1
}

is_port_taken() {
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# start_server [FLAGS...]: returns once the log says that the server is ready, as client test harnesses do.
start_server() {
    server_log=$cache/logs/server-$language.log
    : >"$work/server.log"
    "$work/server/nats-server" --addr 127.0.0.1 "$@" "${server_flags[@]}" \
        >"$work/server.log" 2>&1 </dev/null &
    server_pid=$! server_in_lame_duck=no
    local deadline=$((SECONDS + SERVER_START_SECONDS_MAX))
    until grep --quiet 'Server is ready' "$work/server.log"; do
        if ! kill -0 "$server_pid" 2>/dev/null || ((SECONDS > deadline)); then
            server_complaint="the server did not start, see $server_log"
            cat "$work/server.log" >>"$server_log"
            note "the server did not start; its log:"
            sed 's/^/    /' "$work/server.log"
            return 1
        fi
        sleep 0.02
    done
}

# A second server with TLS, passwords and nkeys, for the cases about those.
start_secure_server() {
    secure_pid=''
    [[ " $* " == *" tls_"* ]] || return 0
    make_certificates
    local main_port=$port
    pick_port
    secure_port=$port port=$main_port
    cat >"$work/secure.conf" <<EOF
listen: "127.0.0.1:$secure_port"
tls { cert_file: "$work/server.pem", key_file: "$work/server-key.pem" }
authorization { users: [ {user: app, password: "s3cret"}, {nkey: $NKEY_PUBLIC} ] }
EOF
    : >"$work/secure.log"
    "$work/server/nats-server" -c "$work/secure.conf" "${server_flags[@]}" \
        >"$work/secure.log" 2>&1 </dev/null &
    secure_pid=$!
    local deadline=$((SECONDS + SERVER_START_SECONDS_MAX))
    until grep --quiet 'Server is ready' "$work/secure.log"; do
        if ! kill -0 "$secure_pid" 2>/dev/null || ((SECONDS > deadline)); then
            note "the server with TLS did not start; its log:"
            sed 's/^/    /' "$work/secure.log"
            return 0
        fi
        sleep 0.02
    done
}

stop_secure_server() {
    [[ -n ${secure_pid:-} ]] || return 0
    kill -TERM "$secure_pid" 2>/dev/null || true
    wait_for_exit "$secure_pid" "$SERVER_STOP_SECONDS_MAX" || kill -KILL "$secure_pid" || true
    secure_pid=''
    cat "$work/secure.log" >>"$server_log"
}

# An authority and a certificate for localhost, once per run.
make_certificates() {
    [[ ! -e $work/server.pem ]] || return 0
    command -v openssl >/dev/null || install_debian openssl
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -keyout "$work/ca-key.pem" -out "$work/ca.pem" -subj '/CN=interop authority' 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$work/server-key.pem" -out "$work/server.csr" -subj '/CN=localhost' 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >"$work/server.ext"
    openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca-key.pem" \
        -CAcreateserial -days 2 -out "$work/server.pem" -extfile "$work/server.ext" 2>/dev/null
}

# Stops it as an operator would, and expects it to end with status 0.
stop_server() {
    local signal=TERM status=0
    [[ -n ${server_pid:-} ]] || return 0
    # In lame duck mode the server ignores SIGTERM.
    if [[ $server_in_lame_duck == yes ]]; then signal=INT; fi
    kill -"$signal" "$server_pid" 2>/dev/null || true
    if ! wait_for_exit "$server_pid" "$SERVER_STOP_SECONDS_MAX"; then
        server_complaint="the server did not end within $SERVER_STOP_SECONDS_MAX s of SIG$signal"
        kill -KILL "$server_pid" 2>/dev/null || true
    fi
    wait "$server_pid" || status=$?
    if ((status != 0)) && [[ -z $server_complaint ]]; then
        server_complaint="the server ended with status $status on SIG$signal"
    fi
    server_pid=''
    cat "$work/server.log" >>"$server_log"
}

# --- Running --------------------------------------------------------------------------------------

declare -A results=()
configurations=()

# All languages against the server started with server_flags.
run_configuration() {
    configuration=$1
    configurations+=("$configuration")
    note "running against $configuration"
    local language started
    for language in "${languages[@]}"; do
        started=$SECONDS
        run_language
        printf '    %-8s %3d s\n' "$language" $((SECONDS - started))
    done
    print_table
}

# The cases of a language that were asked for, in order.
cases_of() {
    local -n own_cases=CLIENT_CASES
    case $1 in
        go | rust) local -n own_cases=HELLO_CASES ;;
        python | js) local -n own_cases=SECURE_CASES ;;
        cli) local -n own_cases=CLI_CASES ;;
        system) local -n own_cases=SYSTEM_CASES ;;
    esac
    local name
    for name in "${own_cases[@]}"; do
        if [[ " ${wanted_cases[*]} " == *" $name "* ]]; then
            printf '%s\n' "$name"
        fi
    done
}

run_language() {
    local cases name
    mapfile -t cases < <(cases_of "$language")
    ((${#cases[@]} > 0)) || return 0
    server_complaint=''
    : >"$cache/logs/server-$language.log"
    if [[ -n ${not_installed[${language%_ws}]:-} ]]; then
        for name in "${cases[@]}"; do
            record "$name" "${not_installed[${language%_ws}]}"
        done
        return
    fi
    local program_cases=()
    for name in "${cases[@]}"; do
        if [[ $name == hello_world ]]; then
            run_hello_world
        else
            program_cases+=("$name")
        fi
    done
    if ((${#program_cases[@]} > 0)); then
        run_program "${program_cases[@]}"
    fi
    # Whatever the server did wrong while it started or stopped is a failure of the last case.
    if [[ -n $server_complaint ]]; then
        record "${cases[-1]}" "$server_complaint"
    fi
}

# record CASE RESULT: "pass", or what went wrong.
record() {
    results["$configuration|$language|$1"]=$2
}

# The command that runs a language's program.
command_of() {
    case ${1%_ws} in
        go) command=("$cache/go/interop") ;;
        python) command=("$cache/python/bin/python" "$programs/python/main.py") ;;
        # The flag gives older versions of Node what browsers have.
        js) command=(node --experimental-websocket "$cache/js/main.mjs") ;;
        java) command=(java -classpath "$cache/java/classes:$cache/java/lib/*" Interop) ;;
        c) command=("$cache/c/interop") ;;
        rust) command=("$cache/rust/debug/interop") ;;
        cli) command=("$programs/cli/main.sh" "$cache/bin/nats") ;;
        system)
            command=("$programs/system/main.sh" "$cache/bin/nats" "$cache/bin/monitor-types")
            ;;
    esac
}

# start_reference: starts a nats-server beside the tested server, with the same file.
start_reference() {
    local port log=$cache/logs/reference.log deadline=$((SECONDS + SERVER_START_SECONDS_MAX))
    pick_port && reference_port=$port
    pick_port && reference_monitor=$port
    "$cache/bin/nats-server" --addr 127.0.0.1 --port "$reference_port" \
        --http_port "$reference_monitor" --config "$programs/system/server.conf" \
        >"$log" 2>&1 </dev/null &
    reference_pid=$!
    until grep --quiet 'Server is ready' "$log"; do
        if ! kill -0 "$reference_pid" 2>/dev/null || ((SECONDS > deadline)); then
            server_complaint="the nats-server to compare with did not start, see $log"
            return 1
        fi
        sleep 0.02
    done
}

stop_reference() {
    [[ -n ${reference_pid:-} ]] || return 0
    kill "$reference_pid" 2>/dev/null || true
    wait "$reference_pid" || true
    reference_pid=''
}

# run_program CASE...: starts the server and the language's program, does to the server what the
# program asks for on its standard output, and keeps its results.
run_program() {
    local log=$cache/logs/program-$language.log line name verdict detail status=0 port command
    local monitor_port='' reference_port='' reference_monitor='' web_port='' flags=()
    if [[ $language == system ]]; then
        pick_port && monitor_port=$port
        flags=(--http_port "$monitor_port" --config "$programs/system/server.conf")
    fi
    if [[ $language == *_ws ]]; then
        pick_port && web_port=$port
        printf 'websocket { listen: "127.0.0.1:%s", no_tls: true, compression: true }\n' "$web_port" \
            >"$work/web.conf"
        flags=(--config "$work/web.conf")
    fi
    pick_port
    if ! start_server --port "$port" "${flags[@]}" ||
        { [[ $language == system ]] && ! start_reference; }; then
        for name in "$@"; do
            record "$name" "$server_complaint"
        done
        return
    fi
    start_secure_server "$@"
    command_of "$language"
    : >"$log"
    rm -f "$work/requests" "$work/answers"
    mkfifo "$work/requests" "$work/answers"
    local url=nats://127.0.0.1:$port
    if [[ -n $web_port ]]; then url=ws://127.0.0.1:$web_port; fi
    NATS_URL=$url NATS_MONITOR="http://127.0.0.1:$monitor_port" \
        REFERENCE_URL="nats://127.0.0.1:$reference_port" \
        REFERENCE_MONITOR="http://127.0.0.1:$reference_monitor" \
        INTEROP_CASES="$*" INTEROP_NKEY_SEED=$NKEY_SEED \
        INTEROP_SECURE_URL="tls://localhost:${secure_port:-0}" INTEROP_CA="$work/ca.pem" \
        timeout "$PROGRAM_SECONDS_MAX" "${command[@]}" <"$work/answers" >"$work/requests" 2>>"$log" &
    program_pid=$!
    exec {answers}>"$work/answers" {requests}<"$work/requests"
    while IFS= read -r line <&"$requests"; do
        case $line in
            'RESULT '*)
                read -r _ name verdict detail <<<"$line"
                if [[ $verdict == pass ]]; then detail=pass; fi
                record "$name" "${detail:-failed without a word}"
                ;;
            'CONTROL '*)
                # A server that does not come back is seen by the program's own deadlines.
                control_server "${line#CONTROL }" || true
                printf 'done\n' >&"$answers" || true
                ;;
            *) printf '%s\n' "$line" >>"$log" ;;
        esac
    done
    exec {answers}>&- {requests}<&-
    wait "$program_pid" || status=$?
    program_pid=''
    stop_reference
    stop_server
    stop_secure_server
    for name in "$@"; do
        if [[ -z ${results["$configuration|$language|$name"]:-} ]]; then
            record "$name" "the program ended with status $status and no result, see $log"
        fi
    done
}

control_server() {
    case $1 in
        restart)
            stop_server
            start_server --port "$port" "${flags[@]}"
            ;;
        lame_duck)
            kill -USR2 "$server_pid"
            server_in_lame_duck=yes
            ;;
        *) note "the $language program asked for '$1', which is nothing known" ;;
    esac
}

# The first program of every newcomer: the client's default URL, so the server's default port.
run_hello_world() {
    local output=$cache/logs/hello-$language.log
    if is_port_taken "$DEFAULT_PORT"; then
        record hello_world "port $DEFAULT_PORT is taken by another program: stop it and run again"
        return
    fi
    if ! start_server; then
        record hello_world "$server_complaint"
        return
    fi
    local command
    case $language in
        go) command=("$cache/go/hello") ;;
        rust) command=("$cache/rust/debug/hello") ;;
        python)
            hello_program python >"$work/hello.py"
            command=("$cache/python/bin/python" "$work/hello.py")
            ;;
        js)
            # Node looks for packages beside the program.
            hello_program js >"$cache/js/hello.mjs"
            command=(node "$cache/js/hello.mjs")
            ;;
    esac
    if ! timeout 20 "${command[@]}" >"$output" 2>&1 </dev/null; then
        record hello_world "failed: $(tail -n 1 "$output")"
    elif [[ $(<"$output") != 'Hello, NATS!' ]]; then
        record hello_world "printed '$(tail -n 1 "$output")'"
    else
        record hello_world pass
    fi
    stop_server
}

replay_against_real_server() {
    configuration='real nats-server' language=transcripts
    if [[ -n ${not_installed[server]:-} ]]; then
        record replay "nats-server ${not_installed[server]}"
        return
    fi
    note "replaying the transcripts against nats-server $NATS_SERVER_VERSION"
    if (cd "$root" && NATS_SERVER=$cache/bin/nats-server \
        cargo test --test transcripts --test refused_files </dev/null); then
        record replay pass
    else
        record replay "the transcripts differ from nats-server $NATS_SERVER_VERSION"
    fi
}

# Checks what people look at: Prometheus with the rules and the dashboard of scripts/grafana, and a browser.
watch_midge() {
    configuration='midge watched' language=monitoring
    local program missing=() midge=${CARGO_TARGET_DIR:-$root/target}/release/midge
    for program in prometheus chromium jq curl; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    if ((${#missing[@]} > 0)) && ! install_debian "${missing[@]}" >"$cache/logs/watch-install.log" 2>&1; then
        record programs "missing: ${missing[*]} (see $cache/logs/watch-install.log)"
        return
    fi
    note 'every expression of the Grafana dashboard and the alerts in a real Prometheus'
    run_watcher prometheus "$root/scripts/grafana/check.sh" "$midge"
    note 'the live dashboard in headless Chromium'
    run_watcher dashboard python3 "$root/scripts/interop/browser/dashboard.py" "$midge" \
        --screenshots "$cache/logs/dashboard"
    if [[ ${not_installed[js]:-} ]]; then
        record websocket "the client ${not_installed[js]}"
        return
    fi
    note 'the official client over WebSocket in headless Chromium'
    run_watcher websocket python3 "$root/scripts/interop/browser/websocket.py" "$midge" "$cache/js/node_modules"
}

# Runs a check that reports by itself what is wrong.
run_watcher() {
    local name=$1 output=$cache/logs/watch-$1.log
    shift
    if timeout "$PROGRAM_SECONDS_MAX" "$@" >"$output" 2>&1 </dev/null; then
        record "$name" pass
    else
        record "$name" "failed: $(grep --extended-regexp 'FAILED|refused|no s' "$output" | head -n 1) (see $output)"
    fi
}

# The harness measures the real server as well as ours: its tests, and then a report of both, whose
# curves are counted in a browser and whose pictures are kept to be looked at.
check_harness() {
    local part
    configuration='real nats-server' language=harness
    for part in server browser; do
        if [[ -n ${not_installed[$part]:-} ]]; then
            record "$part" "$part ${not_installed[$part]}"
            return
        fi
    done
    note "testing midge-bench against nats-server $NATS_SERVER_VERSION"
    if (cd "$root" && NATS_SERVER=$cache/bin/nats-server \
        cargo test --package midge-bench </dev/null); then
        record tests pass
    else
        record tests "midge-bench's tests fail against nats-server $NATS_SERVER_VERSION"
    fi
    note "drawing a report and opening it in chromium"
    if draw_report && "$programs/report/check.py" chromium "$work/report" "$cache/report"; then
        record report pass
    else
        record report "the report is not what its data says"
    fi
}

# One short round of every kind of workload. A busy host makes invalid runs, and status 2; they are as
# much to be drawn as others.
draw_report() {
    local target=${CARGO_TARGET_DIR:-$root/target}/release status=0 pace
    (cd "$root" && cargo build --release --bin midge --bin midge-bench) || return
    pace='--pacer sleep --late-limit 1s --warmup 200ms'
    "$target/midge-bench" compare --rounds 1 --duration 500ms --floor-duration 200ms --quiet \
        --a "'$target/midge' --addr 127.0.0.1 --port {port}" --name-a midge \
        --b "'$cache/bin/nats-server' --addr 127.0.0.1 --port {port}" --name-b nats-server \
        --run 'throughput --warmup 200ms' --run "latency --rate 2k $pace" \
        --run 'latency --mode request --closed-loop --publishers 10 --warmup 200ms' \
        --run "sweep --step 200ms --rate 2k --objective 20ms $pace" \
        --run "connections --connections 100 --rate 1k $pace" \
        --output "$work/report" >"$cache/logs/report.log" 2>&1 || status=$?
    ((status == 0 || status == 2))
}

# --- Reporting ------------------------------------------------------------------------------------

print_table() {
    local name language result
    printf '\n%-20s' "$configuration"
    printf ' %-8s' "${languages[@]}"
    printf '\n'
    for name in "${ALL_CASES[@]}"; do
        [[ " ${wanted_cases[*]} " == *" $name "* ]] || continue
        printf '  %-18s' "$name"
        for language in "${languages[@]}"; do
            result=${results["$configuration|$language|$name"]:-}
            case $result in
                pass) printf ' %-8s' ok ;;
                '') printf ' %-8s' - ;;
                *) printf ' %-8s' FAILED ;;
            esac
        done
        printf '\n'
    done
    printf '\n'
}

# Every failure in a line, and the counts. The status is that of the whole script.
report() {
    local key passed=0 failed=0
    local keys=()
    mapfile -t keys < <(printf '%s\n' "${!results[@]}" | sort)
    for key in "${keys[@]}"; do
        if [[ ${results[$key]} == pass ]]; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            printf 'FAILED  %s: %s\n' "${key//|/, }" "${results[$key]}"
        fi
    done
    printf '%d passed, %d failed\n' "$passed" "$failed"
    ((failed == 0 && passed > 0))
}

main "$@"
