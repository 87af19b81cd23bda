package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const testHost = "hosta.local"

func register(tb testing.TB, r *Registry, name string, high uint16) *Registration {
	tb.Helper()
	reg, err := r.Register(Node{Name: name, Port: 41233, High: high, Low: 5, Type: Normal})
	if err != nil {
		tb.Fatal(err)
	}
	return reg
}

func localNames(r *Registry) []string {
	var names []string
	for _, n := range r.Local() {
		names = append(names, n.Name)
	}
	return names
}

func oldNames(r *Registry) []string {
	var names []string
	for _, o := range r.Old() {
		names = append(names, o.Name)
	}
	return names
}

func TestRegister(t *testing.T) {
	r := New(testHost, OldNames)
	reg, err := r.Register(Node{
		Name: "a", Port: 41233, Type: Hidden, High: 6, Low: 5, Extra: "\x00\xff", FD: 7,
		Addresses: []netip.Addr{netip.IPv6Loopback()},
		Origin:    LAN, Sure: true, Node: "not@this", Host: "nor.this",
	})
	if err != nil {
		t.Fatal(err)
	}
	n := r.Lookup("a")
	if n == nil || n != r.Node(reg) {
		t.Fatalf("looked up %v; want %v", n, r.Node(reg))
	}
	want := &Node{
		ID: n.ID, Since: n.Since, Creation: n.Creation, Counter: n.Counter, Told: Hidden,
		Node: "a@hosta.local", Name: "a", Host: testHost, Port: 41233, Type: Hidden, High: 6, Low: 5,
		Extra: "\x00\xff", FD: 7, Addresses: []netip.Addr{netip.IPv6Loopback()}, Origin: Local, Reach: Reachable,
	}
	if !reflect.DeepEqual(n, want) {
		t.Errorf("registered as\n%+v; want\n%+v", n, want)
	}
	if n.ID == 0 || n.Creation < 4 {
		t.Errorf("ID %d, creation %d; want one, and at least 4", n.ID, n.Creation)
	}
	if got := r.Lookup("A"); got != nil {
		t.Errorf("looked up %+v for a name that differs in case", got)
	}
}

func TestRegisterTaken(t *testing.T) {
	r := New(testHost, OldNames)
	first := register(t, r, "a", 6)
	_, err := r.Register(Node{Name: "a", Port: 1})
	if !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("got %v; want ErrNameTaken, naming \"a\"", err)
	}
	if n := r.Lookup("a"); n != r.Node(first) {
		t.Errorf("the second registration replaced the first: %+v", n)
	}
}

func TestUnregister(t *testing.T) {
	r := New(testHost, OldNames)
	first := register(t, r, "a", 6)
	r.Unregister(first)
	if n := r.Lookup("a"); n != nil {
		t.Errorf("looked up %+v after it went", n)
	}
	second := register(t, r, "a", 6)
	r.Unregister(first)
	if n := r.Lookup("a"); n == nil || n != r.Node(second) {
		t.Errorf("a stale Unregister removed the next registration: looked up %v", n)
	}
	if got := oldNames(r); len(got) != 0 {
		t.Errorf("old names %q while the name is registered; want none", got)
	}
}

// TestOrder compares the lists with slices that model them, over random registrations.
func TestOrder(t *testing.T) {
	const maxOld = 5
	r := New(testHost, maxOld)
	regs := make(map[string]*Registration)
	var local, old []string // newest first; oldest first
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		name := fmt.Sprint(rnd.IntN(20))
		without := func(s string) bool { return s == name }
		if reg := regs[name]; reg != nil {
			r.Unregister(reg)
			delete(regs, name)
			local = slices.DeleteFunc(local, without)
			old = append(old, name)
			old = old[max(0, len(old)-maxOld):]
		} else {
			regs[name] = register(t, r, name, 6)
			local = append([]string{name}, local...)
			old = slices.DeleteFunc(old, without)
		}
		if got := localNames(r); !slices.Equal(got, local) {
			t.Fatalf("local nodes %q; want %q", got, local)
		}
		if got := oldNames(r); !slices.Equal(got, old) {
			t.Fatalf("old names %q; want %q", got, old)
		}
	}
}

