package test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// publishedTests are nodes of A, which has eth0 and eth1. They say on which interfaces B is to find
// them.
var publishedTests = []struct {
	host, listen, flags string
	why                 registry.Why
	on                  []string
}{
	{"127.0.0.1", "{127,0,0,1}", "", registry.WhyHost, nil},
	{"127.0.0.1", "", "", registry.WhyHost, nil},
	{"127.0.0.1", "{203,0,113,77}", "", registry.WhyHost, nil},
	{"localhost", "{127,0,0,1}", "", registry.WhyHost, nil},
	{"localhost", "", "", registry.WhyHost, nil},
	{"localhost", "{203,0,113,77}", "", registry.WhyHost, nil},
	{"hosta.local", "{127,0,0,1}", "", registry.WhyLoopback, nil},
	{"hosta.local", "", "", "", []string{"eth0", "eth1"}},
	{"hosta.local", "{203,0,113,77}", "", "", []string{"eth1"}},
	{"hosta.local", "{0,0,0,0,0,0,0,1}", "-proto_dist inet6_tcp", registry.WhyLoopback, nil},
	{"hosta.local", "", "-proto_dist inet6_tcp", "", []string{"eth0", "eth1"}},
	{"hosta.local", "{16#2001,16#db8,0,0,0,0,0,16#11}", "-proto_dist inet6_tcp", "", []string{"eth1"}},
}

// TestLANPublished has nodes that others can reach, on one interface or both, and nodes that they
// can't.
func TestLANPublished(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{NoAvahi: true}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	second, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, second.Close()) })
	for _, h := range hosts {
		_, err := second.Attach(wait.Soon(t), h.Host)
		wait.Must(t, err)
	}
	for _, address := range []string{"203.0.113.77/24", "2001:db8::11/64"} {
		wait.Must(t, a.AddAddress(wait.Soon(t), "eth1", netip.MustParsePrefix(address)))
	}
	// Nobody is led to an address of a subnet where it is not.
	wait.Must(t, b.AddAddress(wait.Soon(t), "eth1", netip.MustParsePrefix("2001:db8::12/64")))
	// On a busy machine Avahi takes late addresses of its host for a conflict and renames the host.
	for _, h := range hosts {
		startAvahi(t, h)
		h.start(t)
	}
	seenA, seenB := a.watch(t), b.watch(t)
	var g errgroup.Group
	g.SetLimit(4)
	nodes := make([]*lan.Erl, len(publishedTests))
	for i, tt := range publishedTests {
		g.Go(func() (err error) {
			kind := "-name"
			if tt.host == "localhost" {
				kind = "-sname"
			}
			args := append([]string{kind, fmt.Sprintf("n%d@%s", i, tt.host)}, strings.Fields(tt.flags)...)
			if tt.listen != "" {
				args = append(args, "-kernel", "inet_dist_use_interface", tt.listen)
			}
			nodes[i], err = a.StartErl(wait.Soon(t), args...)
			return err
		})
	}
	wait.Must(t, g.Wait())
	for i, tt := range publishedTests {
		full := fmt.Sprintf("n%d@%s", i, tt.host)
		seenA.until(t, local(full, sure, because(tt.why)))
		if tt.why == "" {
			seenB.until(t, present(full, sure))
		}
	}
	a.register(t, "lasting", 4002) // published after all that may have been published wrongly
	seenB.until(t, present("lasting@hosta.local"))
	// On a busy machine a node may have been announced before it told its name. That is taken back.
	wait.Until(t, "all is announced where it can be reached", func() error { return checkPublished(b.browse(t)) })
	for _, pattern := range []string{`(?m)^n0@127\.0\.0\.1 .* local +host +`, `(?m)^n6@hosta\.local .* local +loopback +`,
		`(?m)^loopback: `} {
		if out := a.ask(t, "-nodes"); !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("epmd -nodes shows\n%s\nwant %s", out, pattern)
		}
	}
	t.Run("address", func(t *testing.T) { testAddressGoes(t, a, seenA, seenB) })
	t.Run("name", func(t *testing.T) {
		a.register(t, `q'"\`, 4003)
		seenA.until(t, local(`q'"\@hosta.local`, because(registry.WhyName)))
	})
	t.Run("late", func(t *testing.T) {
		a.registerOnly(t, "late", 4004)
		seenA.until(t, local("late@hosta.local", because(registry.WhyClosed)))
		a.listen(t, 4004)
		seenB.until(t, present("late@hosta.local"))
	})
	checkSilent(t, nodes...)
}

// checkPublished returns an error unless the nodes were found where they can be reached.
func checkPublished(found []instance) error {
	for i, tt := range publishedTests {
		var on []string
		for _, instance := range labelled(found, fmt.Sprintf("n%d@hosta", i)) {
			on = append(on, instance.iface)
		}
		slices.Sort(on)
		if on = slices.Compact(on); !slices.Equal(on, tt.on) {
			return fmt.Errorf("%+v: found on %q", tt, on)
		}
	}
	return nil
}

func because(why registry.Why) func(registry.Node) bool {
	return func(n registry.Node) bool { return n.Why == why }
}

