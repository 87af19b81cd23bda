package test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// drop has the host drop the packets of others that match. An empty match means all. hook is input
// or output. The function that drop returns ends that.
func (h *host) drop(t *testing.T, hook, match string) (end func()) {
	t.Helper()
	iface := map[string]string{"input": "iif", "output": "oif"}[hook]
	_, err := h.Output(wait.Soon(t), "nft", fmt.Sprintf(
		"table inet drop_%s { chain c { type filter hook %[1]s priority 0; %s != lo %s drop; }; }", hook, iface, match))
	wait.Must(t, err)
	return func() {
		t.Helper()
		_, err := h.Output(wait.Soon(t), "nft", "delete", "table", "inet", "drop_"+hook)
		wait.Must(t, err)
	}
}

// via reports whether a node is known that way.
func via(how string) func(registry.Node) bool {
	return func(n registry.Node) bool { return n.Via == how }
}

// linesFrom returns the lines that came after the first ones.
func (w *watcher) linesFrom(first int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines[first:])
}

// many returns how many lines came.
func (w *watcher) many() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.lines)
}

// losses returns the lines by which a node of a host has gone or is out of reach.
func losses(lines []string, host string) (found []string) {
	for _, l := range lines {
		if strings.Contains(l, " host="+host+" ") && (strings.HasPrefix(l, "-") || strings.Contains(l, " reachable=no")) {
			found = append(found, l)
		}
	}
	return found
}

// TestLANOneWay has a host that hears no multicast and is heard by the other. The other asks its
// epmd, which asks back. So each lists what the other has, also after a restart.
func TestLANOneWay(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	b.drop(t, "input", "udp dport 5353")
	for _, h := range hosts {
		h.start(t)
	}
	seenA, seenB := a.watch(t), b.watch(t)
	node := a.register(t, "a", 4000)
	b.register(t, "b", 4000)
	seenA.until(t, present("b@hostb.local", via("epmd")), neighbours(1))
	seenB.until(t, present("a@hosta.local", via("epmd"), reachable), neighbours(1))
	a.browseUntil(t, 2, "hostb")
	if found := b.browse(t); len(found) > 0 {
		t.Errorf("B, which is to hear nothing, finds %+v", found)
	}
	wait.Must(t, node.Close())
	seenB.until(t, absent("a@hosta.local"))

	a.kill(t)
	a.start(t)
	a.register(t, "again", 4000)
	seenB.until(t, present("again@hosta.local", via("epmd"), reachable), neighbours(1))
}

// TestLANStopped sends SIGSTOP to an epmd in the middle of a stream, and later to the one that
// reads it. The kernel still answers for a stopped one: its nodes stay as they are. Nobody waits.
// What was missed comes when the epmd goes on.
func TestLANStopped(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb", "hostc")
	for _, h := range hosts {
		h.start(t)
	}
	a, b, c := hosts[0], hosts[1], hosts[2]
	seen := b.watch(t)
	a.register(t, "stays", 4000)
	goes := a.register(t, "goes", 4000)
	c.register(t, "c", 4000)
	seen.until(t, present("stays@hosta.local", reachable), present("goes@hosta.local", reachable), present("c@hostc.local", reachable))

	t.Run("told", func(t *testing.T) {
		before := seen.many()
		goOn := a.pause(t)
		// C is silent. It tells when A would count as silent too.
		c.drop(t, "input", "")
		c.drop(t, "output", "")
		wait.Must(t, goes.Close())
		seen.until(t, present("c@hostc.local", unreachable))
		if lost := losses(seen.linesFrom(before), "hosta.local"); lost != nil {
			t.Errorf("of the stopped epmd it was said:\n%s", lost)
		}
		goOn()
		seen.until(t, absent("goes@hosta.local"), present("stays@hosta.local", reachable))
	})
	t.Run("told of it", func(t *testing.T) {
		goOn := b.pause(t)
		for i := range 200 {
			wait.Must(t, a.register(t, fmt.Sprint("brief", i), 4000).Close())
		}
		a.register(t, "late", 4000)
		checkLookup(t, a, "late", 4000)
		goOn()
		seen.until(t, present("late@hosta.local", reachable), present("stays@hosta.local", reachable), neighbours(3))
	})
}

