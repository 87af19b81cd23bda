package main

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/stock"
)

// flag is a flag, a variable of the environment, or both.
type flag struct {
	names    []string // each means the flag; none: there is a variable alone
	hidden   []string // so do these, which the usage does not show
	argument string   // what follows, in brackets if it may; empty: nothing
	help     string   // as the usage has it; empty: not shown, or with the flags of with

	variable string // of the environment; the flag has precedence
	standard string // the argument if neither is given; empty: set is not called

	stock   bool     // OTP's epmd has it too
	command command  // asked for by this flag; commandServe: none is
	last    bool     // nothing may follow
	with    []string // flags of which one has to be given too
	not     []string // flags that contradict it

	set func(*parser, string) error // takes the argument; nil: there is nothing to set
}

// section is what the usage has under a title.
type section struct {
	title  string
	spaced bool // flags are apart
	flags  []flag
}

// sections are all flags, in the order of the usage of OTP's epmd. What is ours is added in the
// same style. Parser, usage, and the checks of manual page and completions go by this.
var sections = []section{
	{title: "Regular options", flags: []flag{
		{
			names: []string{"-address"}, argument: "List", variable: "ERL_EPMD_ADDRESS", stock: true,
			set: (*parser).setAddress,
			help: `Let epmd listen only on the comma-separated list of IP
addresses (and on the loopback interface).`,
		},
		{
			names: []string{"-port"}, argument: "No", variable: "ERL_EPMD_PORT", standard: "4369", stock: true,
			set:  (*parser).setPort,
			help: `Let epmd listen to another port than default 4369`,
		},
		{
			names: []string{"-d", "-debug"}, stock: true,
			set: func(p *parser, _ string) error { p.daemon.Debug++; return nil },
			help: `Enable debugging. This will give a log to
the standard error stream. It will shorten
the number of saved used node names to 5.

If you give more than one debug flag you may
get more debugging information.`,
		},
		{
			names: []string{"-daemon"}, stock: true,
			set:  on(func(c *config) *bool { return &c.daemon.Daemon }),
			help: `Start epmd detached (as a daemon)`,
		},
		{
			names: []string{"-relaxed_command_check"}, variable: "ERL_EPMD_RELAXED_COMMAND_CHECK", stock: true,
			// The variable counts when it is set, even to nothing.
			set: on(func(c *config) *bool { return &c.daemon.Relaxed }),
			help: `Allow this instance of epmd to be killed with
epmd -kill even if there are registered nodes.
Also allows forced unregister (epmd -stop).`,
		},
		{
			names: []string{"-systemd"}, stock: true,
			set: on(func(c *config) *bool { return &c.daemon.Systemd }),
			help: `Wait for socket from systemd. The option makes sense
when started from .socket unit.`,
		},
	}},
	{title: "DbgExtra options", spaced: true, flags: []flag{
		{
			names: []string{"-packet_timeout"}, argument: "Seconds", stock: true,
			set: seconds(func(c *config) *time.Duration { return &c.daemon.PacketTimeout }),
			help: `Set the number of seconds a connection can be
inactive before epmd times out and closes the
connection (default 60).`,
		},
		{
			names: []string{"-delay_accept"}, argument: "Seconds", stock: true,
			set: seconds(func(c *config) *time.Duration { return &c.daemon.DelayAccept }),
			help: `To simulate a busy server you can insert a
delay between epmd gets notified about that
a new connection is requested and when the
connections gets accepted.`,
		},
		{
			names: []string{"-delay_write"}, argument: "Seconds", stock: true,
			set: seconds(func(c *config) *time.Duration { return &c.daemon.DelayWrite }),
			help: `Also a simulation of a busy server. Inserts
a delay before a reply is sent.`,
		},
	}},
	{title: "Interactive options", flags: []flag{
		{
			names: []string{"-names"}, stock: true, command: commandStock, last: true, not: []string{"-node"},
			set:  asks(stock.Names),
			help: `List names registered with the currently running epmd`,
		},
		{
			names: []string{"-kill"}, stock: true, command: commandStock, last: true, not: []string{"-node"},
			set: asks(stock.Kill),
			help: `Kill the currently running epmd
(only allowed if -names show empty database or
-relaxed_command_check was given when epmd was started).`,
		},
		{
			names: []string{"-stop"}, argument: "Name", stock: true, command: commandStock, last: true, not: []string{"-node"},
			set: asks(stock.Stop),
			help: `Forcibly unregisters a name with epmd
(only allowed if -relaxed_command_check was given when 
epmd was started).`,
		},
		{
			names: []string{"-started"}, stock: true, command: commandStock, last: true, not: []string{"-node"},
			set: asks(stock.Started),
		},
		{
			names: []string{"-dump"}, stock: true, command: commandStock, last: true, not: []string{"-node"},
			set: asks(stock.Dump),
		},
	}},
	{title: "LAN options", flags: []flag{
		{
			names: []string{"-lan"}, argument: "on|publish|browse|off", variable: "ECLUS_LAN", standard: "on",
			set: (*parser).setLAN,
			help: `Announce the nodes of this host on the local network,
look for those of others, both (default) or neither.
Also ECLUS_LAN in the environment.`,
		},
		{
			names: []string{"-interface"}, argument: "Name[,Name]",
			set: (*parser).setInterfaces,
			help: `Do so on these network interfaces only. Default: those that
lead to a LAN, not the bridges and veths of containers.`,
		},
		{
			names: []string{"-peer"}, argument: "Who[,Who]", variable: "ECLUS_PEER",
			set: (*parser).setPeers,
			help: `Show the nodes of these epmds, wherever they are. Who is
Address[:Port]; dns:Name, all addresses of that name; or
gateway, the default gateways. Also ECLUS_PEER in the
environment.`,
		},
		{
			names: []string{"-nodes_dir"}, argument: "Path[,Path]", variable: "ECLUS_NODES_DIR", standard: nodesDirs,
			set: (*parser).setNodesDirs,
			help: `Read files NAME.nodes in these folders: nodes, and epmds as
-peer has them. Default is /etc/epmd/nodes.d and
/run/epmd/nodes.d. Empty: in none. Also ECLUS_NODES_DIR in
the environment.`,
		},
		{
			names: []string{"-hosts_file"}, argument: "Path", variable: "ECLUS_HOSTS_FILE",
			set: absolutePath(func(c *config) *string { return &c.daemon.HostsFile }),
			help: `Keep this file a .hosts.erlang that names every host of the
local network that has nodes, for net_adm:world/0. What
else is in it stays. Also ECLUS_HOSTS_FILE in the environment.`,
		},
		{
			names: []string{"-etc_hosts"}, argument: "Path", variable: "ECLUS_ETC_HOSTS",
			set: absolutePath(func(c *config) *string { return &c.daemon.EtcHosts }),
			help: `Keep this file a hosts(5) with the addresses of hosts that
have nodes, for the hosts_file of ERL_INETRC. What else is
in it stays. Also ECLUS_ETC_HOSTS in the environment.`,
		},
		{
			names: []string{"-bus"}, argument: "system|session|off|Address", variable: "ECLUS_BUS", standard: "system",
			set: (*parser).setBus,
			help: `Show the known nodes on this D-Bus message bus, as
org.erlang.Epmd, or on none. Default is system. Also
ECLUS_BUS in the environment.`,
		},
		{
			names: []string{"-allow"}, argument: "local|lan|any|CIDR[,CIDR]", variable: "ECLUS_ALLOW", standard: "lan",
			set: (*parser).setAllow,
			help: `Answer this host only, also the local network and private
addresses (default), everybody, or this host and these
prefixes. Also ECLUS_ALLOW in the environment.`,
		},
		{
			names: []string{"-node"}, argument: "[NAME@HOST]",
			set: (*parser).setNode,
			help: `Be a hidden node too, epmd@HOST by default, that answers
net_adm:ping/1 and gen_server:call({epmd, Node}, nodes).`,
		},
		{
			names: []string{"-nodes"}, argument: "[Pattern]", command: commandNodes, not: []string{"-daemon", "-systemd", "-node"},
			set: func(p *parser, s string) error { return p.filter.SetPattern(s) },
			help: `List all known nodes, of this host and of the local network,
or those whose name matches the pattern ('rabbit*', '*@hostb*').
-local: of this host only; -lan_only: of others only;
-json: one JSON object a line; -watch: go on with changes.`,
		},
		{
			names: []string{"-ping"}, argument: "Node", command: commandPing, not: []string{"-daemon", "-systemd", "-node"},
			set: (*parser).setName,
			help: `Go the way to a node of any host (a@hosta.local), step by
step, and say where it ends and what to do about it. The
cookie is that of the file, of ERLANG_COOKIE in the
environment, or of ~/.erlang.cookie. -ca: verify the node's
certificate by these authorities. -prove: prove the cookie
even at an address that only an announcement gives.`,
		},
		{
			names: []string{"-peek"}, argument: "Node", command: commandPeek, not: []string{"-daemon", "-systemd", "-node"},
			set: (*parser).setName,
			help: `Show what a node is and how it does: release, processes,
memory, applications, whom it is connected to, and which
processes are the busiest. -watch: go on every 2 seconds.`,
		},
		{
			names: []string{"-version"}, hidden: []string{"--version"}, command: commandVersion, last: true, not: []string{"-node"},
			help: `Print name, version and Go version`,
		},
		{
			names: []string{"-h"}, hidden: []string{"-help", "--help"}, command: commandHelp,
			help: `Print this and exit`,
		},
		{
			names: []string{"-local"}, with: []string{"-nodes"}, not: []string{"-lan_only"},
			set: on(func(c *config) *bool { return &c.filter.LocalOnly }),
		},
		{
			names: []string{"-lan_only"}, with: []string{"-nodes"},
			set: on(func(c *config) *bool { return &c.filter.LANOnly }),
		},
		{
			names: []string{"-json"}, with: []string{"-nodes", "-ping", "-peek"},
			set: on(func(c *config) *bool { return &c.json }),
		},
		{
			names: []string{"-watch"}, with: []string{"-nodes", "-peek"},
			set: on(func(c *config) *bool { return &c.watch }),
		},
		{
			names: []string{"-cookie_file"}, argument: "Path", with: []string{"-ping", "-peek", "-node"},
			set: (*parser).setCookieFile,
		},
		{
			names: []string{"-ca"}, argument: "Path", with: []string{"-ping", "-peek"},
			set: (*parser).setCAFile,
		},
		{
			names: []string{"-prove"}, with: []string{"-ping", "-peek"},
			set: on(func(c *config) *bool { return &c.prove }),
		},
		{variable: "ECLUS_IDENTIFY", standard: "on", set: (*parser).setIdentify},
		{variable: "ECLUS_KEEP_PER_USER", set: (*parser).setKeepPerUser},
	}},
}

