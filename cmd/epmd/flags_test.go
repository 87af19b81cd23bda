package main

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/daemon"
	"github.com/goerlang/eclus/cmd/epmd/internal/listing"
	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/cmd/epmd/internal/nodesd"
	"github.com/goerlang/eclus/cmd/epmd/internal/stock"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/bus"
)

// serving is what an empty command line and environment mean, changed by change.
func serving(change func(*config)) config {
	c := config{port: 4369, daemon: daemon.Options{Publish: true, Browse: true, Bus: busAt("system"), Identify: true}}
	c.daemon.NodesDirs = []nodesd.Folder{{Path: "/etc/epmd/nodes.d"}, {Path: "/run/epmd/nodes.d", Written: true}}
	change(&c)
	return c
}

func access(s string) epmd.Access {
	a, err := epmd.ParseAccess(s)
	if err != nil {
		panic(err)
	}
	return a
}

func busAt(s string) bus.Address {
	b, err := bus.Parse(s)
	if err != nil {
		panic(err)
	}
	return b
}

var parseTests = []struct {
	args, env string // separated by spaces
	want      config
	err       string // all its words are in the error
}{
	{"", "", serving(func(*config) {}), ""},
	{"-d -debug -daemon -relaxed_command_check", "", serving(func(c *config) { c.daemon.Debug, c.daemon.Daemon, c.daemon.Relaxed = 2, true, true }), ""},
	{"-port 65535", "ERL_EPMD_PORT=x", serving(func(c *config) { c.port = 65535 }), ""},
	{"-port 1 -port 2", "", serving(func(c *config) { c.port = 2 }), ""},
	{"", "ERL_EPMD_PORT=5000 ERL_EPMD_RELAXED_COMMAND_CHECK=", serving(func(c *config) { c.port, c.daemon.Relaxed = 5000, true }), ""},
	{"", "ERL_EPMD_ADDRESS=192.0.2.1,::1", serving(func(c *config) {
		c.address, c.daemon.Addresses = "192.0.2.1,::1", []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.IPv6Loopback()}
	}), ""},
	{"-address ::ffff:192.0.2.1", "ERL_EPMD_ADDRESS=x", serving(func(c *config) {
		c.address, c.daemon.Addresses = "::ffff:192.0.2.1", []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	}), ""},
	{"-packet_timeout 5 -delay_accept 1 -delay_write 2", "", serving(func(c *config) {
		c.daemon.PacketTimeout, c.daemon.DelayAccept, c.daemon.DelayWrite = 5*time.Second, time.Second, 2*time.Second
	}), ""},
	{"-lan off", "ECLUS_LAN=publish", serving(func(c *config) { c.daemon.Publish, c.daemon.Browse = false, false }), ""},
	{"", "ECLUS_LAN=browse ECLUS_ALLOW=local", serving(func(c *config) { c.daemon.Publish, c.daemon.Access = false, access("local") }), ""},
	{"-allow 192.0.2.0/24 -interface eth0,wlan0", "", serving(func(c *config) {
		c.daemon.Access, c.daemon.Interfaces = access("192.0.2.0/24"), []string{"eth0", "wlan0"}
	}), ""},
	{"-bus off", "ECLUS_BUS=session", serving(func(c *config) { c.daemon.Bus = bus.Address{} }), ""},
	{"", "ECLUS_BUS=session", serving(func(c *config) { c.daemon.Bus = busAt("session") }), ""},
	{"-bus unix:path=/run/b", "", serving(func(c *config) { c.daemon.Bus = busAt("unix:path=/run/b") }), ""},
	{"-port 7 -names", "ECLUS_LAN=nonsense ECLUS_ALLOW=x ERL_EPMD_ADDRESS=x", config{command: commandStock, port: 7}, ""},
	{"-ping a@b", "", config{command: commandPing, name: "a@b", port: 4369}, ""},
	{"-json -ping a@b -cookie_file c -port 7", "", config{command: commandPing, name: "a@b", port: 7, json: true, cookieFile: "c"}, ""},
	{"-peek a@b -watch -json", "", config{command: commandPeek, name: "a@b", port: 4369, json: true, watch: true}, ""},
	{"-peek a@b -ping a@b", "", config{}, "-ping contradicts -peek"},
	{"-peek a@b -local", "", config{}, "-local goes with -nodes only"},
	{"-node -cookie_file c", "", serving(func(c *config) { c.daemon.AsNode, c.cookieFile = true, "c" }), ""},
	{"-node x@host.example -cookie_file c", "", serving(func(c *config) { c.daemon.AsNode, c.daemon.NodeName, c.cookieFile = true, "x@host.example", "c" }), ""},
	{"-node x", "", config{}, `-node "x": node name "x": not NAME@HOST`},
	{"-node -ping a@b", "", config{}, "-node contradicts -ping"},
	{"-node -names", "", config{}, "-node contradicts"},
	{"-ping", "", config{}, "-ping: node missing"},
	{"-ping a@b -nodes", "", config{}, "-nodes contradicts -ping"},
	{"-nodes -ping a@b", "", config{}, "-ping contradicts -nodes"},
	{"-ping a@b -watch", "", config{}, "-watch goes with -nodes or -peek only"},
	{"-ping a@b -daemon", "", config{}, "-ping contradicts -daemon"},
	{"-ping a@b -names", "", config{}, "-names contradicts -ping"},
	{"-cookie_file c", "", config{}, `-cookie_file "c" goes with -ping, -peek or -node only`},
	{"-ping a@b -cookie_file", "", config{}, "-cookie_file: value missing"},
	{"-ping a@b -prove -ca c", "", config{command: commandPing, name: "a@b", port: 4369, prove: true, caFile: "c"}, ""},
	{"-prove -peek a@b", "", config{command: commandPeek, name: "a@b", port: 4369, prove: true}, ""},
	{"-nodes -prove", "", config{}, "-prove goes with -ping or -peek only"},
	{"-node -ca c", "", config{}, `-ca "c" goes with -ping or -peek only`},
	{"-stop -kill", "", config{command: commandStock, question: stock.Stop, name: "-kill", port: 4369}, ""},
	{"-watch -nodes -json -port 7", "", config{command: commandNodes, port: 7, json: true, watch: true}, ""},
	{"-nodes rabbit* -local", "", config{command: commandNodes, port: 4369, filter: listing.Filter{LocalOnly: true, Pattern: "rabbit*"}}, ""},
	{"-lan_only -nodes -port 4369 *@hostb*", "", config{command: commandNodes, port: 4369, filter: listing.Filter{LANOnly: true, Pattern: "*@hostb*"}}, ""},
	{`-nodes \-a -port 7`, "", config{command: commandNodes, port: 7, filter: listing.Filter{Pattern: `\-a`}}, ""},
	{"-version", "", config{command: commandVersion, port: 4369}, ""},
	{"--version", "", config{command: commandVersion, port: 4369}, ""},
	{"-version x", "", config{}, `-version must come last: "x"`},
	{"-h", "ERL_EPMD_PORT=x", config{command: commandHelp}, ""},
	{"-daemon --help -port x", "", config{command: commandHelp, daemon: daemon.Options{Daemon: true}}, ""},
	{"-nodes -help", "", config{command: commandHelp}, ""},

	{"-port 65536", "", config{}, `-port "65536"`},
	{"-port 12x", "", config{}, `-port "12x"`},
	{"-port -1", "", config{}, `-port "-1"`},
	{"", "ERL_EPMD_PORT=", config{}, `ERL_EPMD_PORT ""`},
	{"-names", "ERL_EPMD_PORT=abc", config{}, `ERL_EPMD_PORT "abc"`},
	{"-packet_timeout -1", "", config{}, `-packet_timeout "-1"`},
	{"-packet_timeout 9223372036854775807", "", config{}, `-packet_timeout "9223372036854775807"`},
	{"-lan yes", "", config{}, `-lan "yes"`},
	{"", "ECLUS_LAN=1", config{}, `ECLUS_LAN "1"`},
	{"-allow 10.0.0.0/33", "", config{}, `-allow "10.0.0.0/33"`},
	{"", "ECLUS_ALLOW=lan,any", config{}, `ECLUS_ALLOW "lan,any"`},
	{"-interface eth0,", "", config{}, `-interface "eth0,"`},
	{"-bus /run/b", "", config{}, `-bus "/run/b": not system, session, off`},
	{"", "ECLUS_IDENTIFY=off", serving(func(c *config) { c.daemon.Identify = false }), ""},
	{"", "ECLUS_IDENTIFY=no", config{}, `ECLUS_IDENTIFY "no"`},
	{"", "ECLUS_BUS=", config{}, `ECLUS_BUS ""`},
	{"", "ECLUS_KEEP_PER_USER=9000", serving(func(c *config) { c.daemon.KeepPerUser = 9000 }), ""},
	{"", "ECLUS_KEEP_PER_USER=0", config{}, `ECLUS_KEEP_PER_USER "0"`},
	{"-hosts_file hosts", "", config{}, `-hosts_file "hosts": not the absolute path`},
	{"-hosts_file /run/", "", config{}, `-hosts_file "/run/"`},
	{"-lan publish -hosts_file /h", "ECLUS_NODES_DIR=", config{}, `-hosts_file "/h" needs LAN discovery or peers`},
	{"-lan publish -etc_hosts /h", "ECLUS_NODES_DIR=", config{}, `-etc_hosts "/h" needs LAN discovery or peers`},
	{"-hosts_file /h -etc_hosts //h", "", config{}, `-etc_hosts "//h" contradicts -hosts_file`},
	{"-lan off -peer 192.0.2.7 -etc_hosts /h", "", serving(func(c *config) {
		c.daemon.Publish, c.daemon.Browse, c.daemon.EtcHosts = false, false, "/h"
		c.daemon.Peers = whos("192.0.2.7")
	}), ""},
	{"-lan off", "ECLUS_HOSTS_FILE=/h", serving(func(c *config) {
		c.daemon.Publish, c.daemon.Browse, c.daemon.HostsFile = false, false, "/h"
	}), ""},
	{"", "ECLUS_HOSTS_FILE=h", config{}, `ECLUS_HOSTS_FILE "h": not the absolute path`},
	{"", "ECLUS_HOSTS_FILE=", serving(func(*config) {}), ""},
	{"-hosts_file /run/epmd/h", "ECLUS_HOSTS_FILE=/x", serving(func(c *config) { c.daemon.HostsFile = "/run/epmd/h" }), ""},
	{"-peer 192.0.2.7,[2001:db8::7]:5000 -port 7", "ECLUS_PEER=x", serving(func(c *config) {
		c.port, c.daemon.Peers = 7, whos("192.0.2.7 [2001:db8::7]:5000")
	}), ""},
	{"-lan off", "ECLUS_PEER=192.0.2.7:1", serving(func(c *config) {
		c.daemon.Publish, c.daemon.Browse, c.daemon.Peers = false, false, whos("192.0.2.7:1")
	}), ""},
	{"", "ECLUS_PEER=", serving(func(*config) {}), ""},
	{"-peer dns:Web.lab.example.,gateway:5000", "", serving(func(c *config) {
		c.daemon.Peers = []named.Who{{Name: "web.lab.example"}, {Gateway: true, Port: 5000}}
	}), ""},
	{"", "ECLUS_PEER=hostb", config{}, `ECLUS_PEER "hostb": "hostb" is not the address of a host`},
	{"-peer gateway,dns:a..b", "", config{}, `-peer "gateway,dns:a..b": "dns:a..b" does not name a host`},
	{"-peer gateway:0", "", config{}, `-peer "gateway:0": "0" is not a port`},
	{"-nodes_dir /etc/x/,/run/y", "ECLUS_NODES_DIR=x", serving(func(c *config) {
		c.daemon.NodesDirs = []nodesd.Folder{{Path: "/etc/x"}, {Path: "/run/y", Written: true}}
	}), ""},
	{"", "ECLUS_NODES_DIR=", serving(func(c *config) { c.daemon.NodesDirs = nil }), ""},
	{"-nodes_dir x", "", config{}, `-nodes_dir "x": not the absolute path`},
	{"-interface ../x", "", config{}, `-interface "../x"`},
	{"-json", "", config{}, "-json -nodes"},
	{"-watch -names", "", config{}, "-watch -nodes"},
	{"-local", "", config{}, "-local -nodes"},
	{"-lan_only -names", "", config{}, "-lan_only -nodes"},
	{"-nodes -lan_only -local", "", config{}, "-local -lan_only"},
	{"-nodes a[", "", config{}, `-nodes "a["`},
	{"a -nodes", "", config{}, `"a"`},
	{"-nodes a -json b", "", config{}, `"b"`},
	{"-nodes -names", "", config{}, "-names -nodes"},
	{"-nodes -daemon", "", config{}, "-daemon -nodes"},
	{"-systemd -daemon", "", config{}, "-daemon -systemd"},
	{"-lan off -interface eth0", "", config{}, `-lan -interface "eth0"`},
	{"-lan publish -allow local", "", config{}, "-lan -allow local"},
}

