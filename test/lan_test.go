package test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestLAN has two hosts with real nodes see each other's.
func TestLAN(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seenA, seenB := a.watch(t), b.watch(t)
	node := a.erl(t, "-name", "a@hosta.local")
	hidden := a.erl(t, "-name", "web@hosta.local", "-hidden")
	short := a.erl(t) // not started with -sname, so that it can leave
	value(t, short, "{ok, _} = net_kernel:start([short, shortnames]), ok.")
	other := b.erl(t, "-name", "b@hostb.local")
	seenB.until(t, present("a@hosta.local", sure), present("web@hosta.local", sure), present("short@hosta", sure))
	seenA.until(t, present("b@hostb.local", sure), neighbours(1))

	t.Run("fields", func(t *testing.T) { testFields(t, a, b) })
	t.Run("ping", func(t *testing.T) {
		eval(t, node, "net_adm:ping('b@hostb.local').", "pong")
		eval(t, other, "net_adm:ping('web@hosta.local').", "pong")
	})
	t.Run("killed", func(t *testing.T) {
		begin := time.Now()
		wait.Must(t, hidden.Kill(wait.Soon(t)))
		at := seenB.until(t, absent("web@hosta.local"))
		t.Logf("killed on A, gone on B after %v", at.Sub(begin).Round(time.Millisecond))
		b.browseUntil(t, 0, "web@hosta")
	})
	t.Run("port", func(t *testing.T) { testNewPort(t, a, seenA, seenB, short) })
	t.Run("gone at once", func(t *testing.T) { testGoneAtOnce(t, a) })
	t.Run("goodbye", func(t *testing.T) {
		begin := time.Now()
		a.stop(t)
		t.Logf("epmd on A ended within %v", since(begin))
		at := seenB.until(t, neighbours(0))
		t.Logf("all nodes of A gone on B after %v", at.Sub(begin).Round(time.Millisecond))
		if took := at.Sub(begin); took > 10*time.Second {
			t.Errorf("no goodbye: gone after %v", took)
		}
		a.start(t)
		at = seenB.until(t, present("a@hosta.local", sure), present("short@hosta", sure))
		t.Logf("back on B %v after epmd on A ended", at.Sub(begin).Round(time.Millisecond))
	})
	if lines := seenA.history(); regexp.MustCompile(`host=hosta\.local .*origin=lan`).MatchString(lines) {
		t.Errorf("A has seen its own nodes on the LAN:\n%s", lines)
	}
	checkSilent(t, node, short, other)
}

// testFields looks at all that the nodes of A are said to be: on B, on A and to other programs.
func testFields(t *testing.T, a, b *host) {
	listed, own := b.nodes(t), a.nodes(t)
	found := b.browseUntil(t, 2, "a@hosta", "web@hosta", "short@hosta", "hosta")
	if len(listed) != 4 || len(own) != 4 {
		t.Errorf("B lists %d nodes, and A %d; want 4: %+v %+v", len(listed), len(own), listed, own)
	}
	for _, want := range []struct{ node, name, kind string }{
		{"a@hosta.local", "a", "normal"}, {"web@hosta.local", "web", "hidden"}, {"short@hosta", "short", "normal"},
	} {
		n, o := listed[want.node], own[want.node]
		if n.Name != want.name || n.Type != want.kind || n.Host != "hosta.local" || n.Origin != "lan" || n.Dist != "tcp" ||
			!n.Sure || n.Port != o.Port || n.Address != a.Address().String() || len(n.Addresses) != 0 {
			t.Errorf("B lists %s as %+v", want.node, n)
		}
		if o.Origin != "local" || o.Host != "hosta.local" || o.Type != want.kind {
			t.Errorf("A lists %s as %+v", want.node, o)
		}
		text := map[string]string{
			"txtvers": "1", "node": want.node, "name": want.name, "type": want.kind, "proto": "0",
			"high": "6", "low": "5", "epmd": "4369", "dist": "tcp",
		}
		checkInstances(t, labelled(found, want.name+"@hosta"), strconv.Itoa(o.Port), text)
	}
	fields := strings.Fields(a.ask(t, "-version")) // epmd (Eclus) VERSION GO
	checkInstances(t, labelled(found, "hosta"), "4369", map[string]string{"txtvers": "1", "eclus": fields[2]})
	for pattern, h := range map[string]*host{
		`(?m)^a@hosta\.local +198\.51\.100\.11 +\d+ +normal +lan +yes +`:    b,
		`(?m)^web@hosta\.local +198\.51\.100\.11 +\d+ +hidden +lan +yes +`:  b,
		`(?m)^short@hosta +127\.0\.0\.1 +\d+ +normal +local +yes +`:         a,
		`(?m)^b@hostb\.local +198\.51\.100\.12 +\d+ +normal +lan +yes +\d+`: a,
		`^epmd on port 4369: 4 nodes, 1 on the LAN\n\nNODE +ADDRESS +PO`:    a,
	} {
		if out := h.ask(t, "-nodes"); !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("%s: epmd -nodes shows\n%s\nwant %s", h.Name(), out, pattern)
		}
	}
}

// checkInstances looks at what avahi-browse has found of one instance of A.
func checkInstances(t *testing.T, found []instance, port string, text map[string]string) {
	t.Helper()
	var protocols []string
	for _, i := range found {
		protocols = append(protocols, i.proto)
		if i.host != "hosta.local" || i.port != port || !maps.Equal(i.text, text) {
			t.Errorf("avahi-browse finds %+v, want port %s and TXT %v", i, port, text)
		}
	}
	if slices.Sort(protocols); !slices.Equal(protocols, []string{"IPv4", "IPv6"}) {
		t.Errorf("avahi-browse finds %+v, want it over IPv4 and IPv6", found)
	}
}