func TestOldRemembersNothing(t *testing.T) {
	r := New(testHost, 0)
	r.Unregister(register(t, r, "a", 6))
	if got := r.Old(); len(got) != 0 {
		t.Errorf("old names %v; want none", got)
	}
	register(t, r, "a", 6)
}

func TestOldContent(t *testing.T) {
	r := New(testHost, OldNames)
	reg, err := r.Register(Node{Name: "a", Port: 41233, FD: 9})
	if err != nil {
		t.Fatal(err)
	}
	r.Unregister(reg)
	if got, want := r.Old(), []Old{{"a", 41233, 9, r.Old()[0].Counter}}; !slices.Equal(got, want) {
		t.Errorf("old names %+v; want %+v", got, want)
	}
}

func TestCreationWide(t *testing.T) {
	r := New(testHost, OldNames)
	var last uint32
	for i := range 100 {
		reg := register(t, r, "a", 6)
		c := r.Node(reg).Creation
		if c < minCreation || i > 0 && c != last+1 && c != minCreation {
			t.Fatalf("creation %d after %d; want the next one, at least %d", c, last, minCreation)
		}
		last = c
		r.Unregister(reg)
	}
}

func TestCreationNarrow(t *testing.T) {
	r := New(testHost, OldNames)
	var last uint32
	for i := range 10 {
		reg := register(t, r, "a", 5)
		c := r.Node(reg).Creation
		if c < 1 || c > 3 || i > 0 && c != last%3+1 {
			t.Fatalf("creation %d after %d; want the next one of 1, 2 and 3", c, last)
		}
		last = c
		r.Unregister(reg)
	}
}

// TestCreationWraps lets a counter pass its largest value. 0 to 3 stand for something else. Two
// registrations in a row must differ, as 2 bits too.
func TestCreationWraps(t *testing.T) {
	for _, high := range []uint16{5, 6} {
		r := New(testHost, OldNames)
		r.Unregister(register(t, r, "a", high))
		r.old["a"].Counter = ^uint32(0) - 3
		var got []uint32
		for range 6 {
			reg := register(t, r, "a", high)
			got = append(got, r.Node(reg).Creation)
			r.Unregister(reg)
		}
		want := []uint32{^uint32(0) - 2, ^uint32(0) - 1, ^uint32(0), 4, 5, 6}
		if high < 6 {
			want = []uint32{2, 3, 1, 2, 3, 1}
		}
		if !slices.Equal(got, want) {
			t.Errorf("highest version %d: creations %d; want %d", high, got, want)
		}
	}
}

// TestRestore enters what another process knew, in the order of its registrations.
func TestRestore(t *testing.T) {
	before := New(testHost, OldNames)
	for _, name := range []string{"a", "b", "c"} {
		before.Unregister(register(t, before, name, 6))
	}
	register(t, before, "b", 6)
	register(t, before, "d", 5)

	after := New(testHost, OldNames)
	s := begun(after)
	defer s.Close()
	for _, o := range before.Old() {
		after.RestoreOld(o)
	}
	nodes := before.Local()
	slices.Reverse(nodes)
	for _, n := range nodes {
		reg, err := after.Restore(*n)
		if err != nil {
			t.Fatal(err)
		}
		if got := after.Node(reg); !reflect.DeepEqual(got, n) {
			t.Errorf("restored\n%+v; want\n%+v", got, n)
		}
	}
	if got, want := after.Old(), before.Old(); !slices.Equal(got, want) {
		t.Errorf("old names %v; want %v", got, want)
	}
	if got, want := localNames(after), localNames(before); !slices.Equal(got, want) {
		t.Errorf("local nodes %q; want %q", got, want)
	}
	if events := s.Take().Events; len(events) != 2 || events[0].Node != after.Lookup("b") {
		t.Errorf("events %v; want both nodes to come up", events)
	}
	if _, err := after.Restore(*nodes[0]); !errors.Is(err, ErrNameTaken) {
		t.Errorf("restored twice: %v; want ErrNameTaken", err)
	}
	got, want := after.Node(register(t, after, "a", 6)), before.Node(register(t, before, "a", 6))
	if got.ID != want.ID || got.Creation != want.Creation {
		t.Errorf("registered later as %+v; want %+v", got, want)
	}
}