// whos are those in a list.
func whos(list string) []named.Who {
	all, err := named.ParseList(list)
	if err != nil {
		panic(err)
	}
	return all
}

func TestParse(t *testing.T) {
	for _, tt := range parseTests {
		t.Run(tt.args+" "+tt.env, func(t *testing.T) {
			got, err := parse(strings.Fields(tt.args), environ(tt.env))
			if tt.err == "" && (err != nil || !reflect.DeepEqual(got, tt.want)) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
			if tt.err == "" {
				return
			}
			for word := range strings.FieldsSeq(tt.err) {
				if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v; want one line with %q", err, word)
				}
			}
		})
	}
}

// TestUsage holds that the usage is OTP's, but for what is ours.
func TestUsage(t *testing.T) {
	text, err := os.ReadFile("testdata/usage")
	if err != nil {
		t.Fatal(err)
	}
	if got := usageText(); got != string(text) {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}

// TestManual looks for all flags and variables in the manual page.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("epmd.1")
	if err != nil {
		t.Fatal(err)
	}
	for f := range allFlags() {
		for _, name := range f.names {
			if !regexp.MustCompile(`(?m)^\.(B|BI|BR) .*\\` + name + `\b`).Match(page) {
				t.Errorf("%s is not in the manual page", name)
			}
		}
		if f.variable != "" && !strings.Contains(string(page), "\n.B "+f.variable+"\n") {
			t.Errorf("%s is not in the manual page", f.variable)
		}
	}
}

