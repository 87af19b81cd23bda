package main

// usageText is that of OTP's epmd, with what is ours added in the same style.
const usageText = `usage: epmd [-d|-debug] [DbgExtra...] [-address List]
            [-port No] [-daemon] [-relaxed_command_check]
       epmd [-d|-debug] [-port No] [-names|-kill|-stop name]

See the Erlang epmd manual page for info about the usage.

Regular options
    -address List
        Let epmd listen only on the comma-separated list of IP
        addresses (and on the loopback interface).
    -port No
        Let epmd listen to another port than default 4369
    -d
    -debug
        Enable debugging. This will give a log to
        the standard error stream. It will shorten
        the number of saved used node names to 5.

        If you give more than one debug flag you may
        get more debugging information.
    -daemon
        Start epmd detached (as a daemon)
    -relaxed_command_check
        Allow this instance of epmd to be killed with
        epmd -kill even if there are registered nodes.
        Also allows forced unregister (epmd -stop).
    -systemd
        Wait for socket from systemd. The option makes sense
        when started from .socket unit.

DbgExtra options
    -packet_timeout Seconds
        Set the number of seconds a connection can be
        inactive before epmd times out and closes the
        connection (default 60).

    -delay_accept Seconds
        To simulate a busy server you can insert a
        delay between epmd gets notified about that
        a new connection is requested and when the
        connections gets accepted.

    -delay_write Seconds
        Also a simulation of a busy server. Inserts
        a delay before a reply is sent.

Interactive options
    -names
        List names registered with the currently running epmd
    -kill
        Kill the currently running epmd
        (only allowed if -names show empty database or
        -relaxed_command_check was given when epmd was started).
    -stop Name
        Forcibly unregisters a name with epmd
        (only allowed if -relaxed_command_check was given when 
        epmd was started).

LAN options
    -lan on|publish|browse|off
        Announce the nodes of this host on the local network,
        look for those of others, both (default) or neither.
        Also ECLUS_LAN in the environment.
    -interface Name[,Name]
        Do so on these network interfaces only. Default: those that
        lead to a LAN, not the bridges and veths of containers.
    -hosts_file Path
        Keep this file a .hosts.erlang that names every host of the
        local network that has nodes, for net_adm:world/0. What
        else is in it stays. Also ECLUS_HOSTS_FILE in the environment.
    -bus system|session|off|Address
        Show the known nodes on this D-Bus message bus, as
        org.erlang.Epmd, or on none. Default is system. Also
        ECLUS_BUS in the environment.
    -allow local|lan|any|CIDR[,CIDR]
        Answer this host only, also the local network and private
        addresses (default), everybody, or this host and these
        prefixes. Also ECLUS_ALLOW in the environment.
    -node [NAME@HOST] [-cookie_file Path]
        Be a hidden node too, epmd@HOST by default, that answers
        net_adm:ping/1 and gen_server:call({epmd, Node}, nodes).
    -nodes [Pattern] [-local|-lan_only] [-json] [-watch]
        List all known nodes, of this host and of the local network,
        or those whose name matches the pattern ('rabbit*', '*@hostb*').
        -local: of this host only; -lan_only: of others only;
        -json: one JSON object a line; -watch: go on with changes.
    -ping Node [-json] [-cookie_file Path]
        Go the way to a node of any host (a@hosta.local), step by
        step, and say where it ends and what to do about it. The
        cookie is that of the file, of ERLANG_COOKIE in the
        environment, or of ~/.erlang.cookie.
    -peek Node [-json] [-watch] [-cookie_file Path]
        Show what a node is and how it does: release, processes,
        memory, applications, whom it is connected to, and which
        processes are the busiest. -watch: go on every 2 seconds.
    -version
        Print name, version and Go version
    -h
        Print this and exit
`