// TestRestoreKnown restores a name under which another node had gone.
func TestRestoreKnown(t *testing.T) {
	r := New(testHost, OldNames)
	r.RestoreOld(Old{Name: "a", Counter: 7})
	r.RestoreOld(Old{Name: "a", Counter: 8})
	if got, want := r.Old(), []Old{{Name: "a", Counter: 8}}; !slices.Equal(got, want) {
		t.Errorf("old names %v; want %v", got, want)
	}
	if _, err := r.Restore(Node{Name: "a", Counter: 9}); err != nil {
		t.Fatal(err)
	}
	if got := r.Old(); len(got) != 0 {
		t.Errorf("old names %v while the name is registered", got)
	}
}

func TestCreationForgotten(t *testing.T) {
	r := New(testHost, 1)
	r.Unregister(register(t, r, "a", 6))
	r.Unregister(register(t, r, "b", 6))
	if got, want := oldNames(r), []string{"b"}; !slices.Equal(got, want) {
		t.Fatalf("old names %q; want %q", got, want)
	}
	if c := r.Node(register(t, r, "a", 6)).Creation; c < minCreation {
		t.Errorf("creation %d; want at least %d", c, minCreation)
	}
}

func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(testHost, OldNames)
		start := time.Now()
		reg := register(t, r, "a", 6)
		time.Sleep(time.Hour)
		if err := r.SetNeighbour(Node{Node: "b@hostb.local", Host: "hostb.local", Port: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := r.SetNeighbour(Node{Node: "b@hostb.local", Host: "hostb.local", Port: 2}); err != nil {
			t.Fatal(err)
		}
		if err := r.Identify(r.Node(reg), Identity{Node: "a@x"}); err != nil {
			t.Fatal(err)
		}
		r.SetHost("other.local")
		if got := r.Lookup("a").Since; !got.Equal(start) {
			t.Errorf("local node since %v; want %v", got, start)
		}
		if got, want := neighbour(r, "b@hostb.local").Since, start.Add(time.Hour); !got.Equal(want) {
			t.Errorf("neighbour since %v; want %v", got, want)
		}
		r.Unregister(reg)
		register(t, r, "a", 6)
		if got, want := r.Lookup("a").Since, start.Add(2*time.Hour); !got.Equal(want) {
			t.Errorf("registered anew since %v; want %v", got, want)
		}
	})
}

// neighbour returns the neighbour of that full name, or nil.
func neighbour(r *Registry, node string) *Node {
	for _, n := range r.Nodes() {
		if n.Origin == LAN && n.Node == node {
			return n
		}
	}
	return nil
}

// begun returns a subscription to changes from now on.
func begun(r *Registry) *Subscription {
	s := r.Subscribe()
	s.Take()
	return s
}

func TestIdentify(t *testing.T) {
	r := New(testHost, OldNames)
	reg := register(t, r, "a", 6)
	before := r.Node(reg)
	if err := r.Identify(before, Identity{Node: "a@real.example", Dist: TLS, Hidden: true}); err != nil {
		t.Fatal(err)
	}
	n := r.Lookup("a")
	if n.Node != "a@real.example" || !n.Sure || n.Dist != TLS || n.Type != Hidden || n.ID != before.ID {
		t.Errorf("identified as %+v", n)
	}
	if before.Sure || before.Node != "a@hosta.local" {
		t.Errorf("a node that had been handed out was changed: %+v", before)
	}
}