// testNewPort has a node leave and come back under the same name, as when it is started anew.
func testNewPort(t *testing.T, a *host, seenA, seenB *watcher, node *lan.Erl) {
	for range 3 {
		eval(t, node, "net_kernel:stop().", "ok")
		seenA.until(t, gone("short@hosta"))
		began := time.Now()
		value(t, node, "{ok, _} = net_kernel:start([short, shortnames]), node().")
		seenA.until(t, local("short@hosta", sure))
		port := seenA.node(t, "short@hosta").Port
		// Each address comes by itself.
		at := seenB.until(t, present("short@hosta", sure, onPort(port), v4(a.Address())))
		t.Logf("again on A, its new port on B after %v", at.Sub(began).Round(time.Millisecond))
	}
	if n := seenB.node(t, "short@hosta"); len(n.Addresses) == 0 || n.Addresses[0] != a.Address() {
		t.Errorf("after all it is %+v", n)
	}
}

// testGoneAtOnce has a node live on A for less than the 150 ms after which it would be published.
// As a service is first probed for, B would not see it either way; A's bus would.
func testGoneAtOnce(t *testing.T, a *host) {
	monitor, err := a.Start(t.Context(), "dbus-monitor", "--system", "interface=org.freedesktop.Avahi.EntryGroup")
	wait.Must(t, err)
	_, err = monitor.WaitOutput(wait.Soon(t), `member=NameLost`) // from now on it monitors
	wait.Must(t, err)
	const life = `T = erlang:monotonic_time(millisecond), {ok, _} = net_kernel:start(['%s@hosta.local', longnames]),
		timer:sleep(105), ok = net_kernel:stop(), erlang:monotonic_time(millisecond) - T.`
	e := a.erl(t)
	brief, lived := "", uint32(0)
	for try := 0; try == 0 || try < 20 && lived >= 150; try++ { // on a busy machine
		brief = fmt.Sprint("brief", try)
		lived = number(t, e, fmt.Sprintf(life, brief))
	}
	t.Logf("%s lived for %d ms", brief, lived)
	a.register(t, "lasting", 4002)
	_, err = monitor.WaitOutput(wait.Soon(t), `string "lasting@hosta"`)
	wait.Must(t, err)
	if shown := monitor.Output(); strings.Contains(shown, brief+"@") {
		t.Errorf("a node that was gone after %d ms was published:\n%s", lived, shown)
	}
	wait.Must(t, monitor.Kill(wait.Soon(t)))
	checkSilent(t, e)
}

// TestLANMany registers 300 nodes at once.
func TestLANMany(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seen := b.watch(t)
	first := a.register(t, "first", 4000)
	seen.until(t, present("first@hosta.local"))
	wait.Must(t, first.Close())
	seen.until(t, neighbours(0))

	const many = 300
	registrations := make([]*epmd.Registration, many)
	begin := time.Now()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range registrations {
		g.Go(func() error {
			registrations[i] = a.register(t, fmt.Sprint("n", i), uint16(5000+i))
			return nil
		})
	}
	wait.Must(t, g.Wait())
	t.Logf("%d nodes registered within %v", many, since(begin))
	at := seen.until(t, neighbours(many))
	t.Logf("all seen on B after %v", at.Sub(begin).Round(time.Millisecond))
	for i := range registrations {
		n := seen.node(t, fmt.Sprintf("n%d@hosta.local", i))
		if int(n.Port) != 5000+i || n.Sure {
			t.Errorf("node %d seen as %+v", i, n)
		}
	}
	begin = time.Now()
	for _, r := range registrations {
		wait.Must(t, r.Close())
	}
	at = seen.until(t, neighbours(0))
	t.Logf("all gone on B after %v", at.Sub(begin).Round(time.Millisecond))
}

// outages are what can befall Avahi on a host, and how that ends.
var outages = []struct {
	name       string
	begin, end func(*testing.T, *host)
	silent     bool // no goodbye: what goes meanwhile stays in others' caches
}{
	{"Avahi stopped", func(t *testing.T, h *host) { wait.Must(t, h.Avahi.Stop(wait.Soon(t))) }, startAvahi, false},
	{"Avahi killed", func(t *testing.T, h *host) { wait.Must(t, h.Avahi.Kill(wait.Soon(t))) }, startAvahi, true},
	{"bus stopped", func(t *testing.T, h *host) {
		wait.Must(t, h.Bus.Stop(wait.Soon(t)))
		// Without its bus Avahi 0.8 ends or, now and then, hangs.
		wait.Must(t, h.Avahi.Kill(wait.Soon(t)))
	}, func(t *testing.T, h *host) {
		wait.Must(t, h.Bus.Start(wait.Soon(t)))
		startAvahi(t, h)
	}, true},
}

func startAvahi(t *testing.T, h *host) {
	t.Helper()
	wait.Must(t, h.Avahi.Start(wait.Soon(t)))
}

