package avahi_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// catchUp is how soon all is made up once Avahi is there again, on however slow a machine.
const catchUp = 15 * time.Second

func TestAvahiRestarted(t *testing.T) {
	a, b := pair(t)
	a.publish()
	b.browse()
	a.register("a", 4711)
	b.until("a appears", node("a@hosta.example"))
	events := b.record()

	wait.Must(t, b.Avahi.Restart(wait.Soon(t)))
	began := time.Now()
	a.register("late", 4712)
	b.until("what was missed is made up", node("late@hosta.example"))
	t.Logf("browsing Avahi restarted, made up after %v", time.Since(began))
	if took := time.Since(began); took > catchUp {
		t.Errorf("made up after %v, want at most %v", took, catchUp)
	}
	gone := a.register("gone", 4713)
	b.until("gone appears", node("gone@hosta.example"))
	if got := events.String(); strings.Contains(got, "down") {
		t.Errorf("neighbours went when avahi-daemon was restarted:\n%s", got)
	}

	wait.Must(t, b.Avahi.Stop(wait.Soon(t)))
	a.reg.Unregister(gone)
	wait.Must(t, b.Avahi.Start(wait.Soon(t)))
	began = time.Now()
	b.until("gone goes", func(nodes []*registry.Node) bool { return !node("gone@hosta.example")(nodes) })
	t.Logf("what had gone is gone after %v", time.Since(began))
	b.until("the others stay", count(2))
	if got := events.String(); strings.Contains(got, "down a@") {
		t.Errorf("neighbours went when avahi-daemon was restarted:\n%s", got)
	}

	wait.Must(t, a.Avahi.Stop(wait.Soon(t)))
	b.until("all nodes of A go", count(0))
	a.register("later", 4714)
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	began = time.Now()
	b.until("all nodes of A are back", count(3))
	t.Logf("publishing Avahi restarted, made up after %v", time.Since(began))
	if took := time.Since(began); took > catchUp {
		t.Errorf("made up after %v, want at most %v", took, catchUp)
	}
}

func TestAvahiKilled(t *testing.T) {
	a, b := pair(t)
	a.publish()
	browser, _ := b.browse()
	a.register("a", 4711)
	b.until("a appears", node("a@hosta.example"))
	wait.Must(t, b.Avahi.Kill(wait.Soon(t)))
	b.until("a goes when Avahi doesn't come back", count(0))
	if got := browser.State().String(); got != "LAN discovery off: avahi-daemon is not running" {
		t.Errorf("state %q", got)
	}
	wait.Must(t, b.Avahi.Start(wait.Soon(t)))
	b.until("a is back", node("a@hosta.example"))
	wait.Must(t, a.Avahi.Kill(wait.Soon(t)))
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	a.register("later", 4712)
	b.until("later appears", node("later@hosta.example"))
}

func TestAbsentAtStart(t *testing.T) {
	a, b := pair(t, lan.HostOptions{NoBus: true}, lan.HostOptions{NoAvahi: true})
	publisher, _ := a.publish()
	browser, _ := b.browse()
	a.register("a", 4711)
	waitState(t, "no bus", publisher.State, "no such file or directory")
	waitState(t, "no avahi", browser.State, "avahi-daemon is not running")
	wait.Must(t, a.Bus.Start(wait.Soon(t)))
	waitState(t, "bus, but no avahi", publisher.State, "avahi-daemon is not running")
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	wait.Must(t, b.Avahi.Start(wait.Soon(t)))
	began := time.Now()
	b.until("a appears", node("a@hosta.example"))
	t.Logf("made up after %v", time.Since(began))
	if took := time.Since(began); took > catchUp {
		t.Errorf("made up after %v, want at most %v", took, catchUp)
	}
	if a.reg.Host() != "hosta.local" || b.reg.Host() != "hostb.local" {
		t.Errorf("hosts %q and %q", a.reg.Host(), b.reg.Host())
	}
}

func waitState(t *testing.T, what string, state func() avahi.State, want string) {
	t.Helper()
	wait.Must(t, lan.Wait(wait.Soon(t), what, func(context.Context) (bool, error) {
		return strings.Contains(state().String(), want), nil
	}))
}