// pause stops the host's epmd. The function that it returns lets the epmd go on, or the test's end.
func (h *host) pause(t *testing.T) (goOn func()) {
	t.Helper()
	p := h.epmd
	wait.Freeze(t, p.Pid())
	h.t.Cleanup(func() { p.Signal(syscall.SIGCONT) }) // or it can't be ended
	return func() {
		t.Helper()
		wait.Must(t, p.Signal(syscall.SIGCONT))
	}
}

// TestLANNoStream has hosts whose epmds give no stream. Two don't let B ask. The third has the epmd
// of OTP, and announces an Eclus from before there were streams. Nodes that are announced are found
// by multicast. The log of B says why, once.
func TestLANNoStream(t *testing.T) {
	t.Parallel()
	need.Program(t, stockEpmd)
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hostb", "private", "closed", "older")
	b, private, closed, older := hosts[0], hosts[1], hosts[2], hosts[3]
	b.start(t)
	private.start(t, "-allow", "local")
	closed.start(t, "-allow", "192.0.2.0/24")
	older.run(t, stockEpmd)
	published := []string{"_epmd._tcp", "4369", "--subtype=_eclus._sub._epmd._tcp", "txtvers=1", "eclus=0.9"}
	publish(t, older, "older", published...)
	publish(t, older, "n@older", "_epmd._tcp", "4001", "txtvers=1", "node=n@older.local", "name=n", "type=normal",
		"proto=0", "high=6", "low=5", "epmd=4369", "dist=tcp")
	older.register(t, "n", 4001)
	for _, h := range hosts[:3] {
		h.register(t, "n", 4000)
	}
	seenB, seenPrivate := b.watch(t), private.watch(t)
	theirs := []condition{
		present("n@closed.local", via("mdns"), onPort(4000), unreachable), // its epmd says no port
		present("n@older.local", via("mdns"), onPort(4001), sure, reachable),
	}
	seenB.until(t, append(theirs, neighbours(2))...)
	seenPrivate.until(t, append(theirs, present("n@hostb.local", via("epmd")), neighbours(3))...)
	private.awaitTable(t, `(?m)^this host is not announced: -allow local`)
	for name, want := range map[string]int{"closed": 1, "older": 1, "private": 0} {
		said := regexp.MustCompile(`(?m)no stream from the epmd of a host.* host=` + name + `\.local .*it gives no streams`)
		if want > 0 {
			_, err := b.epmd.WaitOutput(wait.Soon(t), said.String())
			wait.Must(t, err)
		}
		if got := said.FindAllString(b.epmd.Output(), -1); len(got) != want {
			t.Errorf("of host %s, %d times: %q; want %d", name, len(got), got, want)
		}
	}

	// They are upgraded, and configured anew.
	closed.stop(t)
	closed.start(t)
	closed.register(t, "again", 4000)
	seenB.until(t, present("again@closed.local", via("epmd"), reachable))
	wait.Must(t, older.epmd.Kill(wait.Soon(t)))
	older.start(t)
	older.register(t, "again", 4000)
	seenB.until(t, present("again@older.local", via("epmd"), reachable))
}

