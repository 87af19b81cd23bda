# Completion of epmd for fish.
#
# Names are what somebody has registered or announced: only those of letters, digits and _.@- are offered. None is ever
# evaluated.

# __epmd_ask prints what the epmd that is meant answers to a question, or nothing if it does not within a second.
function __epmd_ask
    set -l port
    set -l words (commandline -opc)
    if set -l i (contains -i -- -port $words)
        string match -qr '^[0-9]+$' -- $words[(math $i + 1)]
        and set port -port $words[(math $i + 1)]
    end
    command timeout 1 epmd $port $argv 2>/dev/null </dev/null
end

function __epmd_names
    __epmd_ask -names | string replace -rf '^name ([\pL\pN_.@-]+) at port [0-9]+$' '$1'
end

function __epmd_nodes
    __epmd_ask -nodes -json | string replace -rf '^\{"v":1,"node":"([\pL\pN_.][\pL\pN_.@-]*)",.*' '$1'
end

# __epmd_interfaces completes the last of a list.
function __epmd_interfaces
    set -l before (commandline -ct | string match -r '^(?:.*,)?')
    for path in /sys/class/net/*
        echo $before(string match -r '[^/]+$' -- $path)
    end
end

function __epmd_given
    set -l words (commandline -opc)
    for flag in $argv
        contains -- $flag $words[2..-1]
        and return 0
    end
    return 1
end

function __epmd_follows
    set -l words (commandline -opc)
    test $words[-1] = $argv[1]
end

# What is asked of a running epmd comes last; -nodes has flags of its own, and so has what is asked of a node.
set -l first 'not __epmd_given -nodes -ping -peek -names -dump -kill -stop -started -version -h'
set -l listing '__epmd_given -nodes'
set -l about '__epmd_given -ping -peek'

complete -c epmd -f
complete -c epmd -n "$first; or $listing; or $about" -o port -x -d 'Listen on this port, or ask the epmd there'
complete -c epmd -n $first -o address -x -d 'Listen on these IP addresses'
complete -c epmd -n $first -s d -d 'Log events; twice: requests too'
complete -c epmd -n $first -o debug -d 'Log events; twice: requests too'
complete -c epmd -n $first -o daemon -d 'Start detached'
complete -c epmd -n $first -o systemd -d 'Take sockets over from systemd'
complete -c epmd -n $first -o relaxed_command_check -d 'Allow -kill with nodes registered, and -stop'
complete -c epmd -n $first -o packet_timeout -x -d 'Close connections that say nothing'
complete -c epmd -n $first -o delay_accept -x -d 'Wait before a connection is accepted'
complete -c epmd -n $first -o delay_write -x -d 'Wait before an answer is written'
complete -c epmd -n $first -o lan -x -a 'on publish browse off' -d 'Discovery on the local network'
complete -c epmd -n $first -o nodes_dir -x -a '(__fish_complete_directories)' -d 'Folders with nodes files'
complete -c epmd -n $first -o hosts_file -r -F -d '.hosts.erlang to keep'
complete -c epmd -n $first -o etc_hosts -r -F -d 'hosts(5) file to keep'
complete -c epmd -n $first -o bus -x -a 'system session off' -d 'D-Bus message bus to show nodes on'
complete -c epmd -n $first -o interface -x -a '(__epmd_interfaces)' -d 'Network interfaces for discovery'
complete -c epmd -n $first -o peer -x -a gateway -d 'Ask these epmds for their nodes'
complete -c epmd -n $first -o allow -x -a 'local lan any' -d 'Who may ask'
complete -c epmd -n $first -o node -d 'Be a hidden node too'
complete -c epmd -n $first -o nodes -d 'List all known nodes, or those that match'
complete -c epmd -n $listing -a '(__epmd_nodes)' -d 'Node'
complete -c epmd -n $listing -o local -d 'Of this host only'
complete -c epmd -n $listing -o lan_only -d 'Of the local network only'
complete -c epmd -n $listing -o json -d 'One JSON object a line'
complete -c epmd -n $listing -o watch -d 'Go on with changes'
complete -c epmd -n $first -o ping -d 'See whether a node can be reached'
complete -c epmd -n $first -o peek -d 'Look at a node'
complete -c epmd -n '__epmd_given -peek' -o watch -d 'Go on, in place'
complete -c epmd -n '__epmd_follows -peek' -a '(__epmd_nodes)' -d 'Node'
complete -c epmd -n '__epmd_follows -ping' -a '(__epmd_nodes)' -d 'Node'
complete -c epmd -n $about -o json -d 'One JSON object'
complete -c epmd -n "$first; or $about" -o cookie_file -r -F -d 'File with the cookie'
complete -c epmd -n $about -o ca -r -F -d 'File with the authorities that vouch for nodes'
complete -c epmd -n $about -o prove -d 'Prove the cookie at an announced address too'
complete -c epmd -n $first -o names -d 'List registered names'
complete -c epmd -n $first -o dump -d 'Print what is known of names'
complete -c epmd -n $first -o kill -d 'End the epmd of this host'
complete -c epmd -n $first -o stop -d 'Unregister a name'
complete -c epmd -n '__epmd_follows -stop' -a '(__epmd_names)' -d 'Registered name'
complete -c epmd -n $first -o started -d 'Tell by the exit status if an epmd runs'
complete -c epmd -n $first -o version -d 'Print the version'
complete -c epmd -n $first -s h -d 'List all flags'