func TestBusRestarted(t *testing.T) {
	a, b := pair(t)
	publisher, _ := a.publish()
	browser, _ := b.browse()
	a.register("a", 4711)
	b.until("a appears", node("a@hosta.example"))
	for _, kill := range []bool{false, true} {
		for _, s := range []*side{a, b} {
			end := s.Bus.Stop
			if kill {
				end = s.Bus.Kill
			}
			wait.Must(t, end(wait.Soon(t)))
			wait.Must(t, s.Avahi.Kill(wait.Soon(t)))
		}
		waitState(t, "publisher knows", publisher.State, "LAN discovery off")
		waitState(t, "browser knows", browser.State, "LAN discovery off")
		b.until("a goes", count(0))
		for _, s := range []*side{a, b} {
			wait.Must(t, s.Bus.Start(wait.Soon(t)))
			wait.Must(t, s.Avahi.Start(wait.Soon(t)))
		}
		began := time.Now()
		b.until("a is back", node("a@hosta.example"))
		t.Logf("killed %v: made up after %v", kill, time.Since(began))
		if took := time.Since(began); took > catchUp {
			t.Errorf("killed %v: made up after %v, want at most %v", kill, took, catchUp)
		}
	}
}

func TestHostRenamed(t *testing.T) {
	a, b := pair(t)
	a.publish()
	a.browse()
	b.browse()
	events := a.record()
	a.register("a", 4711)
	b.until("a appears", node("a@hosta.example"))
	wait.Must(t, a.SetHostName(wait.Soon(t), "other"))
	b.until("a appears on the renamed host", node("a@hosta.example", func(n *registry.Node) bool { return n.Host == "other.local" }))
	b.until("the old host's goes", count(1))
	if a.reg.Host() != "other.local" {
		t.Errorf("host name is %q", a.reg.Host())
	}
	if got := events.String(); strings.Count(got, "up ") != 1 {
		t.Errorf("own nodes were neighbours:\n%s", got)
	}
}

func TestCollision(t *testing.T) {
	a, b := pair(t)
	b.browse()
	// A program of A's and one of another host have taken the names.
	start(t, a, "avahi-publish", "-s", "local@hosta", "_epmd._tcp", "1", "x=y")
	theirs := start(t, b, "avahi-publish", "-s", "remote@hosta", "_epmd._tcp", "2", "x=y")
	expect(t, theirs, "Established")
	seen := start(t, a, "avahi-browse", "-rp", "_epmd._tcp")
	expect(t, seen, `(?m)^=;.*;remote\\064hosta;`)
	expect(t, seen, `(?m)^=;.*;local\\064hosta;`)
	a.publish()
	a.register("local", 4711)
	a.register("remote", 4712)
	// Of "local" the first announcement stands, as nobody asks the epmd of A here.
	b.until("both appear", func(nodes []*registry.Node) bool {
		return node("local@hosta", onPort(1))(nodes) && node("remote@hosta.example", onPort(4712))(nodes)
	})
	expect(t, seen, `(?m)^=;.*;local\\064hosta\\032\\0352;.*"node=local@hosta.example"`)
}

func TestPortChanged(t *testing.T) {
	a, b := pair(t)
	a.publish()
	b.browse()
	r := a.register("a", 4711)
	b.until("a appears", node("a@hosta.example", onPort(4711)))
	events := b.record()
	for port := uint16(4712); port < 4715; port++ {
		a.reg.Unregister(r)
		r = a.register("a", port)
		b.until("the new port is seen", node("a@hosta.example", onPort(port)))
	}
	t.Logf("events:\n%s", events)
}

func TestLateIdentity(t *testing.T) {
	a, b := pair(t)
	a.publish()
	b.browse()
	began := time.Now()
	r := a.registerOnly("a", 4711)
	n := b.until("a appears", node("a@hosta.local", onPort(4711)))[0]
	if took := time.Since(began); n.Sure || took < 500*time.Millisecond {
		t.Errorf("without its name after %v: %+v", took, n)
	}
	a.identify(r)
	b.until("its name is seen", node("a@hosta.example"))
	b.until("what it was called before is forgotten", count(1))
}