// TestLANNewer has a host with an epmd of a later version. That says more than ours knows, when it
// asks and when it answers.
func TestLANNewer(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hostb", "newer")
	b, newer := hosts[0], hosts[1]
	b.start(t)
	b.register(t, "b", 4000)
	more := make(chan string)
	defer close(more)
	port := newer.serve(t, func(conn net.Conn) {
		if m, err := readPacket(conn, 2); err != nil || m[0] != 'W' {
			return
		}
		fmt.Fprint(conn, "\x00\x00\x11\x11* later=1 eclus=99.1 id=", strings.Repeat("7", 32), " host=newer.local\n",
			"? later=1\n",
			"+ node=n@newer.local name=n host=newer.local port=4001 type=normal dist=quic ip=4 later=%20\n",
			"= nodes=1 later=1\n")
		for lines := range more {
			fmt.Fprint(conn, lines)
		}
	})
	seen := b.watch(t)
	publish(t, newer, "newer", "_epmd._tcp", fmt.Sprint(port), "--subtype=_eclus._sub._epmd._tcp", "txtvers=1", "eclus=99.1", "later=1")
	seen.until(t, present("n@newer.local", via("epmd"), onPort(4001), v4(newer.Address()), reachable), neighbours(1))
	more <- "! later=1\n~\n+ node=m@newer.local name=m host=newer.local port=4002 type=later ip=4\n- node=n@newer.local name=n host=newer.local later=1\n"
	seen.until(t, present("m@newer.local", via("epmd"), onPort(4002), reachable), neighbours(1))

	wait.Must(t, newer.inside(func() error { return askLater(wait.Soon(t), b) }))
}

