package told

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// newNodes returns nodes of an epmd that has begun to tell of them, and where they are entered.
func newNodes(t *testing.T, addrs ...string) (*Nodes, *registry.Registry) {
	reg := registry.New("us.local", registry.OldNames)
	ns := NewAll(reg, slog.New(slog.DiscardHandler)).New()
	var at []netip.AddrPort
	for _, a := range addrs {
		at = append(at, netip.MustParseAddrPort(a))
	}
	ns.Move(at, registry.LAN, false)
	t.Cleanup(func() {
		ns.End(time.Now())
		ns.Drop()
		if waiting, kept := ns.of.waiting.taken, ns.of.kept.taken; waiting != 0 || kept != 0 {
			t.Errorf("%d changes wait at the end, %d nodes are kept", waiting, kept)
		}
	})
	ns.Begin(Who{Hello: epmd.PeerHello{ID: epmd.PeerID{1}, Host: "hosta.local", Port: 4369}, Addr: at[0]})
	return ns, reg
}

// tell has lines told at a time, each of which is kind, name and IP versions.
func tell(t *testing.T, ns *Nodes, now time.Time, lines ...string) {
	t.Helper()
	for _, l := range lines {
		words := strings.Fields(l)
		kind, name, ip := words[0], words[1], words[2]
		host := ns.Who().Hello.Host
		line, err := epmd.ParseLine(fmt.Sprintf("%s node=%s@%s name=%s host=%s port=1 type=normal ip=%s", kind, name, host, name, host, ip))
		if err != nil {
			t.Fatal(err)
		}
		ns.Line(now, line)
	}
}