func TestIdentifyWrongNode(t *testing.T) {
	for _, node := range []string{"b@real.example", "a", "", "@real.example", "A@real.example", "a b@real.example"} {
		r := New(testHost, OldNames)
		n := r.Node(register(t, r, "a", 6))
		err := r.Identify(n, Identity{Node: node})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", node)) {
			t.Errorf("%q identified with error %v; want one naming it", node, err)
		}
		if got := r.Lookup("a"); got != n {
			t.Errorf("%q changed the node to %+v", node, got)
		}
	}
}

func TestIdentifyTooLate(t *testing.T) {
	r := New(testHost, OldNames)
	first := register(t, r, "a", 6)
	stale := r.Node(first)
	r.Unregister(first)
	id := Identity{Node: "a@real.example", Dist: TCP}
	if err := r.Identify(stale, id); err != nil || r.Lookup("a") != nil {
		t.Errorf("a node that has gone: %v, %v", r.Lookup("a"), err)
	}
	second := register(t, r, "a", 6)
	if err := r.Identify(stale, id); err != nil || r.Node(second).Sure {
		t.Errorf("the answer of an earlier registration was entered: %+v, %v", r.Node(second), err)
	}
}

func TestSetHolder(t *testing.T) {
	r := New(testHost, OldNames)
	reg := register(t, r, "a", 6)
	before := r.Node(reg)
	s := begun(r)
	defer s.Close()
	h := &Holder{Unit: "a.service", PID: 812, UID: 107}
	r.SetHolder(before, h)
	n := r.Node(reg)
	if n.Holder != h || before.Holder != nil {
		t.Errorf("holder %v, of the node handed out before %v; want %v and none", n.Holder, before.Holder, h)
	}
	if events := s.Take().Events; !slices.Equal(events, []Event{{Changed, n}}) {
		t.Errorf("events %v; want one of kind changed", events)
	}
	r.Unregister(reg)
	r.SetHolder(n, h)
	again := register(t, r, "a", 6)
	r.SetHolder(n, h)
	if got := r.Node(again).Holder; got != nil {
		t.Errorf("the holder of an earlier registration was entered: %v", got)
	}
}

func TestSetReach(t *testing.T) {
	r := New(testHost, OldNames)
	if n := r.Node(register(t, r, "a", 6)); n.Reach != Reachable {
		t.Errorf("local node: reachable %v; want yes", n.Reach)
	}
	neighbour := Node{Node: "b@hostb.local", Name: "b", Host: "hostb.local", Port: 1, Reach: Reachable}
	s := begun(r)
	defer s.Close()
	see := func() *Node {
		t.Helper()
		if err := r.SetNeighbour(neighbour); err != nil {
			t.Fatal(err)
		}
		events := s.Take().Events
		if len(events) != 1 {
			t.Fatalf("events %v; want one", events)
		}
		return events[0].Node
	}
	n := see()
	if n.Reach != Unchecked {
		t.Errorf("new neighbour: reachable %v; want unknown", n.Reach)
	}
	r.SetReach(n, Unreachable)
	r.SetReach(n, Unreachable)
	if events := s.Take().Events; len(events) != 1 || events[0].Kind != Changed || events[0].Node.Reach != Unreachable {
		t.Errorf("events %v; want one that it is not reachable", events)
	}
	neighbour.Port = 2
	if n := see(); n.Reach != Unreachable || n.Port != 2 {
		t.Errorf("announced anew: %+v; want the new port, and not reachable", n)
	}
	r.RemoveNeighbour(n.NeighbourKey())
	r.SetReach(n, Reachable)
	s.Take()
	again := see()
	r.SetReach(n, Reachable)
	if events := s.Take().Events; len(events) > 0 || again.Reach != Unchecked {
		t.Errorf("what was known of an earlier neighbour was entered: %v", events)
	}
}