// TestLANOutages takes Avahi or its bus away from either host. EPMD goes on as if nothing had
// happened, and what was missed is made up when they return.
func TestLANOutages(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seenA, seenB := a.watch(t), b.watch(t)
	node := a.erl(t, "-name", "a@hosta.local")
	b.register(t, "b", 4711)
	seenB.until(t, present("a@hosta.local", sure))
	seenA.until(t, present("b@hostb.local"))
	for _, outage := range outages {
		for _, h := range []*host{a, b} {
			t.Run(outage.name+" on "+h.Name(), func(t *testing.T) {
				tag := strings.ReplaceAll(outage.name, " ", "-") + "-" + h.Name()
				before, missed := "before-"+tag, "missed-"+tag
				first := a.register(t, before, 4100)
				seenB.until(t, present(before+"@hosta.local"))
				outage.begin(t, h)
				h.awaitTable(t, `(?m)^LAN discovery off: `)
				a.register(t, missed, 4101)
				if h == b || !outage.silent {
					wait.Must(t, first.Close())
				}
				checkLookup(t, a, missed, 4101)
				checkLookup(t, b, "b", 4711)
				outage.end(t, h)
				begin := time.Now()
				at := seenB.until(t, present(missed+"@hosta.local"), present("a@hosta.local", sure))
				t.Logf("what had come is seen on B %v after the return", at.Sub(begin).Round(time.Millisecond))
				if h == b || !outage.silent {
					at = seenB.until(t, absent(before+"@hosta.local"))
					t.Logf("what had gone is gone on B %v after the return", at.Sub(begin).Round(time.Millisecond))
				}
				seenA.until(t, present("b@hostb.local"))
			})
		}
	}
	checkSilent(t, node)
}

// checkLookup looks a node up while Avahi is out of reach.
func checkLookup(t *testing.T, h *host, name string, port uint16) {
	t.Helper()
	begin := time.Now()
	resp, err := h.lookup(wait.Soon(t), name)
	if err != nil || resp.Port != port {
		t.Errorf("lookup of %s on %s: %+v, %v; want port %d", name, h.Name(), resp, err, port)
	}
	t.Logf("lookup on %s meanwhile: %v", h.Name(), time.Since(begin).Round(time.Microsecond))
}

// TestLANWedged stops programs between epmd and the network from running, so that they are there
// and do nothing.
func TestLANWedged(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seen := b.watch(t)
	node := a.erl(t, "-name", "a@hosta.local")
	seen.until(t, present("a@hosta.local", sure))
	for _, h := range []*host{a, b} {
		for what, d := range map[string]*lan.Daemon{"Avahi": h.Avahi, "bus": h.Bus} {
			t.Run(what+" of "+h.Name(), func(t *testing.T) {
				p, err := d.Process()
				wait.Must(t, err)
				missed := "missed-" + what + "-" + h.Name()
				wait.Freeze(t, p.Pid())
				r := a.register(t, missed, 4103)
				checkLookup(t, a, missed, 4103)
				wait.Must(t, p.Signal(syscall.SIGCONT))
				begin := time.Now()
				at := seen.until(t, present(missed+"@hosta.local"), present("a@hosta.local", sure))
				t.Logf("made up on B %v after the return", at.Sub(begin).Round(time.Millisecond))
				wait.Must(t, r.Close())
				seen.until(t, absent(missed+"@hosta.local"))
			})
		}
	}
	t.Run("end", func(t *testing.T) {
		p, err := a.Avahi.Process()
		wait.Must(t, err)
		wait.Freeze(t, p.Pid())
		begin := time.Now()
		a.stop(t)
		t.Logf("epmd ended within %v", since(begin))
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("epmd waited for Avahi for %v", took)
		}
		wait.Must(t, p.Signal(syscall.SIGCONT))
		seen.until(t, neighbours(0))
	})
	checkSilent(t, node)
}

// TestLANLate starts epmd on a host without a bus and without Avahi. epmd never starts Avahi
// itself.
func TestLANLate(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	a := addHosts(t, n, lan.HostOptions{NoBus: true}, "hosta")[0]
	b := addHosts(t, n, lan.HostOptions{}, "hostb")[0]
	a.start(t)
	b.start(t)
	seen := b.watch(t)
	a.register(t, "early", 4711)
	a.awaitTable(t, `(?m)^LAN discovery off: .*no such file`)
	checkLookup(t, a, "early", 4711)

	// This bus says so when it is to activate something.
	bus := a.NewDaemon(`(?m)^unix:`, "dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address", "--nosyslog",
		"--systemd-activation")
	wait.Must(t, bus.Start(wait.Soon(t)))
	a.awaitTable(t, `(?m)^LAN discovery off: .*avahi-daemon is not running`)
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	begin := time.Now()
	at := seen.until(t, present("early@hosta.local"))
	t.Logf("seen on B %v after Avahi on A came up", at.Sub(begin).Round(time.Millisecond))
	wait.Must(t, a.Avahi.Stop(wait.Soon(t)))
	a.awaitTable(t, `(?m)^LAN discovery off: .*avahi-daemon is not running`)

	p, err := bus.Process()
	wait.Must(t, err)
	const activation = `Activating .*service name='org\.freedesktop\.Avahi'`
	if out := p.Output(); regexp.MustCompile(activation).MatchString(out) {
		t.Errorf("Avahi was to be activated:\n%s", out)
	}
	// Were it so, it would be seen.
	_, err = a.Start(t.Context(), "dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.Avahi", "/",
		"org.freedesktop.DBus.Peer.Ping")
	wait.Must(t, err)
	if _, err := p.WaitOutput(wait.Soon(t), activation); err != nil {
		t.Error(err)
	}
}