// TestManyNodes has more nodes than are announced. Those that go make room.
func TestManyNodes(t *testing.T) {
	a, b := pair(t)
	publisher, stop := a.publish()
	b.browse()
	waitState(t, "publisher is up", publisher.State, "LAN discovery on")
	began := time.Now()
	var registrations []*registry.Registration
	for i := range 300 {
		registrations = append(registrations, a.register(fmt.Sprintf("n%d", i), uint16(5000+i)))
	}
	waitCount(t, publisher.State, avahi.State{Instances: 256, Unannounced: 45})
	t.Logf("256 instances established after %v", time.Since(began))
	b.until("255 nodes appear", count(255))
	t.Logf("255 nodes seen after %v", time.Since(began))
	if got := a.reg.LAN().Publishing.Unannounced; got != 45 {
		t.Errorf("%d nodes are said not to be announced, want 45", got)
	}
	for _, r := range registrations[:50] {
		a.reg.Unregister(r)
	}
	waitCount(t, publisher.State, avahi.State{Instances: 251})
	b.until("the others appear", func(nodes []*registry.Node) bool {
		return len(nodes) == 250 && node("n299@hosta.example")(nodes)
	})
	began = time.Now()
	stop()
	t.Logf("250 nodes withdrawn in %v", time.Since(began))
	b.until("all go", count(0))
}

func waitCount(t *testing.T, state func() avahi.State, want avahi.State) {
	t.Helper()
	err := lan.Wait(wait.Soon(t), fmt.Sprintf("state %+v", want), func(context.Context) (bool, error) { return state() == want, nil })
	if err != nil {
		s := state()
		t.Fatalf("%v; it is %q, with %d instances, %d waiting, %d unannounced", err, s.Off, s.Instances, s.Waiting, s.Unannounced)
	}
}

// TestPublishLimit has more nodes than Avahi has places.
func TestPublishLimit(t *testing.T) {
	a, b := pair(t)
	publisher, _ := a.publishLimited(20)
	b.browse()
	var registrations []*registry.Registration
	for i := range 30 {
		registrations = append(registrations, a.register(fmt.Sprintf("n%d", i), uint16(5000+i)))
	}
	waitCount(t, publisher.State, avahi.State{Instances: 20, Waiting: 11})
	b.until("those with a place appear", count(19))
	for _, r := range registrations[25:] {
		a.reg.Unregister(r)
	}
	waitCount(t, publisher.State, avahi.State{Instances: 20, Waiting: 6})
	for _, r := range registrations[:10] {
		a.reg.Unregister(r)
	}
	waitCount(t, publisher.State, avahi.State{Instances: 16})
	b.until("those that waited appear", func(nodes []*registry.Node) bool {
		return len(nodes) == 15 && node("n24@hosta.example")(nodes)
	})
}

// TestPublishShares has a user with more nodes than there are places: those that a host announces,
// or those of Avahi. A node of another user is announced all the same. The first user has the place
// back once that node has gone.
func TestPublishShares(t *testing.T) {
	for _, tt := range []struct {
		name           string
		objects, nodes int
		full, more     avahi.State
	}{
		{"announced", 1000, 300, avahi.State{Instances: 256, Unannounced: 45}, avahi.State{Instances: 256, Unannounced: 46}},
		{"Avahi", 20, 30, avahi.State{Instances: 20, Waiting: 11}, avahi.State{Instances: 20, Waiting: 12}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			publisher, _ := a.publishLimited(tt.objects)
			b.browse()
			tt.full.Whose, tt.more.Whose = "user 65001", "user 65001"
			for i := range tt.nodes {
				a.registerOf(65001, fmt.Sprintf("n%d", i), uint16(5000+i))
			}
			waitCount(t, publisher.State, tt.full)
			began := time.Now()
			rabbit := a.registerOf(65002, "rabbit", 25672)
			b.until("the node of another user appears", func(nodes []*registry.Node) bool {
				return slices.ContainsFunc(nodes, func(n *registry.Node) bool { return n.Name == "rabbit" })
			})
			t.Logf("seen after %v", time.Since(began))
			waitCount(t, publisher.State, tt.more)
			if got := a.reg.LAN().String(); !strings.HasSuffix(got, " (user 65001 has most places)") {
				t.Errorf("said %q; want whose the places are", got)
			}
			a.reg.Unregister(rabbit)
			waitCount(t, publisher.State, tt.full)
		})
	}
}

// registerOf registers a node of a user.
func (s *side) registerOf(uid uint32, name string, port uint16) *registry.Registration {
	s.t.Helper()
	r, err := s.reg.Register(registry.Node{Name: name, Port: port, Type: registry.Normal, High: 6, Low: 5})
	wait.Must(s.t, err)
	s.reg.SetHolder(s.reg.Node(r), &registry.Holder{UID: uid})
	s.reg.SetListens(s.reg.Node(r), []netip.Addr{netip.IPv4Unspecified()})
	s.identify(r)
	return r
}