func TestHolderString(t *testing.T) {
	for _, tt := range []struct {
		holder *Holder
		want   string
	}{
		{nil, "not known"},
		{&Holder{}, "uid 0"},
		{&Holder{PID: 812, UID: 107}, "pid 812, uid 107"},
		{&Holder{Unit: "a.service", PID: 812, UID: 107}, "pid 812, uid 107, a.service"},
	} {
		if got := tt.holder.String(); got != tt.want {
			t.Errorf("%#v: %q; want %q", tt.holder, got, tt.want)
		}
	}
}

func TestPeer(t *testing.T) {
	n := Node{Addresses: []netip.Addr{netip.IPv6Loopback()}, PeerPort: 4711}
	if got, want := n.Peer(), netip.MustParseAddrPort("[::1]:4711"); got != want {
		t.Errorf("peer %v; want %v", got, want)
	}
	n.Origin = LAN
	if got := n.Peer(); got.IsValid() {
		t.Errorf("peer %v of a neighbour; want none", got)
	}
}

func TestSetHost(t *testing.T) {
	r := New(testHost, OldNames)
	guessed, sure := register(t, r, "a", 6), register(t, r, "b", 6)
	if err := r.Identify(r.Node(sure), Identity{Node: "b@real.example"}); err != nil {
		t.Fatal(err)
	}
	version := r.LocalVersion()
	r.SetHost(testHost)
	if r.LocalVersion() != version {
		t.Error("the same host name again counts as a change")
	}
	s := begun(r)
	defer s.Close()
	r.SetHost("new.local")
	if got := r.Host(); got != "new.local" {
		t.Errorf("host %q", got)
	}
	if n := r.Node(guessed); n.Node != "a@new.local" || n.Host != "new.local" {
		t.Errorf("guessed name became %+v", n)
	}
	if n := r.Node(sure); n.Node != "b@real.example" || n.Host != "new.local" {
		t.Errorf("sure name became %+v", n)
	}
	events := s.Take().Events
	want := []Event{{Changed, r.Node(guessed)}, {Changed, r.Node(sure)}}
	if !slices.Equal(events, want) {
		t.Errorf("events %v; want %v", events, want)
	}
	if n := r.Node(register(t, r, "c", 6)); n.Node != "c@new.local" {
		t.Errorf("a later node is %q", n.Node)
	}
}

func TestNeighbour(t *testing.T) {
	r := New(testHost, OldNames)
	s := begun(r)
	defer s.Close()
	set := func(n Node) {
		t.Helper()
		if err := r.SetNeighbour(n); err != nil {
			t.Fatal(err)
		}
	}
	addrs := func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("198.51.100.11")} }
	n := Node{Node: "a@hostb.local", Name: "a", Host: "hostb.local", EPMDPort: 4369, Port: 1, Addresses: addrs()}
	set(n)
	again := n
	again.Addresses = addrs()
	set(again) // no change
	n.Port = 2
	set(n)
	n.Node, n.Sure = "a@hostb", true // it has told its full name
	set(n)
	// Of another epmd there.
	set(Node{Node: "a@hostb.local", Name: "a", Host: "hostb.local", EPMDPort: 5555, Port: 3})
	set(Node{Node: "a@hostb.local", Name: "a", Host: "impostor.local", EPMDPort: 4369, Port: 4})
	r.RemoveNeighbour(NeighbourKey{"a", "nowhere.local", 4369}) // not known
	r.RemoveNeighbour(NeighbourKey{"a", "hostb.local", 4369})

	var got []string
	ids := make(map[uint64]bool)
	events := s.Take().Events
	for _, e := range events {
		got = append(got, fmt.Sprintf("%v %s %s %d", e.Kind, e.Node.Node, e.Node.Host, e.Node.Port))
		ids[e.Node.ID] = true
	}
	want := []string{
		"up a@hostb.local hostb.local 1",
		"changed a@hostb.local hostb.local 2",
		"changed a@hostb hostb.local 2",
		"up a@hostb.local hostb.local 3",
		"up a@hostb.local impostor.local 4",
		"down a@hostb hostb.local 2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events %q; want %q", got, want)
	}
	if len(ids) != 3 {
		t.Errorf("%d IDs; want one for each of 3 neighbours", len(ids))
	}
	if local, neighbours := r.Counts(); local != 0 || neighbours != 2 {
		t.Errorf("%d local nodes, %d neighbours; want 0 and 2", local, neighbours)
	}
	if r.LocalVersion() != 0 {
		t.Error("a neighbour changed the version of the local nodes")
	}
}