// TestLANChanges has hosts change their names, links and interfaces.
func TestLANChanges(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seenA, seenB := a.watch(t), b.watch(t)
	node := a.erl(t, "-name", "a@hosta.local")
	b.register(t, "b", 4711)
	seenB.until(t, present("a@hosta.local", sure))
	seenA.until(t, present("b@hostb.local"))

	t.Run("host name", func(t *testing.T) {
		for _, name := range []string{"other", "hosta"} {
			begin := time.Now()
			wait.Must(t, a.SetHostName(wait.Soon(t), name))
			at := seenB.until(t, neighbours(1), present("a@hosta.local", onHost(name+".local")))
			t.Logf("renamed, seen on B after %v", at.Sub(begin).Round(time.Millisecond))
			a.awaitTable(t, `1 on the LAN`)
			if own := a.nodes(t)["a@hosta.local"]; own.Host != name+".local" {
				t.Errorf("own host is %q", own.Host)
			}
		}
	})
	for _, h := range []*host{a, b} {
		t.Run("link of "+h.Name(), func(t *testing.T) {
			wait.Must(t, h.LinkDown(wait.Soon(t), "eth0"))
			missed := "missed-" + h.Name()
			a.register(t, missed, 4102)
			checkLookup(t, a, missed, 4102)
			map[*host]*watcher{a: seenA, b: seenB}[h].until(t, reachableNeighbours(0))
			wait.Must(t, h.LinkUp(wait.Soon(t), "eth0"))
			begin := time.Now()
			at := seenB.until(t, present(missed+"@hosta.local", reachable), present("a@hosta.local", sure, reachable))
			t.Logf("made up on B %v after the return", at.Sub(begin).Round(time.Millisecond))
			seenA.until(t, present("b@hostb.local", reachable))
		})
	}
	t.Run("second interface", func(t *testing.T) { testSecondInterface(t, a, b, seenB) })
	checkSilent(t, node)
}

func onHost(host string) func(registry.Node) bool {
	return func(n registry.Node) bool { return n.Host == host }
}

// v4 reports whether a node's IPv4 addresses are these.
func v4(want ...netip.Addr) func(registry.Node) bool {
	return func(n registry.Node) bool {
		return slices.Equal(want, slices.DeleteFunc(slices.Clone(n.Addresses), netip.Addr.Is6))
	}
}

// testSecondInterface joins both hosts to a second LAN: what is seen there too is still one
// neighbour.
func testSecondInterface(t *testing.T, a, b *host, seen *watcher) {
	second, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, second.Close()) })
	for _, h := range []*host{a, b} {
		_, err := second.Attach(wait.Soon(t), h.Host)
		wait.Must(t, err)
	}
	begin := time.Now()
	first, other := a.Address(), netip.MustParseAddr("203.0.113.11")
	at := seen.until(t, present("a@hosta.local", v4(first, other)), neighbours(3))
	t.Logf("four addresses after %v", at.Sub(begin).Round(time.Millisecond))
	wait.Must(t, b.RemoveInterface(wait.Soon(t), "eth1"))
	seen.until(t, present("a@hosta.local", v4(first)), neighbours(3))
	wait.Must(t, a.RemoveInterface(wait.Soon(t), "eth1"))

	a.stop(t)
	seen.until(t, neighbours(0))
	iface, err := second.Attach(wait.Soon(t), a.Host)
	wait.Must(t, err)
	_, err = second.Attach(wait.Soon(t), b.Host)
	wait.Must(t, err)
	a.start(t, "-interface", iface)
	seen.until(t, present("a@hosta.local", sure, v4(netip.MustParseAddr("203.0.113.13"))))
	for _, i := range labelled(b.browse(t), "a@hosta") {
		if i.iface == "eth0" {
			t.Errorf("published on another interface: %+v", i)
		}
	}
}

// TestLANOptions runs epmd in every way in which nothing is published, or nothing looked for.
func TestLANOptions(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	variants := []struct {
		host               string
		args               string
		publishes, browses bool
		off                string // why there is no LAN discovery
	}{
		{"both", "-lan on", true, true, ""},
		{"publishing", "-lan publish", true, false, ""},
		{"browsing", "-lan browse", false, true, ""},
		{"off", "-lan off", false, false, "-lan off"},
		{"private", "-allow local", false, true, ""},
		{"loopback", "-address 127.0.0.1", false, true, ""},
		{"public", "-allow any -address 0.0.0.0", true, true, ""},
	}
	var names []string
	for _, v := range variants {
		names = append(names, v.host)
	}
	hosts := addHosts(t, n, lan.HostOptions{}, names...)
	for i, v := range variants {
		hosts[i].start(t, strings.Fields(v.args)...)
		hosts[i].register(t, "n", 4711)
	}
	passTime(t, hosts[3], hosts[0])
	found := hosts[0].browse(t)
	for i, v := range variants {
		t.Run(v.args, func(t *testing.T) {
			published := make(map[string]bool)
			for _, f := range found {
				published[f.label] = true
			}
			if published["n@"+v.host] != v.publishes || published[v.host] != v.publishes {
				t.Errorf("published: node %v, host %v; want %v", published["n@"+v.host], published[v.host], v.publishes)
			}
			listed := hosts[i].nodes(t)
			for _, other := range variants {
				name := "n@" + other.host + ".local"
				origin, want := listed[name].Origin, ""
				switch {
				case other.host == v.host:
					want = "local"
				case other.publishes && v.browses:
					want = "lan"
				}
				if origin != want {
					t.Errorf("%s is listed as of origin %q, want %q", name, origin, want)
				}
			}
			if out := hosts[i].ask(t, "-nodes"); strings.Contains(out, "LAN discovery off") != (v.off != "") || !strings.Contains(out, v.off) {
				t.Errorf("epmd -nodes shows\n%s", out)
			}
		})
	}
}

