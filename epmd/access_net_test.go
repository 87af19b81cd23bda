package epmd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
)

// lab is two hosts on a link of their own. Each is a network namespace. Nothing of it can be seen
// from outside.
type lab struct {
	t            *testing.T
	server, peer string // namespaces
}

// Addresses of the hosts. All that the peer has beside those of the link is routed over the link.
var (
	serverLink = []string{"198.51.100.1/24", "fd00:51::1/64", "fe80::51:1/64"}
	serverMore = []string{"203.0.113.99/32"}
	peerLink   = []string{"198.51.100.2/24", "fd00:51::2/64", "fe80::51:2/64"}
	peerMore   = []string{
		"10.9.9.9/32", "172.20.9.9/32", "192.168.9.9/32", "100.64.9.9/32", "169.254.9.9/32", "203.0.113.5/32", "192.0.2.5/32",
		"fd99::9/128", "2001:db8:9::9/128", "2001:db8:a::9/128",
	}
)

func newLab(t *testing.T) *lab {
	t.Helper()
	need.Root(t)
	need.Program(t, "ip")
	l := &lab{t, fmt.Sprintf("epmd-test-%d-server", os.Getpid()), fmt.Sprintf("epmd-test-%d-peer", os.Getpid())}
	for _, ns := range []string{l.server, l.peer} {
		need.Possible(t, ip("netns", "add", ns))
		t.Cleanup(func() {
			if err := ip("netns", "delete", ns); err != nil {
				t.Error(err)
			}
		})
	}
	l.ip("-n", l.server, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", l.peer)
	for _, ns := range []string{l.server, l.peer} {
		l.ip("-n", ns, "link", "set", "lo", "up")
		l.ip("-n", ns, "link", "set", "lan", "addrgenmode", "none", "up")
	}
	l.addAddrs(l.server, "lan", serverLink)
	l.addAddrs(l.server, "lo", serverMore)
	l.addAddrs(l.peer, "lan", peerLink)
	l.addAddrs(l.peer, "lo", peerMore)
	for _, addr := range peerMore {
		via := "198.51.100.2"
		if strings.Contains(addr, ":") {
			via = "fd00:51::2"
		}
		l.ip("-n", l.server, "route", "add", addr, "via", via)
	}
	return l
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if err := ip(args...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) addAddrs(ns, link string, addrs []string) {
	l.t.Helper()
	for _, addr := range addrs {
		args := []string{"-n", ns, "address", "add", addr, "dev", link}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		l.ip(args...)
	}
}

func (l *lab) exec(ns string) []string { return []string{"ip", "netns", "exec", ns} }

// connect makes connections in a namespace and returns what came of each.
func (l *lab) connect(ns string, connections []string) []string {
	l.t.Helper()
	args := append(l.exec(ns), os.Args[0])
	cmd := exec.CommandContext(l.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), atOnce, clientsEnv+"="+strings.Join(connections, " "))
	cmd.WaitDelay = time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("clients: %v: %s", err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// answered is for which Access a peer is.
type answered struct{ local, lan, list bool }

// listedPeers is the list of prefixes that stands beside the words.
const listedPeers = "203.0.113.0/26,2001:db8:9::/48,192.168.9.9"

// accessPeers are connections, and what is to come of them. Only from what is of this host may a
// node register, and may a program learn of all nodes. Who may look names up may watch this host's
// own nodes.
var accessPeers = []struct {
	fromServer  bool // made on the server's own host
	local, host string
	answered    answered
}{
	{true, "127.0.0.1", "127.0.0.1", answered{true, true, true}},
	{true, "127.7.7.7", "127.0.0.1", answered{true, true, true}},
	{true, "::1", "::1", answered{true, true, true}},
	{true, "198.51.100.1", "198.51.100.1", answered{true, true, true}},
	{true, "127.0.0.1", "198.51.100.1", answered{true, true, true}},
	{true, "fd00:51::1", "fd00:51::1", answered{true, true, true}},
	{true, "fe80::51:1%lan", "fe80::51:1%lan", answered{true, true, true}},
	{true, "203.0.113.99", "203.0.113.99", answered{true, true, true}},
	{true, "203.0.113.99", "198.51.100.1", answered{false, true, false}}, // also this host

	{false, "198.51.100.2", "198.51.100.1", answered{false, true, false}},
	{false, "fd00:51::2", "fd00:51::1", answered{false, true, false}},
	{false, "fe80::51:2%lan", "fe80::51:1%lan", answered{false, true, false}},
	{false, "10.9.9.9", "198.51.100.1", answered{false, true, false}},
	{false, "172.20.9.9", "198.51.100.1", answered{false, true, false}},
	{false, "192.168.9.9", "198.51.100.1", answered{false, true, true}},
	{false, "100.64.9.9", "198.51.100.1", answered{false, true, false}},
	{false, "169.254.9.9", "198.51.100.1", answered{false, true, false}},
	{false, "fd99::9", "fd00:51::1", answered{false, true, false}},
	{false, "203.0.113.5", "198.51.100.1", answered{false, false, true}},
	{false, "192.0.2.5", "198.51.100.1", answered{false, false, false}},
	{false, "2001:db8:9::9", "fd00:51::1", answered{false, false, true}},
	{false, "2001:db8:a::9", "fd00:51::1", answered{false, false, false}},
}

// TestAccessByPeers lets real peers ask servers with each kind of Access. One socket is for IPv4
// alone. On another, for IPv4 and IPv6, IPv4 addresses are mapped.
func TestAccessByPeers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, listen := range []string{"[::]:0", "0.0.0.0:0"} {
		for _, allow := range []string{"local", "lan", "any", listedPeers} {
			t.Run(listen+" "+allow, func(t *testing.T) {
				addr, _ := startServerProcess(t, l.exec(l.server), serverEnv+"="+listen, allowEnv+"="+allow)
				l.testPeers(t, allow, addr, listen == "[::]:0")
			})
		}
	}
}

func (l *lab) testPeers(t *testing.T, allow string, addr netip.AddrPort, ipv6 bool) {
	connections := make(map[bool][]string)
	wanted := make(map[bool][]string)
	for _, p := range accessPeers {
		if !ipv6 && strings.Contains(p.local, ":") {
			continue
		}
		c := p.local + "/" + netip.AddrPortFrom(netip.MustParseAddr(p.host), addr.Port()).String()
		lookup := map[string]bool{"local": p.answered.local, "lan": p.answered.lan, "any": true, listedPeers: p.answered.list}[allow]
		connections[p.fromServer] = append(connections[p.fromServer], c)
		nodes, asked := "none", "none"
		switch {
		case p.answered.local:
			nodes, asked = "all", "-"
		case lookup:
			nodes, asked = "own", "b.local@"+p.local+"/"+p.host
		}
		wanted[p.fromServer] = append(wanted[p.fromServer],
			fmt.Sprintf("%s lookup=%t register=%t nodes=%s asked=%s", c, lookup, p.answered.local, nodes, asked))
	}
	for fromServer, ns := range map[bool]string{true: l.server, false: l.peer} {
		for i, got := range l.connect(ns, connections[fromServer]) {
			if want := wanted[fromServer][i]; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
	}
}