func TestNeighbourLimits(t *testing.T) {
	r := New(testHost, OldNames)
	of := func(host, i int) Node {
		h := fmt.Sprintf("host%d.local", host)
		return Node{Node: fmt.Sprintf("n%d@%s", i, h), Name: fmt.Sprint("n", i), Host: h}
	}
	for host := range MaxNeighbours / MaxNeighboursPerHost {
		for i := range MaxNeighboursPerHost {
			if err := r.SetNeighbour(of(host, i)); err != nil {
				t.Fatal(err)
			}
		}
		if host == 0 {
			if err := r.SetNeighbour(of(0, MaxNeighboursPerHost)); !errors.Is(err, ErrTooManyOfHost) {
				t.Errorf("one more of a host: %v; want ErrTooManyOfHost", err)
			}
		}
	}
	if err := r.SetNeighbour(of(99, 0)); !errors.Is(err, ErrTooManyNeighbours) {
		t.Errorf("one more: %v; want ErrTooManyNeighbours", err)
	}
	changed := of(0, 0)
	changed.Port = 9
	if err := r.SetNeighbour(changed); err != nil || neighbour(r, changed.Node).Port != 9 {
		t.Errorf("change of a known one at the limit: %v", err)
	}
	r.RemoveNeighbour(changed.NeighbourKey())
	if err := r.SetNeighbour(of(99, 0)); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
	for host := range 100 {
		for i := range MaxNeighboursPerHost {
			n := of(host, i)
			r.RemoveNeighbour(n.NeighbourKey())
		}
	}
	if _, left := r.Counts(); left != 0 || len(r.shares) != 0 {
		t.Errorf("%d neighbours of %d hosts left; want none", left, len(r.shares))
	}
}

func TestStrings(t *testing.T) {
	got := []string{
		Normal.String(), Hidden.String(), NodeType(1).String(), Local.String(), LAN.String(),
		Up.String(), Changed.String(), Down.String(), EventKind(9).String(),
	}
	want := []string{"normal", "hidden", "normal", "local", "lan", "up", "changed", "down", "EventKind(9)"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

// BenchmarkLookup shows that a lookup costs the same however many nodes there are. Only the
// processor's caches make a difference.
func BenchmarkLookup(b *testing.B) {
	for _, nodes := range []int{1, 50_000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			r := New(testHost, OldNames)
			names := make([]string, nodes)
			for i := range names {
				names[i] = fmt.Sprint("node", i)
				register(b, r, names[i], 6)
			}
			i := 0
			for b.Loop() {
				if r.Lookup(names[i%nodes]) == nil {
					b.Fatalf("%q is not there", names[i%nodes])
				}
				i++
			}
		})
	}
}

// BenchmarkRegister is a registration and its end, the same name again.
func BenchmarkRegister(b *testing.B) {
	r := New(testHost, OldNames)
	for b.Loop() {
		r.Unregister(register(b, r, "a", 6))
	}
}

// TestPeerID has two registries differ, until one goes on where another ended.
func TestPeerID(t *testing.T) {
	a, b := New("hosta.local", OldNames), New("hosta.local", OldNames)
	if a.PeerID() == b.PeerID() || a.PeerID() == [16]byte{} {
		t.Errorf("ids %x and %x; want two", a.PeerID(), b.PeerID())
	}
	if b.SetPeerID(a.PeerID()); a.PeerID() != b.PeerID() {
		t.Errorf("ids %x and %x; want one", a.PeerID(), b.PeerID())
	}
}