// TestBrowseLimit sees more instances than may be resolved. Those that may take several
// connections.
func TestBrowseLimit(t *testing.T) {
	a, b := pair(t, lan.HostOptions{}, lan.HostOptions{NoIPv6: true})
	a.publish()
	// Two objects are service browsers, two find A's addresses. These may be among the two thirds
	// that resolvers get.
	browser, _ := b.browseLimited(9, 4)
	var registrations []*registry.Registration
	for i := range 24 { // and one instance is the host's own
		registrations = append(registrations, a.register(fmt.Sprintf("n%d", i), uint16(5000+i)))
	}
	wait.True(t, "all places are taken", func() bool {
		s := browser.State()
		return s.Instances+s.Waiting == 25 && s.Waiting >= 3 && s.Waiting <= 5
	})
	for _, r := range registrations[:12] {
		a.reg.Unregister(r)
	}
	waitCount(t, browser.State, avahi.State{Instances: 13})
	b.until("those that waited appear", count(12))
}

// TestInterfaces names interfaces, which come and go.
func TestInterfaces(t *testing.T) {
	a, b := pair(t)
	named := func(names ...string) func(*avahi.Options) {
		return func(o *avahi.Options) { o.Interfaces = names }
	}
	publisher, _ := a.publish(named("eth1", "nothere"))
	browser, _ := b.browse(named("eth0", "eth1"))
	a.register("a", 4711)
	waitState(t, "no interface", publisher.State, "no network interface named")
	waitState(t, "browses", browser.State, "LAN discovery on")

	other, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, other.Close()) })
	for _, s := range []*side{a, b} {
		_, err := other.Attach(wait.Soon(t), s.Host)
		wait.Must(t, err)
	}
	seen := b.until("a appears", node("a@hosta.example"))
	for _, addr := range seen[0].Addresses {
		if addr.Is4() && !netip.MustParsePrefix(lan.OtherSubnet).Contains(addr) || addr.Is6() && addr.Zone() != "eth1" {
			t.Errorf("published on eth1 alone, seen at %v", addr)
		}
	}
	wait.Must(t, b.RemoveInterface(wait.Soon(t), "eth1"))
	b.until("a goes with the interface", count(0))
	wait.Must(t, a.RemoveInterface(wait.Soon(t), "eth1"))
	waitState(t, "no interface again", publisher.State, "no network interface named")
}

// TestDefaultInterfaces has a host with bridges of containers. Another LAN reaches it and
// leaves.
func TestDefaultInterfaces(t *testing.T) {
	a, b := pair(t)
	for _, args := range []string{
		"link add docker0 type bridge", "link add docker1 type bridge", "link add v0 type veth peer name v1",
		"link set v0 master docker0", "link set v1 master docker1", "addr add 172.17.0.1/16 dev docker0",
		"link set v0 up", "link set v1 up", "link set docker0 up", "link set docker1 up",
	} {
		if _, err := a.Output(wait.Soon(t), "ip", strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	publisher, _ := a.publish()
	b.browse()
	a.register("a", 4711)
	at := func(hosts ...string) func([]*registry.Node) bool {
		return node("a@hosta.example", func(n *registry.Node) bool {
			var got []string
			for _, addr := range n.Addresses {
				if addr.Is4() {
					got = append(got, addr.String())
				}
			}
			return slices.Equal(got, hosts) && len(n.Addresses) == 2*len(hosts)
		})
	}
	first := a.Address().String()
	b.until("a appears", at(first))
	events := b.record()

	other, err := lan.New(wait.Soon(t), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, other.Close()) })
	for _, s := range []*side{a, b} {
		_, err := other.Attach(wait.Soon(t), s.Host)
		wait.Must(t, err)
	}
	b.until("a appears on the other LAN", at(first, "203.0.113.11"))
	waitCount(t, publisher.State, avahi.State{Instances: 2})
	seen, err := a.Output(wait.Soon(t), "avahi-browse", "-pt", "_epmd._tcp")
	wait.Must(t, err)
	for _, iface := range []string{"eth0", "eth1"} {
		if !strings.Contains(seen, "+;"+iface+";IPv4;a\\064hosta;") {
			t.Errorf("not published on %s:\n%s", iface, seen)
		}
	}
	if strings.Contains(seen, "docker") {
		t.Errorf("published to containers:\n%s", seen)
	}

	wait.Must(t, b.RemoveInterface(wait.Soon(t), "eth1"))
	b.until("b has left the other LAN", at(first))
	wait.Must(t, a.RemoveInterface(wait.Soon(t), "eth1"))
	a.register("late", 4712)
	b.until("late appears", node("late@hosta.example"))
	if got := events.String(); strings.Contains(got, "down") {
		t.Errorf("neighbours went with an interface they don't need:\n%s", got)
	}
}