// passTime publishes two services on from, one after the other, and returns when to has seen them.
// All that was to be published before that has been.
func passTime(t *testing.T, from, to *host) {
	t.Helper()
	browse, err := to.Start(t.Context(), "avahi-browse", "-rp", "_marker._tcp")
	wait.Must(t, err)
	for i := range 2 {
		label := fmt.Sprintf("marker%d-%s", i, t.Name())
		label = label[:min(len(label), 63)]
		publish(t, from, label, "_marker._tcp", "1")
		if _, err := browse.WaitOutput(wait.Soon(t), `(?m)^=;.*;marker`+strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	wait.Must(t, browse.Kill(wait.Soon(t)))
}

// publish has avahi-publish announce a service on the host until the test ends.
func publish(t *testing.T, h *host, label string, rest ...string) *lan.Process {
	t.Helper()
	p, err := h.Start(t.Context(), "avahi-publish", append([]string{"-s", label}, rest...)...)
	wait.Must(t, err)
	return p
}

// TestLANFamilies has hosts that use one IP version alone, and two hosts of one name.
func TestLANFamilies(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	b := addHosts(t, n, lan.HostOptions{}, "hostb")[0]
	four := addHosts(t, n, lan.HostOptions{NoIPv6: true}, "four")[0]
	six := addHosts(t, n, lan.HostOptions{NoIPv4: true}, "six")[0]
	for _, h := range []*host{b, four, six} {
		h.start(t)
		h.register(t, "n", 4711)
	}
	one := []netip.Addr{four.Address()}
	seen := b.watch(t)
	seen.until(t, present("n@four.local", v4(one...)), present("n@six.local", v4()), neighbours(2))
	if got := seen.node(t, "n@four.local").Addresses; !slices.Equal(got, one) {
		t.Errorf("the host without IPv6 is at %v", got)
	}
	if got := seen.node(t, "n@six.local").Addresses; len(got) != 1 || !got[0].Is6() || got[0].Zone() != "eth0" {
		t.Errorf("the host without IPv4 is at %v", got)
	}
	four.watch(t).until(t, present("n@hostb.local", v4(b.Address())), neighbours(1))
	six.watch(t).until(t, present("n@hostb.local"), neighbours(1))

	t.Run("one host name", func(t *testing.T) {
		again := addHosts(t, n, lan.HostOptions{AvahiName: "four"}, "again")[0]
		again.start(t)
		again.register(t, "n", 4712)
		seen.until(t, present("n@four.local", onPort(4711)), present("n@four-2.local", onPort(4712), onHost("four-2.local")))
		four.watch(t).until(t, present("n@four-2.local"), neighbours(2))
		again.watch(t).until(t, present("n@four.local", onPort(4711)), local("n@four-2.local"))
	})
}

// TestLANTwoEPMDs has a second epmd on a host, as any user can start one. Neither hides anything of
// the other.
func TestLANTwoEPMDs(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, tools...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	a.start(t, "-hosts_file", hostsPath)
	b.start(t)
	seen := a.watch(t)
	second, err := b.Start(t.Context(), eclusBinary(t), "-port", "5555")
	wait.Must(t, err)
	other := epmd.NewClient(netip.MustParseAddrPort("127.0.0.1:5555"))
	b.listen(t, 4712)
	var registered *epmd.Registration
	wait.Must(t, lan.Wait(wait.Soon(t), "the second epmd", func(ctx context.Context) (bool, error) {
		return b.inside(func() (err error) {
			registered, err = other.Register(ctx, aliveReq("b", 4712))
			return err
		}) == nil, nil
	}))
	t.Cleanup(func() { registered.Close() })
	seen.until(t, present("b@hostb.local", atEPMD(5555), onPort(4712)), neighbours(1))
	a.ping(t, "b@hostb.local").checkFails(t, "lookup", `"b" is not registered there`, "epmd on port 5555 of hostb.local: epmd -port 5555 -ping b@hostb.local")
	first := b.register(t, "b", 4711)
	seen.until(t, present("b@hostb.local", atEPMD(4369), onPort(4711)), present("b@hostb.local", atEPMD(5555), onPort(4712)), neighbours(2))
	a.awaitHosts(t, "'hostb.local'.")
	a.awaitTable(t, `(?s)SINCE +VIA +EPMD.*\nb@hostb\.local \S+ +\S+ +4711 [^\n]* yes [^\n]*\nb@hostb\.local \S+ +\S+ +4712 [^\n]* yes [^\n]* 5555\s`)
	if listed := b.ask(t, "-nodes"); !strings.HasPrefix(listed, "epmd on port 4369: 1 node, 0 on the LAN\n") {
		t.Errorf("B takes what its other epmd announces for a neighbour:\n%s", listed)
	}

	wait.Must(t, first.Close())
	seen.until(t, present("b@hostb.local", atEPMD(5555)), neighbours(1))
	a.awaitHosts(t, "")
	b.register(t, "b", 4713)
	seen.until(t, present("b@hostb.local", atEPMD(4369), onPort(4713)), neighbours(2))
	wait.Must(t, second.Stop(wait.Soon(t)))
	seen.until(t, present("b@hostb.local", atEPMD(4369), onPort(4713)), neighbours(1))
	a.awaitHosts(t, "'hostb.local'.")
}

// TestLANOwnAddress has another host announce what leads to an address of this one. Own nodes don't
// come back that way.
func TestLANOwnAddress(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seen := a.watch(t)
	a.register(t, "own", 4711)
	address := func(name string, addr netip.Addr) {
		t.Helper()
		p, err := b.Start(t.Context(), "avahi-publish", "-a", "-R", name, addr.String())
		wait.Must(t, err)
		_, err = p.WaitOutput(wait.Soon(t), "Established")
		wait.Must(t, err)
	}
	address("thatname.local", a.Address())
	publish(t, b, "epmd of thatname", "-H", "thatname.local", "_epmd._tcp", "4369")
	publish(t, b, "own@thatname", "-H", "thatname.local", "_epmd._tcp", "4711")
	publish(t, b, "its", "-H", "thatname.local", "_epmd._tcp", "4712", "node=its@thatname.local")
	const address2 = "198.51.100.77"
	address("moving.local", netip.MustParseAddr(address2))
	publish(t, b, "moving", "-H", "moving.local", "_epmd._tcp", "4713")
	seen.until(t, present("moving@moving.local"))
	passTime(t, b, a)
	seen.until(t, neighbours(1))

	wait.Must(t, a.AddAddress(wait.Soon(t), "eth0", netip.MustParsePrefix(address2+"/24")))
	seen.until(t, neighbours(0))
	_, err := a.Output(wait.Soon(t), "ip", "addr", "del", address2+"/24", "dev", "eth0")
	wait.Must(t, err)
	seen.until(t, present("moving@moving.local"), neighbours(1))
	if lines := seen.history(); strings.Contains(lines, "thatname") {
		t.Errorf("A has seen its own nodes on the LAN:\n%s", lines)
	}
}

// TestLANOffLink has another host announce epmds and nodes at addresses off the link, and at ports
// of other services. This host has a route to all, and connects to none.
func TestLANOffLink(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "evil")
	a, evil := hosts[0], hosts[1]
	_, err := a.Output(wait.Soon(t), "ip", "route", "add", "default", "via", evil.Address().String())
	wait.Must(t, err)
	_, err = a.Output(wait.Soon(t), "nft", "table inet test { counter off {}; counter low {}; chain out { type filter hook output priority 0; "+
		"ip daddr != { 198.51.100.0/24, 224.0.0.0/4, 127.0.0.0/8 } counter name off; ip daddr 198.51.100.0/24 tcp dport < 1024 counter name low; }; }")
	wait.Must(t, err)
	a.start(t)
	seen := a.watch(t)
	for i, addr := range []string{"8.8.8.8", "169.254.169.254", "10.66.0.1", "192.0.2.99"} {
		name := fmt.Sprintf("off%d.local", i)
		p, err := evil.Start(t.Context(), "avahi-publish", "-a", "-R", name, addr)
		wait.Must(t, err)
		_, err = p.WaitOutput(wait.Soon(t), "Established")
		wait.Must(t, err)
		publish(t, evil, fmt.Sprint("epmd", i), "-H", name, "_epmd._tcp", "4369")
		publish(t, evil, fmt.Sprint("host", i), "-H", name, "_epmd._tcp", "4369", "eclus=1")
		publish(t, evil, fmt.Sprintf("n@off%d", i), "-H", name, "_epmd._tcp", "53", "node=n@"+name, "epmd=3306")
	}
	publish(t, evil, "low", "_epmd._tcp", "22", "node=low@evil.local", "epmd=22")
	publish(t, evil, "low host", "_epmd._tcp", "22", "eclus=1")
	publish(t, evil, "here", "_epmd._tcp", "4711", "node=here@evil.local")
	seen.until(t, present("here@evil.local", func(n registry.Node) bool { return n.Reach == registry.Unreachable }))
	passTime(t, evil, a)
	a.ask(t, "-nodes")
	seen.until(t, neighbours(1))
	for _, counter := range []string{"off", "low"} {
		out, err := a.Output(wait.Soon(t), "nft", "list", "counter", "inet", "test", counter)
		if err != nil || !strings.Contains(out, "packets 0 ") {
			t.Errorf("packets where no announcement may lead: %s, %v", out, err)
		}
	}
}

func atEPMD(port uint16) func(registry.Node) bool {
	return func(n registry.Node) bool { return n.EPMDPort == port }
}

// TestLANForeign has others than ours announce nodes and epmds.
func TestLANForeign(t *testing.T) {
	t.Parallel()
	n := lan.ForTest(t, append(tools, "epmd")...)
	hosts := addHosts(t, n, lan.HostOptions{}, "hosta", "hostb", "nerves")
	a, b, nerves := hosts[0], hosts[1], hosts[2]
	wait.Must(t, b.WriteFile("/etc/hosts", "127.0.0.1 localhost\n"+a.Address().String()+" name.example\n", 0o644))
	b.start(t)
	seen := b.watch(t)
	stock, err := nerves.Start(t.Context(), "epmd")
	wait.Must(t, err)
	e := nerves.erl(t, "-name", "n@nerves.local")
	publish(t, nerves, "nerves", "_epmd._tcp", "4369")

	// Of the hosts in the full names, /etc/hosts has name.example, at the address of A.
	announced := []struct {
		label string
		rest  string // port and TXT
		node  string // empty: nothing to be listed
		port  uint16
		sure  bool
	}{
		{"bare", "1001", "bare@hosta.local", 1001, false},
		{"old@somewhere", "1002", "old@somewhere", 1002, false},
		{"any label at all", "1003 name=full@name.example", "full@name.example", 1003, true},
		{"x", "1004 name=alive type=hidden", "alive@hosta.local", 1004, false},
		{"y", "1005 node=y@y.example name=y dist=tls", "y@y.example", 1005, false},
		{"bad port", "4369 name=p@p.example", "p@p.example", 4369, false},
		{"control", "1010 node=with\x1b[31m@control", "", 0, false},
		{"newline", "1011 node=with\n-@newline", "", 0, false},
		{"\x1b]0;title\x07", "1012", "", 0, false},
		{"nbsp\u00a0bidi\u202e", "1013", "", 0, false},
		{"invalid", "1014 node=\xff\xfe@utf8", "", 0, false},
		{"long", "1015 node=" + strings.Repeat("x", 240) + "@y", strings.Repeat("x", 240) + "@y", 1015, false},
		{"contradiction", "1016 node=c@c name=d", "", 0, false},
		{"at@two@signs", "1017", "", 0, false},
		{"oldest", "1018 email=a@b.example jid= status=avail", "oldest@hosta.local", 1018, false},
		{"quotes", "1019 node=q'\"\\@hosta.local", "", 0, false},
		{"percent", "1020 node=percent@100%41.example", "percent@100%41.example", 1020, false},
		{"own", "1021 node=own@hosta.local", "own@hosta.local", 1021, true},
		{"impostor", "1022 node=n2@nerves.local", "n2@nerves.local", 1022, false},
		{"privileged", "1023 node=p2@hosta.local epmd=22", "", 0, false},
	}
	var publishers []*lan.Process
	for _, x := range announced {
		publishers = append(publishers, publish(t, a, x.label, append([]string{"_epmd._tcp"}, strings.Split(x.rest, " ")...)...))
	}
	for i, p := range publishers {
		if _, err := p.WaitOutput(wait.Soon(t), "Established"); err != nil {
			t.Errorf("%q: %v", announced[i].label, err)
		}
	}
	listed := 0
	for _, x := range announced {
		if x.node != "" {
			listed++
			seen.until(t, present(x.node, onPort(x.port), onHost("hosta.local"), func(n registry.Node) bool { return n.Sure == x.sure }))
		}
	}
	seen.until(t, present("n@nerves.local", onHost("nerves.local")), neighbours(listed+1))
	passTime(t, a, b)
	seen.until(t, neighbours(listed+1))
	checkAllShown(t, b)
	if n := seen.node(t, "alive@hosta.local"); n.Type != registry.Hidden {
		t.Errorf("hidden node seen as %+v", n)
	}
	eval(t, e, "net_adm:names().", value(t, e, "{ok, [{\"n\", "+strconv.Itoa(int(seen.node(t, "n@nerves.local").Port))+"}]}."))

	t.Run("labels", func(t *testing.T) { testHostilePackets(t, n, b, seen, listed+1) })
	wait.Must(t, stock.Kill(wait.Soon(t)))
	checkSilent(t, e)
}

// checkAllShown looks at how all that B knows is shown.
func checkAllShown(t *testing.T, b *host) {
	t.Helper()
	var raw []byte
	wait.Must(t, b.inside(func() error {
		conn, err := b.client().Ask(wait.Soon(t), epmd.NodesReq{})
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err = io.ReadAll(conn)
		return err
	}))
	checkShown(t, "N", string(raw[4:])) // after epmd's port
	for _, flags := range [][]string{{"-nodes"}, {"-nodes", "-json"}} {
		checkShown(t, strings.Join(flags, " "), b.ask(t, flags...))
	}
}

// hostile is what no Avahi would publish, and the one thing among it that is to be listed.
var hostile = []struct{ label, target, text string }{
	{"\xff\xfe@utf8", "evil", "txtvers=1"},
	{"e\x00vil@nul", "evil", "txtvers=1"},
	{"\x1b[2J@escape", "evil", "node=\x1b[2J@escape"},
	{strings.Repeat("\xc3", 63), "evil", "name=\xc3\x28"},
	{"dots.and\\back@slash", "evil", ""},
	{"target", "ev\x1b[31mil", "node=target@evil"},
	{"target2", "ev\xffil", "node=target2@evil"},
	{"target3", "127.0.0.1", "node=target3@evil"},
	{"empty", "evil", "=" + strings.Repeat("\x00", 200)},
	{"overlong", "evil", "node=" + strings.Repeat("a", 250)},
	{"good", "evil", "node=good@evil.example"},
}

// testHostilePackets announces, with packets of its own, what no Avahi would publish.
func testHostilePackets(t *testing.T, n *lan.Network, b *host, seen *watcher, before int) {
	evil := addHosts(t, n, lan.HostOptions{NoBus: true}, "evil")[0]
	var conn *net.UDPConn
	wait.Must(t, evil.inside(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(198, 51, 100, 14), Port: mdnsPort})
		return err
	}))
	defer conn.Close()
	group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: mdnsPort}
	good := present("good@evil.example")
	// What is sent as the host has just come up may be lost.
	wait.Must(t, lan.Wait(wait.Soon(t), good.what, func(context.Context) (bool, error) {
		for i, x := range hostile {
			packet := announcement(x.label, x.target, uint16(2000+i), x.text, evil.Address())
			if _, err := conn.WriteToUDP(packet, group); err != nil {
				return false, err
			}
		}
		_, _, missing, err := seen.look([]condition{good})
		return missing == "", err
	}))
	passTime(t, b, b)
	checkAllShown(t, b)
	for node := range b.nodes(t) {
		if strings.Contains(node, "escape") || strings.Contains(node, "nul") || strings.HasPrefix(node, "target") {
			t.Errorf("%q is listed", node)
		}
	}
	t.Logf("B lists %d nodes, %d before: %q", len(b.nodes(t)), before, slices.Sorted(maps.Keys(b.nodes(t))))
	if _, err := b.lookup(wait.Soon(t), "nobody"); !errors.Is(err, epmd.ErrNotRegistered) {
		t.Errorf("lookup after all: %v", err)
	}
}