// allFlags yields the flags of all sections.
func allFlags() iter.Seq[*flag] {
	return func(yield func(*flag) bool) {
		for _, s := range sections {
			for i := range s.flags {
				if !yield(&s.flags[i]) {
					return
				}
			}
		}
	}
}

// flagNamed returns the flag of that name, or nil.
func flagNamed(name string) *flag {
	for f := range allFlags() {
		if slices.Contains(f.names, name) || slices.Contains(f.hidden, name) {
			return f
		}
	}
	return nil
}

// name returns the first name of the flag. It is "" if there is a variable alone.
func (f *flag) name() string {
	if len(f.names) == 0 {
		return ""
	}
	return f.names[0]
}

// isOptional reports whether the argument may be left out.
func (f *flag) isOptional() bool { return strings.HasPrefix(f.argument, "[") }

// synopsis is how the usage begins.
const synopsis = `usage: epmd [-d|-debug] [DbgExtra...] [-address List]
            [-port No] [-daemon] [-relaxed_command_check]
       epmd [-d|-debug] [-port No] [-names|-kill|-stop name]

See the Erlang epmd manual page for info about the usage.

`

// usageText returns the usage, with which OTP's epmd answers a mistake.
func usageText() string {
	var all []string
	for _, s := range sections {
		var list []string
		for _, f := range s.flags {
			if f.help != "" {
				list = append(list, f.usage())
			}
		}
		apart := ""
		if s.spaced {
			apart = "\n"
		}
		all = append(all, s.title+"\n"+strings.Join(list, apart))
	}
	return synopsis + strings.Join(all, "\n")
}

// usage returns what the usage has of the flag: names, argument, flags that go with it, and help.
func (f *flag) usage() string {
	text := "    " + strings.Join(f.names, "\n    ")
	if f.argument != "" {
		text += " " + f.argument
	}
	end := ""
	for g := range allFlags() {
		if slices.Contains(g.with, f.name()) {
			text += cmp.Or(end, " [") + strings.TrimSpace(g.name()+" "+g.argument)
			if end = "] ["; len(g.not) > 0 { // the next one
				end = "|"
			}
		}
	}
	if end != "" {
		text += "]"
	}
	for line := range strings.SplitSeq(f.help, "\n") {
		text += strings.TrimSuffix("\n        "+line, "        ")
	}
	return text + "\n"
}
