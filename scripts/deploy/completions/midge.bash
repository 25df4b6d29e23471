# Made from the option table; do not edit.
_midge() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    if [[ ${COMP_WORDS[1]} == store ]] && ((COMP_CWORD > 1)); then
        COMPREPLY=($(compgen -W 'check repair --dry-run' -- "$word") $(compgen -d -- "$word"))
        return
    fi
    case $before in
        -l | --log | -P | --pid | --ports_file_dir | --tlscert | --tlskey | --tlscacert | -sd | --store_dir | --unix | -c | --config | --test_reload) COMPREPLY=($(compgen -f -- "$word")); return ;;
        -n | --name | --server_name | -a | --addr | --net | -p | --port | --client_advertise | --lame_duck_duration | --lame_duck_grace_period | --log_size_limit | --max_traced_msg_len | --user | --pass | --auth | -m | --http_port | -ms | --https_port | --shards | --cores | --busy-poll | --io-driver | --unix-mode | --shard-ports | --balance | --local-congestion | --log-format | -sl | --signal) return ;;
    esac
    COMPREPLY=($(compgen -W '-n --name --server_name -a --addr --net -p --port --client_advertise --lame_duck_duration --lame_duck_grace_period -D --debug -V --trace -T --logtime --logtime_utc -l --log --log_size_limit --max_traced_msg_len -P --pid --ports_file_dir --user --pass --auth --tls --tlscert --tlskey --tlscacert --tlsverify -m --http_port -ms --https_port -js --jetstream -sd --store_dir --shards --cores --pin --no-pin --busy-poll --io-driver --unix --unix-mode --shard-ports --balance --local-congestion --log-format -c --config -t --test_reload -sl --signal -DV -VV -DVV --allow-unsupported -h --help -v --version --help_tls store' -- "$word"))
}
complete -o filenames -F _midge midge