// completions are the completions, with how they say that there is a flag.
var completions = map[string]string{
	"epmd.bash": `(?m)(?:^|\$'|\\n)(-[a-z_]+)`,
	"_epmd":     `(?m)^ *'(?:\([^)]*\))?\*?(-[a-z_]+)\[`,
	"epmd.fish": `(?m) (?:-o |-s )([a-z_]+) `,
}

// TestCompletions holds that the shells complete all flags and no others. So they do with arguments
// that are words.
func TestCompletions(t *testing.T) {
	for file, pattern := range completions {
		text, err := os.ReadFile("completion/" + file)
		if err != nil {
			t.Fatal(err)
		}
		complete := make(map[string]bool)
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			complete["-"+strings.TrimPrefix(m[1], "-")] = true
		}
		for f := range allFlags() {
			for _, name := range f.names {
				if !complete[name] {
					t.Errorf("%s does not complete %s", file, name)
				}
				delete(complete, name)
			}
			var words []string
			for word := range strings.SplitSeq(f.argument, "|") {
				if word != "" && word == strings.ToLower(word) {
					words = append(words, word)
				}
			}
			if len(words) > 0 && !regexp.MustCompile(strings.Join(words, `( |\\n)`)).Match(text) {
				t.Errorf("%s does not complete %s %s", file, f.name(), f.argument)
			}
		}
		for name := range complete {
			t.Errorf("%s completes %s", file, name)
		}
	}
}

// environ returns what looks up variables in a list of them.
func environ(list string) func(string) (string, bool) {
	set := make(map[string]string)
	for variable := range strings.FieldsSeq(list) {
		name, value, _ := strings.Cut(variable, "=")
		set[name] = value
	}
	return func(name string) (string, bool) {
		value, ok := set[name]
		return value, ok
	}
}
