# Completion of epmd for bash.
#
# Names are what somebody has registered or announced, and bash puts them into the line as they are: only those of
# letters, digits and _.@- are offered. None is ever evaluated.

# _epmd_ask prints what the epmd that is meant answers to a question, or nothing if it does not within a second.
_epmd_ask()
{
    local -a port=()
    local i
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        [[ ${words[i]} == -port && ${words[i + 1]} =~ ^[0-9]+$ ]] && port=(-port "${words[i + 1]}")
    done
    timeout 1 epmd "${port[@]}" "$@" 2>/dev/null </dev/null
}

_epmd_names()
{
    _epmd_ask -names | sed -n 's/^name \([[:alnum:]_.@-]*\) at port [0-9]*$/\1/p'
}

_epmd_nodes()
{
    _epmd_ask -nodes -json | sed -n 's/^{"v":1,"node":"\([[:alnum:]_.][[:alnum:]_.@-]*\)",.*/\1/p'
}

_epmd_interfaces()
{
    local path
    for path in /sys/class/net/*; do
        [[ ${path##*/} =~ ^[[:alnum:]_.@-]+$ ]] && printf '%s\n' "${path##*/}"
    done
}

# _epmd_offer offers those lines that, after a beginning, make the word to be completed longer.
_epmd_offer()
{
    local line
    while IFS= read -r line; do
        [[ $1$line == "$cur"* ]] && COMPREPLY+=("$1$line")
    done
}

# _epmd_offer_next offers what may follow a flag without a value. What asks a running epmd comes last, but -nodes has
# flags of its own, and so has what is asked of a node.
_epmd_offer_next()
{
    local word nodes= about= peek=
    for word in "${words[@]:1:${#words[@]}-2}"; do
        case $word in
            -names | -started | -dump | -kill | -stop | -version) return ;;
            -nodes) nodes=yes ;;
            -ping) about=yes ;;
            -peek) about=yes peek=$'-watch\n' ;;
        esac
    done
    if [[ $nodes && $cur != -* ]]; then
        _epmd_offer < <(_epmd_nodes)
    elif [[ $nodes ]]; then
        _epmd_offer <<<$'-local\n-lan_only\n-json\n-watch\n-port'
    elif [[ $about ]]; then
        _epmd_offer <<<"$peek"$'-json\n-cookie_file\n-ca\n-prove\n-port'
    else
        _epmd_offer <<EOT
-address
-port
-d
-debug
-daemon
-systemd
-relaxed_command_check
-packet_timeout
-delay_accept
-delay_write
-lan
-interface
-peer
-nodes_dir
-hosts_file
-etc_hosts
-bus
-allow
-node
-cookie_file
-nodes
-ping
-peek
-names
-dump
-kill
-stop
-started
-version
-h
EOT
    fi
}

_epmd()
{
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT}
    local -a words
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local cur=${words[-1]} prev=${words[-2]}
    COMPREPLY=()
    case $prev in
        -address | -port | -packet_timeout | -delay_accept | -delay_write) return ;;
        -peer) _epmd_offer <<<gateway ;;
        -lan) _epmd_offer <<<$'on\npublish\nbrowse\noff' ;;
        -allow) _epmd_offer <<<$'local\nlan\nany' ;;
        -bus) _epmd_offer <<<$'system\nsession\noff' ;;
        -nodes_dir) compopt -o dirnames ;;
        -hosts_file | -etc_hosts | -cookie_file | -ca) compopt -o default ;; # files
        -interface) _epmd_offer "${cur%"${cur##*,}"}" < <(_epmd_interfaces) ;;
        -ping | -peek) _epmd_offer < <(_epmd_nodes) ;;
        -stop) _epmd_offer < <(_epmd_names) ;;
        *) _epmd_offer_next ;;
    esac
    if [[ $cur == *@* && $COMP_WORDBREAKS == *@* ]]; then # for bash the word begins after the @
        COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*@}"}"}")
    fi
} &&
    complete -F _epmd epmd