// askLater asks as an epmd of a later version does. It looks at the answer.
func askLater(ctx context.Context, h *host) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", h.Address(), epmd.DefaultPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	writePacket(conn, fmt.Append(nil, "Wlater=1 eclus=99.1 id=", strings.Repeat("7", 32), " later=%20 host=newer.local port=4369 later"))
	want := regexp.MustCompile(`(?s)^\x00\x00\x11\x11\* eclus=\S+ id=[0-9a-f]{32} host=hostb\.local\n` +
		`\+ node=b@hostb\.local name=b host=hostb\.local port=4000 type=normal sure=no high=6 low=5 proto=0 ip=46\n= nodes=1\n$`)
	var got []byte
	for !strings.Contains(string(got), "\n= ") || got[len(got)-1] != '\n' {
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if got = append(got, buf[:n]...); err != nil {
			return fmt.Errorf("got %q, %w", got, err)
		}
	}
	if !want.Match(got) {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

// TestLANKilled kills epmd on A and starts it again. Nothing is kept there. A node of OTP registers
// again by itself. Until then B holds it.
func TestLANKilled(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seen := b.watch(t)
	node := a.erl(t, "-name", "a@hosta.local")
	seen.until(t, present("a@hosta.local", sure, reachable))
	checkUnnoticed(t, "killed", "hosta.local", seen, func() {
		a.kill(t)
		a.start(t)
		wait.Until(t, "the node registers again", func() error {
			_, err := a.lookup(wait.Soon(t), "a")
			return err
		})
	}, func(name string) { a.register(t, name, 4000) })
	seen.until(t, present("a@hosta.local", sure, reachable))
	eval(t, node, "node().", "'a@hosta.local'")
}

// TestSystemdPeers has epmd on A killed, restarted, upgraded and reloaded. The store of systemd has
// its nodes. A neighbour reports nothing.
func TestSystemdPeers(t *testing.T) {
	t.Parallel()
	machine.Need(t)
	n := lan.ForTest(t, tools...)
	b := addHosts(t, n, lan.HostOptions{}, "hostb")[0]
	b.start(t)
	a := superviseOn(t, n, "hosta", machine.Options{Avahi: true})
	wait.Must(t, a.inside(func() error {
		l, err := net.Listen("tcp", ":4000") // or the nodes are not told of
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	register := func(name string) {
		node, err := a.tryRegister(wait.Soon(t), name, 4000)
		wait.Must(t, err)
		t.Cleanup(node.leave)
	}
	// As if another host had its name. After a restart, epmd does not know that from the start.
	a.output(t, "avahi-set-host-name", "other")
	const nodes = 20
	for i := range nodes {
		register(fmt.Sprint("n", i))
	}
	seen := b.watch(t)
	seen.until(t, neighbours(nodes), reachableNeighbours(nodes), present("n0@other.local"))
	newer := another(t, "newer")
	checkUnnoticed(t, "killed", "other.local", seen, func() { a.crash(t) }, register)
	checkUnnoticed(t, "restarted", "other.local", seen, func() { a.systemctl(t, "restart", unit) }, register)
	checkUnnoticed(t, "upgraded", "other.local", seen, func() {
		wait.Must(t, a.CopyFile("/usr/bin/epmd", newer, 0o755))
		a.systemctl(t, "try-restart", unit) // as the package does
		a.checkRuns(t, newer)
	}, register)
	checkUnnoticed(t, "reloaded", "other.local", seen, func() { a.systemctl(t, "reload", unit) }, register)
}

// checkUnnoticed ends the epmd of a host, and has another one be there. No node may go on B by that
// or be out of reach. B holds nodes for 5 seconds. Where the machine is so busy that this was too
// short, all is done again. register registers a node of a name.
func checkUnnoticed(t *testing.T, what, host string, seen *watcher, end func(), register func(name string)) {
	t.Helper()
	const grace, tries = 5 * time.Second, 10
	for try := range tries {
		before, began := seen.many(), time.Now()
		end()
		name := fmt.Sprint("after-", what, "-", try)
		register(name)
		took := seen.until(t, present(name+"@"+host, reachable)).Sub(began)
		lost := losses(seen.linesFrom(before), host)
		t.Logf("%s: seen by another stream after %v", what, took.Round(time.Millisecond))
		if lost == nil {
			return
		}
		if took < grace {
			t.Errorf("%s: B says within %v:\n%s", what, took, lost)
			return
		}
	}
	t.Errorf("%s: it took longer than %v in each of %d times", what, grace, tries)
}

// TestLANAddressMoves gives A and then B another address. The stream of A's nodes has begun long
// before, so that B no longer follows the records of A.
func TestLANAddressMoves(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	monitor, err := b.Start(t.Context(), "dbus-monitor", "--system", "interface=org.freedesktop.Avahi.RecordBrowser")
	wait.Must(t, err)
	_, err = monitor.WaitOutput(wait.Soon(t), `member=NameLost`) // from now on it monitors
	wait.Must(t, err)
	for _, h := range hosts {
		h.start(t)
	}
	seen := b.watch(t)
	a.register(t, "a", 4000)
	seen.until(t, named("a", v4(a.Address()), via("epmd"), reachable))
	_, err = monitor.WaitOutput(wait.Soon(t), `(?s)member=Free.*member=Free`) // of A and AAAA
	wait.Must(t, err)
	for i, h := range hosts {
		next := netip.AddrFrom4([4]byte{198, 51, 100, byte(101 + i)})
		begin := time.Now()
		h.readdress(t, next)
		if h == a {
			took := seen.until(t, named("a", v4(next), via("epmd"), reachable)).Sub(begin)
			t.Logf("A has another address: reached there after %v", took.Round(time.Millisecond))
		}
		name := fmt.Sprint("after", i)
		a.register(t, name, 4000)
		took := seen.until(t, named(name, via("epmd"), reachable), named("a", reachable)).Sub(begin)
		t.Logf("%s has another address: a new node is seen %v later", h.Name(), took.Round(time.Millisecond))
	}
}

// named is present for an alive name. On a busy machine Avahi takes another address of its host for
// a conflict. It then renames the host.
func named(name string, is ...func(registry.Node) bool) condition {
	return condition{name + " appears", func(known map[string]registry.Node) bool {
		for _, n := range known {
			if n.Origin == registry.LAN && n.Name == name && all(n, is) {
				return true
			}
		}
		return false
	}}
}

// readdress gives the host another address in place of the first one.
func (h *host) readdress(t *testing.T, next netip.Addr) {
	t.Helper()
	wait.Must(t, h.AddAddress(wait.Soon(t), "eth0", netip.PrefixFrom(next, 24)))
	const replace = "echo 1 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries; " + // or both go
		"ip addr del %v/24 dev eth0"
	_, err := h.Output(wait.Soon(t), "sh", "-c", fmt.Sprintf(replace, h.Address()))
	wait.Must(t, err)
}