// TestFind has a node listen on an IP version of which its host has no known address. The host is
// looked up again, less and less often, until it has one.
func TestFind(t *testing.T) {
	const other = "[2001:db8::1]:4369"
	ns, reg := newNodes(t, "192.0.2.1:4369")
	now := time.Now()
	tell(t, ns, now, "+ a 4")
	ns.Complete(now)
	if !ns.Due.Find.IsZero() {
		t.Error("the host is looked up though it has all addresses")
	}
	tell(t, ns, now, "+ b 6")
	if ns.Due.Find.IsZero() || time.Until(ns.Due.Find) > 0 {
		t.Errorf("the host is looked up at %v", ns.Due.Find)
	}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600} {
		ns.Due.Find = time.Time{}
		if ns.FindLater(now); ns.Due.Find.Sub(now) != want*time.Second {
			t.Errorf("time %d: again after %v, want %v s", i, ns.Due.Find.Sub(now), want)
		}
	}
	ns.Due.Find = time.Time{}
	ns.Move([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4369"), netip.MustParseAddrPort(other)}, registry.LAN, false)
	if ns.FindLater(now); !ns.Due.Find.IsZero() || len(reg.Nodes()) != 2 {
		t.Errorf("once more at %v; known are %d nodes", ns.Due.Find, len(reg.Nodes()))
	}
}

// TestJoined has an epmd that changes all the time.
func TestJoined(t *testing.T) {
	ns, reg := newNodes(t, "192.0.2.1:4369")
	now := time.Now()
	tell(t, ns, now, "+ a 4", "+ b 4")
	ns.Complete(now)
	changes := reg.Subscribe()
	if n := len(changes.Take().Nodes); n != 2 {
		t.Fatalf("%d nodes", n)
	}
	for range 50 * MaxAtOnce {
		tell(t, ns, now, "- a 4", "+ a 4")
	}
	if n := len(changes.Take().Events); n != MaxAtOnce {
		t.Errorf("%d changes at once", n)
	}
	events := func(after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		if due := ns.Due.Flush; !due.IsZero() && !due.After(now) {
			ns.Due.Flush = time.Time{}
			ns.Flush(now)
		}
		if n := len(changes.Take().Events); n != want {
			t.Errorf("%d events %v later, want %d", n, after, want)
		}
	}
	events(Joined-1, 0)
	events(1, 0) // a is as it was before
	tell(t, ns, now, "- a 4", "+ c 4")
	events(0, 0)
	events(Joined, 2)
	events(Joined, 0)
	tell(t, ns, now, "- c 4") // at once again
	events(0, 1)
	if ns.Len() != 1 {
		t.Errorf("%d nodes", ns.Len())
	}
}

// TestFamilies enters a node where it listens.
func TestFamilies(t *testing.T) {
	ns, reg := newNodes(t, "192.0.2.1:4369", "[fe80::1%eth0]:4369", "203.0.113.7:4369", "[2001:db8::1]:4369")
	tell(t, ns, time.Now(), "+ n4 4", "+ n6 6", "+ n46 46")
	ns.Complete(time.Now())
	check := func(want map[string]string) {
		t.Helper()
		for _, n := range reg.Nodes() {
			if got := fmt.Sprint(n.Addresses); got != want[n.Name] {
				t.Errorf("%s: got %s, want %s", n.Name, got, want[n.Name])
			}
		}
		if n := len(reg.Nodes()); n != len(want) {
			t.Errorf("%d nodes, want %d", n, len(want))
		}
	}
	check(map[string]string{"n4": "[192.0.2.1]", "n6": "[2001:db8::1 fe80::1%eth0]", "n46": "[192.0.2.1 2001:db8::1 fe80::1%eth0]"})
	ns.Move([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4369")}, registry.LAN, false)
	check(map[string]string{"n4": "[192.0.2.1]", "n46": "[192.0.2.1]"})
}

// TestFull has an epmd that tells of more nodes than are kept. What it takes back is not there. It
// has half of the places.
func TestFull(t *testing.T) {
	ns, reg := newNodes(t, "192.0.2.1:4369")
	now := time.Now()
	for i := range registry.MaxTold + 1 {
		tell(t, ns, now, fmt.Sprintf("+ n%d 4", i))
	}
	tell(t, ns, now, "- n0 4", "- unknown 4")
	ns.Complete(now)
	if got, want := reg.Count(registry.LAN), registry.MaxTold/2; got != want {
		t.Errorf("%d nodes, want %d", got, want)
	}
	if !ns.Due.Refresh.Equal(now.Add(refreshIn)) {
		t.Errorf("to be asked anew at %v", ns.Due.Refresh)
	}
}

// TestRename has the host of an epmd get another name. Nothing of the old one is left, whatever the
// epmd has taken back, and whether changes are joined or not.
func TestRename(t *testing.T) {
	for _, changes := range []int{0, 2 * MaxAtOnce} {
		ns, reg := newNodes(t, "192.0.2.1:4369")
		now := time.Now()
		tell(t, ns, now, "+ a 4", "+ b 4")
		ns.Complete(now)
		for range changes {
			tell(t, ns, now, "+ c 4", "- c 4")
		}
		tell(t, ns, now, "- a 4", "+ d 4")
		w := ns.Who()
		w.Hello.Host = "hostb.local"
		ns.Rename(w)
		tell(t, ns, now, "+ a 4")
		ns.Flush(now)
		for _, n := range reg.Nodes() {
			if n.Node != "a@hostb.local" || n.Host != "hostb.local" {
				t.Errorf("after %d changes: %s of %s", changes, n.Node, n.Host)
			}
		}
		if n := reg.Count(registry.LAN); n != 1 || ns.Len() != 1 {
			t.Errorf("after %d changes: %d nodes, %d entered", changes, ns.Len(), n)
		}
	}
}

// TestManyWait has epmds tell of nodes without end, and never of the end. What waits is bounded for
// all together. Another epmd finds room, and nodes that are known already may change.
func TestManyWait(t *testing.T) {
	known, reg := newNodes(t, "192.0.2.1:4369")
	now := time.Now()
	tell(t, known, now, "+ a 4", "+ b 4")
	known.Complete(now)
	known.Begin(known.Who())
	var last *Nodes
	for i := range maxWaiting/registry.MaxTold + 2 {
		ns := known.of.New()
		ns.Begin(Who{
			Hello: epmd.PeerHello{Host: fmt.Sprintf("host%d.local", i)}, Addr: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:1", 2+i)),
		})
		for n := range registry.MaxTold {
			tell(t, ns, now, fmt.Sprintf("+ n%d 4", n))
		}
		defer ns.End(now)
		last = ns
	}
	if n := known.of.waiting.taken; n > maxWaiting || n < maxWaiting*3/4 {
		t.Errorf("%d changes wait, want nearly %d", n, maxWaiting)
	}
	if last.Due.Refresh.IsZero() {
		t.Error("not to be asked for what was left out")
	}
	tell(t, known, now, "+ a 4", "+ new 4")
	known.Complete(now)
	if nodes := reg.Nodes(); len(nodes) != 2 || !slices.ContainsFunc(nodes, func(n *registry.Node) bool { return n.Name == "new" }) {
		t.Errorf("got %v", nodes)
	}
}

// TestGreedy has one host with many addresses tell of nodes at each. Another finds room.
func TestGreedy(t *testing.T) {
	ns, reg := newNodes(t, "192.0.2.1:4369")
	reg.SetOwners(func(a netip.Addr) string {
		if a.As4()[0] == 198 {
			return "MAC"
		}
		return a.String()
	})
	now := time.Now()
	for i := range 9 {
		one := ns.of.New()
		one.Begin(Who{
			Hello: epmd.PeerHello{Host: fmt.Sprintf("host%d.local", i)}, Addr: netip.MustParseAddrPort(fmt.Sprintf("198.51.100.%d:1", 1+i)),
		})
		one.Move([]netip.AddrPort{one.Who().Addr}, registry.LAN, false)
		for n := range registry.MaxTold / 2 {
			tell(t, one, now, fmt.Sprintf("+ n%d 4", n))
		}
		one.Complete(now)
		defer func() { one.End(now); one.Drop() }()
	}
	if kept, have := ns.of.kept.taken, reg.Count(registry.LAN); kept != maxKept/2 || have != registry.MaxTold/2 {
		t.Errorf("it has %d of %d, and %d of %d in the registry; want half of each", kept, maxKept, have, registry.MaxTold)
	}
	for n := range 1000 {
		tell(t, ns, now, fmt.Sprintf("+ new%d 4", n))
	}
	ns.Complete(now)
	if got, want := reg.Count(registry.LAN), registry.MaxTold/2+1000; got != want {
		t.Errorf("%d nodes with those of another host; want %d", got, want)
	}
}

// TestOtherHost has another host at the address of one. Until that has told of all its nodes, those
// of the first stay what they were.
func TestOtherHost(t *testing.T) {
	ns, reg := newNodes(t, "192.0.2.1:4369")
	now := time.Now()
	tell(t, ns, now, "+ a 4")
	ns.Complete(now)
	ns.End(now)
	w := ns.Who()
	w.Hello.ID, w.Hello.Host = epmd.PeerID{2}, "hostb.local"
	ns.Begin(w)
	ns.SetUnreachable()
	if n := reg.Nodes()[0]; n.Node != "a@hosta.local" || n.Host != "hosta.local" || n.Reach != registry.Unreachable {
		t.Errorf("got %+v", n)
	}
	tell(t, ns, now, "+ a 4")
	ns.Complete(now)
	if nodes := reg.Nodes(); len(nodes) != 1 || nodes[0].Node != "a@hostb.local" || nodes[0].Host != "hostb.local" {
		t.Errorf("got %+v", nodes)
	}
}