// testAddressGoes takes from A the address at which a node listens, and gives it back. Avahi says
// goodbye by way of the other one that the interface has.
func testAddressGoes(t *testing.T, a *host, seenA, seenB *watcher) {
	const node = "n8@hosta.local"
	begin := time.Now()
	_, err := a.Output(wait.Soon(t), "ip", "addr", "del", "203.0.113.77/24", "dev", "eth1")
	wait.Must(t, err)
	at := seenA.until(t, local(node, because(registry.WhyInterface)))
	took := at.Sub(begin)
	at = seenB.until(t, absent(node))
	t.Logf("address gone: known after %v, gone on B after %v", took, at.Sub(begin))
	begin = time.Now()
	wait.Must(t, a.AddAddress(wait.Soon(t), "eth1", netip.MustParsePrefix("203.0.113.77/24")))
	at = seenB.until(t, present(node, sure))
	t.Logf("address back: seen on B after %v", at.Sub(begin))
}

// refusals are configurations of Avahi with which nothing is published.
var refusals = []struct{ config, reason string }{
	{"[publish]\ndisable-user-service-publishing=yes\n", "avahi-daemon forbids it"},
	{"[publish]\ndisable-publishing=yes\n", "avahi-daemon forbids it"},
	{"[server]\ndeny-interfaces=eth0\n", "avahi-daemon does not use eth0"},
}

// TestLANRefused has hosts whose Avahi publishes nothing, which is said once, and others are still
// looked for. Meanwhile Avahi hangs on two others. It takes epmd 5 s to say so.
func TestLANRefused(t *testing.T) {
	t.Parallel()
	hosts := running(t, "hostb", "hostc", "hostd", "hoste", "hostf", "hostg")
	b, refused, hung, hungAtStart := hosts[0], hosts[1:4], hosts[4], hosts[5]
	b.register(t, "b", 4711)
	for _, h := range refused {
		h.register(t, "one", 4711)
		h.register(t, "two", 4712)
	}
	hung.register(t, "one", 4711)
	seenB := b.watch(t)
	announced := []condition{present("one@hostf.local")}
	for _, h := range refused {
		announced = append(announced, present("one@"+h.Name()+".local"), present("two@"+h.Name()+".local"))
	}
	seenB.until(t, announced...)

	stopped := []*lan.Process{hung.suspendAvahi(t)}
	hung.register(t, "missed", 4713)
	hungAtStart.kill(t)
	stopped = append(stopped, hungAtStart.suspendAvahi(t))
	hungAtStart.start(t)
	usual, err := b.Output(wait.Soon(t), "cat", "/etc/avahi/avahi-daemon.conf")
	wait.Must(t, err)
	checkRefused(t, refused)
	restartAvahi(t, refused, func(int) string { return usual })
	for _, h := range []*host{hung, hungAtStart} {
		h.awaitTable(t, `(?m)^LAN discovery off: avahi-daemon does not answer`)
	}
	for _, p := range stopped {
		wait.Must(t, p.Signal(syscall.SIGCONT))
	}
	seenB.until(t, append(announced, present("missed@hostf.local"))...)
	for _, h := range append(refused, hung) { // each has two nodes
		h.awaitTable(t, `^epmd on port 4369: 9 nodes, 7 on the LAN\n\n`)
	}
	hungAtStart.awaitTable(t, `(?m)^b@hostb.local `)
}

// checkRefused gives each host's Avahi one of the refusals.
func checkRefused(t *testing.T, hosts []*host) {
	t.Helper()
	before := make([]int, len(hosts))
	for i, h := range hosts {
		before[i] = len(h.epmd.Output())
	}
	restartAvahi(t, hosts, func(i int) string { return refusals[i].config })
	for i, h := range hosts {
		refusal := refusals[i]
		h.awaitTable(t, `(?m)^this host is not announced: `+refusal.reason)
		if !strings.Contains(refusal.config, "deny") {
			h.awaitTable(t, `(?m)^b@hostb.local `)
		}
		said := h.epmd.Output()[before[i]:]
		if n := strings.Count(said, refusal.reason); n != 1 || strings.Contains(said, "refuses to publish") {
			t.Errorf("%q: said %d times, want once:\n%s", refusal.config, n, said)
		}
	}
}

// restartAvahi restarts Avahi on hosts at the same time, each with the configuration for its
// number.
func restartAvahi(t *testing.T, hosts []*host, config func(int) string) {
	t.Helper()
	var restarts errgroup.Group
	for i, h := range hosts {
		wait.Must(t, h.WriteFile("/etc/avahi/avahi-daemon.conf", config(i), 0o644))
		restarts.Go(func() error { return h.Avahi.Restart(wait.Soon(t)) })
	}
	wait.Must(t, restarts.Wait())
}

// suspendAvahi stops the host's Avahi as a debugger does, and returns its process.
func (h *host) suspendAvahi(t *testing.T) *lan.Process {
	t.Helper()
	p, err := h.Avahi.Process()
	wait.Must(t, err)
	wait.Freeze(t, p.Pid())
	return p
}