const mdnsPort = 5353

// announcement is an mDNS response (RFC 6762) that tells of one service instance and its host's
// address.
func announcement(label, target string, port uint16, text string, addr netip.Addr) []byte {
	packet := serviceRecords(label, target, port, text)
	packet[7]++
	return append(packet, dnsRecord(dnsName(target, "local"), 1, 0x8001, addr.AsSlice())...)
}

// serviceRecords is an mDNS response that tells of one service instance alone.
func serviceRecords(label, target string, port uint16, text string) []byte {
	kind := dnsName("_epmd", "_tcp", "local")
	name := append(dnsLabel(label), kind...)
	host := dnsName(target, "local")
	srv := append(binary.BigEndian.AppendUint16([]byte{0, 0, 0, 0}, port), host...)
	packet := []byte{0, 0, 0x84, 0, 0, 0, 0, 3, 0, 0, 0, 0}
	packet = append(packet, dnsRecord(kind, 12, 1, name)...)
	packet = append(packet, dnsRecord(name, 33, 0x8001, srv)...)
	return append(packet, dnsRecord(name, 16, 0x8001, dnsLabel(text))...)
}

func dnsRecord(name []byte, kind, class uint16, data []byte) []byte {
	record := slices.Clone(name)
	record = binary.BigEndian.AppendUint16(record, kind)
	record = binary.BigEndian.AppendUint16(record, class)
	record = binary.BigEndian.AppendUint32(record, 120) // seconds to live
	record = binary.BigEndian.AppendUint16(record, uint16(len(data)))
	return append(record, data...)
}