// TestWedged stops daemons in their tracks: Run still ends in time.
func TestWedged(t *testing.T) {
	a, b := pair(t)
	publisher, stopPublisher := a.publish()
	_, stopBrowser := b.browse()
	waitState(t, "publishes", publisher.State, "LAN discovery on")
	a.register("a", 4711)
	b.until("a appears", node("a@hosta.example"))
	a.freeze(a.Avahi)
	b.freeze(b.Bus)
	for i := range 200 {
		a.register(fmt.Sprintf("n%d", i), uint16(5000+i))
	}
	began := time.Now()
	stopBrowser()
	stopPublisher()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("ended after %v", took)
	}
}

// freeze stops a daemon until the test ends.
func (s *side) freeze(d *lan.Daemon) {
	p, err := d.Process()
	wait.Must(s.t, err)
	wait.Freeze(s.t, p.Pid())
	s.t.Cleanup(func() { p.Signal(syscall.SIGCONT) })
}

func TestForeign(t *testing.T) {
	a, b := pair(t)
	epmds := make(foundEPMDs, 100)
	b.browse(func(o *avahi.Options) { o.EPMDs = epmds })
	for _, args := range []string{
		"old@somewhere 1001", "bare 1002", "x 1003 name=full@name", "y 1004 name=alive",
		"own 1010 node=own@hosta", "z 1005 NODE=upper@case node=second@one TYPE=hidden",
		"bad1 1006 node=with\x1b[31m@control", "bad2 1007 node=two@at@signs", "bad3 1008 txtvers=1", "bad@1009@x 1009",
	} {
		publish := append([]string{"-s"}, strings.Fields(args)...)
		publish = append(publish[:2], append([]string{"_epmd._tcp"}, publish[2:]...)...)
		expect(t, start(t, a, "avahi-publish", publish...), "Established")
	}
	nerves := start(t, a, "avahi-publish", "-s", "my epmd", "_epmd._tcp", "4369")
	expect(t, nerves, "Established")
	nodes := b.until("all good ones appear", count(6))
	for _, want := range []struct {
		name string
		port uint16
		sure bool
	}{
		{"old@somewhere", 1001, false}, {"bare@hosta.local", 1002, false}, {"full@name", 1003, false},
		{"alive@hosta.local", 1004, false}, {"upper@case", 1005, false}, {"own@hosta", 1010, true},
	} {
		if !node(want.name, onPort(want.port), func(n *registry.Node) bool { return n.Sure == want.sure })(nodes) {
			t.Errorf("%+v is not among %s", want, describe(nodes))
		}
	}
	if e := epmds.await(t, false); e.Host != "hosta.local" || len(e.Addrs) == 0 || e.Addrs[0].Port() != 4369 {
		t.Errorf("found the epmd %+v", e)
	}
	a.publish()
	if e := epmds.await(t, true); e.Host != "hosta.local" || e.Interface != "eth0" || len(e.Addrs) == 0 || e.Addrs[0].Port() != 4369 {
		t.Errorf("found %+v, which announces its nodes", e)
	}
}

// foundEPMDs is told of epmds.
type foundEPMDs chan avahi.EPMD

func (f foundEPMDs) Found(_ avahi.Place, e avahi.EPMD) { f <- e }
func (f foundEPMDs) Gone(avahi.Place)                  {}

// await returns the next epmd whose host announces its nodes, or does not.
func (f foundEPMDs) await(t *testing.T, announces bool) avahi.EPMD {
	ctx := wait.Soon(t)
	for {
		select {
		case e := <-f:
			if e.Announces == announces {
				return e
			}
		case <-ctx.Done():
			t.Fatalf("no epmd found that announces its nodes: %v", announces)
		}
	}
}