func dnsName(labels ...string) []byte {
	var name []byte
	for _, l := range labels {
		name = append(name, dnsLabel(l)...)
	}
	return append(name, 0)
}

func dnsLabel(s string) []byte { return append([]byte{byte(len(s))}, s...) }

// TestLANLatency measures how long it takes until B lists a node of A, with its name asked for.
// Beside that stands what Avahi alone takes for the same. It does so with nothing else running.
func TestLANLatency(t *testing.T) {
	a, b := shippedPair(t)
	seenA, seenB := a.watch(t), b.watch(t)
	node := a.erl(t)
	browse, err := b.Start(t.Context(), "avahi-browse", "-rp", "_epmd._tcp")
	wait.Must(t, err)
	var ours, theirs []time.Duration
	for i := range 5 {
		name := fmt.Sprintf("m%d@hosta.local", i)
		value(t, node, "{ok, _} = net_kernel:start(['"+name+"', longnames]), node().")
		registered := seenA.until(t, local(name))
		at := seenB.until(t, present(name, sure))
		ours = append(ours, at.Sub(registered))
		eval(t, node, "net_kernel:stop().", "ok")

		begin := time.Now()
		p := publish(t, a, fmt.Sprint("other", i), "_epmd._tcp", "4711")
		_, err := browse.WaitOutput(wait.Soon(t), fmt.Sprintf("(?m)^=;.*;other%d;", i))
		wait.Must(t, err)
		theirs = append(theirs, time.Since(begin))
		wait.Must(t, p.Stop(wait.Soon(t)))
	}
	seenB.until(t, neighbours(0))
	t.Logf("registered on A, seen on B with its name: median %v of %v", median(ours), ours)
	t.Logf("avahi-publish on A, resolved by avahi-browse on B: median %v of %v", median(theirs), theirs)
	t.Logf("ratio %.2f", median(ours).Seconds()/median(theirs).Seconds())
}

// shippedPair is pair with epmd as it is shipped, which is the one to measure.
func shippedPair(t *testing.T) (a, b *host) {
	t.Helper()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "hostb")
	binary := shippedBinary(t)
	for _, h := range hosts {
		h.run(t, binary)
	}
	return hosts[0], hosts[1]
}

const (
	idleTime    = 10 * time.Second // how long nothing happens on the LAN
	idleTimes   = 6
	maxSwitches = 50 // in an idleTime; what wakes up ten times a second has a hundred in each
)

// TestLANIdle counts how often epmd wakes up when nothing happens. In one of several times that has
// to be seldom. At first a Go program deals with its news, and on a busy machine threads wait for
// each other.
func TestLANIdle(t *testing.T) {
	t.Parallel()
	a, b := shippedPair(t)
	seenA, seenB := a.watch(t), b.watch(t)
	nodes := []*lan.Erl{a.erl(t, "-name", "a@hosta.local"), b.erl(t, "-name", "b@hostb.local")}
	seenA.until(t, present("b@hostb.local", sure))
	seenB.until(t, present("a@hosta.local", sure))
	busy := map[*host]bool{a: true, b: true}
	for range idleTimes {
		before := map[*host]int{a: switches(t, a), b: switches(t, b)}
		<-time.After(idleTime)
		for h := range busy {
			n := switches(t, h) - before[h]
			t.Logf("epmd on %s: %d context switches in %v of a quiet LAN", h.Name(), n, idleTime)
			if n <= maxSwitches {
				delete(busy, h)
			}
		}
		if len(busy) == 0 {
			checkSilent(t, nodes...)
			return
		}
	}
	for h := range busy {
		t.Errorf("epmd on %s: more than %d context switches in each", h.Name(), maxSwitches)
	}
}

// shippedBinary returns the path of our epmd as it is shipped. The race detector has a thread that
// wakes up all the time.
func shippedBinary(t *testing.T) string {
	t.Helper()
	if len(buildFlags) == 0 {
		return eclusBinary(t)
	}
	return shipped(t)
}

// switches returns how often the threads of epmd on the host have given up a processor. They do so
// after each time that something wakes them. How often others take it from them says how busy the
// machine is.
func switches(t *testing.T, h *host) int {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", h.epmd.Pid()))
	wait.Must(t, err)
	sum := 0
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		wait.Must(t, err)
		for _, m := range contextSwitches.FindAllStringSubmatch(string(status), -1) {
			n, err := strconv.Atoi(m[1])
			wait.Must(t, err)
			sum += n
		}
	}
	return sum
}

var contextSwitches = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\t(\d+)$`)

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(time.Millisecond)
}
