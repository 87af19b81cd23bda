package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// lanNode returns a node NAME@hosta.local at that port and address.
func lanNode(name string, port uint16, addr string) Node {
	return Node{Node: name + "@hosta.local", Name: name, Host: "hosta.local", Port: port,
		Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Origin: LAN}
}

// show writes what has become of the neighbours as lines to compare.
func show(changes *Subscription) string {
	var lines []string
	for _, e := range changes.Take().Events {
		if e.Kind == Down {
			lines = append(lines, "- "+e.Node.Node)
		} else {
			line := fmt.Sprintf("+ %s %d %v %v", e.Node.Node, e.Node.Port, e.Node.Addresses, e.Node.Sure)
			if e.Node.Claims != nil {
				line += fmt.Sprintf(", not %d", *e.Node.Claims)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestSource(t *testing.T) {
	r := New("hostb.local", 0)
	changes := begun(r)
	mdns, file := r.NewSource(Announced), r.NewSource(Announced)
	see := func(s *Source, key string, n Node) {
		t.Helper()
		if err := s.See(key, n); err != nil {
			t.Error(err)
		}
	}
	sure := lanNode("a", 2, "192.0.2.1")
	sure.Sure = true
	other := sure
	other.Node = "a@full"
	second := lanNode("a", 7, "192.0.2.1") // of another epmd of the host
	second.EPMDPort = 5555
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"seen over link-local IPv6", func() { see(mdns, "ll", lanNode("a", 1, "fe80::1%eth1")) }, "+ a@hosta.local 1 [fe80::1%eth1] false"},
		{"and IPv6", func() { see(mdns, "v6", lanNode("a", 1, "2001:db8::1")) }, "+ a@hosta.local 1 [2001:db8::1 fe80::1%eth1] false"},
		{"and IPv4", func() { see(mdns, "v4", lanNode("a", 1, "192.0.2.1")) }, "+ a@hosta.local 1 [192.0.2.1 2001:db8::1 fe80::1%eth1] false"},
		{"once more", func() { see(mdns, "v4", lanNode("a", 1, "192.0.2.1")) }, ""},
		{"another port in one place", func() { see(mdns, "v4", sure) }, "+ a@hosta.local 1 [192.0.2.1 2001:db8::1 fe80::1%eth1] false, not [2]"},
		{"of which its epmd knows", func() { r.Answered(onlyNeighbour(t, r), Unchecked, 2) }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true, not [1]"},
		{"another source doesn't outweigh", func() { see(file, "v4", lanNode("a", 9, "192.0.2.1")) }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true, not [1 9]"},
		{"it ends", func() { file.Lose("v4") }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true, not [1]"},
		{"it isn't lost twice", func() { file.Lose("v4") }, ""},
		{"another source has another address", func() { see(file, "v4", lanNode("a", 9, "192.0.2.9")) }, "+ a@hosta.local 2 [192.0.2.1 192.0.2.9 2001:db8::1 fe80::1%eth1] true, not [1 9]"},
		{"that ends", func() { file.Close() }, "+ a@hosta.local 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true, not [1]"},
		{"it tells another full name", func() { see(mdns, "v4", other) }, "+ a@full 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] false, not [1]"},
		{"whose host has its address", func() { r.SetResolved("FULL", []netip.Addr{netip.MustParseAddr("192.0.2.1")}) }, "+ a@full 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] true, not [1]"},
		{"and another one", func() { r.SetResolved("full", []netip.Addr{netip.MustParseAddr("192.0.2.7")}) }, "+ a@full 2 [192.0.2.1 2001:db8::1 fe80::1%eth1] false, not [1]"},
		{"another epmd of the host has one too", func() { see(mdns, "a #2", second) }, "+ a@hosta.local 7 [192.0.2.1] false"},
		{"which goes", func() { mdns.Lose("a #2") }, "- a@hosta.local"},
		{"lost in one place", func() { mdns.Lose("ll") }, "+ a@full 2 [192.0.2.1 2001:db8::1] false, not [1]"},
		{"lost where it was sure", func() { mdns.Lose("v4") }, "+ a@hosta.local 2 [2001:db8::1] false, not [1]"},
		{"its epmd doesn't answer", func() { r.Answered(onlyNeighbour(t, r), Unchecked, 0) }, "+ a@hosta.local 1 [2001:db8::1] false"},
		{"lost in all", func() { mdns.Lose("v6") }, "- a@hosta.local"},
		{"old, not seen again, and expired", func() {
			see(mdns, "v6", lanNode("a", 1, "2001:db8::1"))
			see(mdns, "v4", lanNode("b", 1, "192.0.2.1"))
			see(file, "v4", lanNode("c", 1, "192.0.2.1"))
			changes.Take()
			mdns.Doubt()
			see(mdns, "v6", lanNode("a", 1, "2001:db8::1"))
			mdns.Expire()
		}, "- b@hosta.local"},
		{"nothing expires twice", func() { mdns.Expire() }, ""},
		{"a key becomes that of another node", func() { see(mdns, "v6", lanNode("d", 1, "2001:db8::1")) }, "+ d@hosta.local 1 [2001:db8::1] false\n- a@hosta.local"},
	}
	for _, s := range steps {
		s.do()
		if got := show(changes); got != s.want {
			t.Errorf("%s: got\n%s\nwant\n%s", s.name, got, s.want)
		}
	}
	mdns.Close()
	file.Close()
	if len(r.sightings.nodes)+len(mdns.seen)+len(file.seen) > 0 {
		t.Errorf("left are %v, %v and %v", r.sightings.nodes, mdns.seen, file.seen)
	}
}

// TestSourcePrefixes has a neighbour at addresses on the links of this host and elsewhere. One
// of them is this host's own.
func TestSourcePrefixes(t *testing.T) {
	r := New("hostb.local", 0)
	source := r.NewSource(Announced)
	for i, addr := range []string{"203.0.113.1", "2001:db8:1::1", "172.17.0.1", "2001:db8::1", "192.0.2.1", "fe80::1%eth0"} {
		if err := source.See(i, lanNode("a", 1, addr)); err != nil {
			t.Fatal(err)
		}
	}
	changes := begun(r)
	at := func(prefixes ...string) string {
		var list []netip.Prefix
		for _, p := range prefixes {
			list = append(list, netip.MustParsePrefix(p))
		}
		r.SetLANPrefixes(list)
		return show(changes)
	}
	for _, tt := range []struct {
		name, got, want string
	}{
		{"IPv4 and IPv6", at("192.0.2.9/24", "172.17.0.1/16", "2001:db8::9/64", "fe80::9/64"),
			"[192.0.2.1 2001:db8::1 fe80::1%eth0 172.17.0.1 203.0.113.1 2001:db8:1::1]"},
		{"the other link", at("203.0.113.9/24", "fe80::9/64"),
			"[203.0.113.1 fe80::1%eth0 172.17.0.1 192.0.2.1 2001:db8::1 2001:db8:1::1]"},
		{"none", at(), "[172.17.0.1 192.0.2.1 203.0.113.1 2001:db8::1 2001:db8:1::1 fe80::1%eth0]"},
	} {
		if want := "+ a@hosta.local 1 " + tt.want + " false"; tt.got != want {
			t.Errorf("%s: got %s, want %s", tt.name, tt.got, want)
		}
	}
	if got := at(); got != "" {
		t.Errorf("as before: %s", got)
	}
}

// TestSourceBound has far more sightings of one node than count. None is lost: its own epmd is
// believed, and when all others go it is still there.
func TestSourceBound(t *testing.T) {
	const many = 1000
	r := New("hostb.local", 0)
	changes := begun(r)
	source, told := r.NewSource(Announced), r.NewSource(Told)
	see := func(s *Source, key any, n Node) {
		t.Helper()
		if err := s.See(key, n); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, want string) {
		t.Helper()
		if got := show(changes); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
		}
	}
	for i := range many {
		see(source, i, lanNode("a", uint16(i%maxSightings+1), "192.0.2.1"))
	}
	for _, counting := range r.sightings.nodes {
		if len(counting) != maxSightings {
			t.Errorf("%d sightings of one node count", len(counting))
		}
	}
	changes.Take()
	own := lanNode("a", 4711, "192.0.2.7")
	own.Sure = true
	see(told, "", own)
	want("told", "+ a@hosta.local 4711 [192.0.2.7] true")
	told.Close()
	want("no longer", "+ a@hosta.local 1 [192.0.2.1] false, not [2 3 4 5 6 7 8 9]")
	see(source, many-1, lanNode("a", 9, "192.0.2.9")) // which waits
	for i := range many - 1 {
		source.Lose(i)
	}
	if got := changes.Take().Events; len(got) == 0 || got[len(got)-1].Node.Port != 9 || slices.ContainsFunc(got, func(e Event) bool { return e.Kind == Down }) {
		t.Errorf("when all but one have gone: %d events, the last %+v", len(got), got[len(got)-1])
	}
	source.Lose(many - 1)
	want("all have gone", "- a@hosta.local")
	if m := r.sightings; len(m.nodes)+len(m.waiting)+len(source.seen) > 0 {
		t.Errorf("left are %v, %v and %v", m.nodes, m.waiting, source.seen)
	}
}

// TestSourceRefused has more nodes of one host than the registry keeps. They get their turn as
// others go.
func TestSourceRefused(t *testing.T) {
	r := New("hostb.local", 0)
	source := r.NewSource(Announced)
	const more = 100
	for i := range MaxNeighboursPerHost + more {
		err := source.See(i, lanNode(fmt.Sprint("n", i), 1, "192.0.2.1"))
		if refused := i >= MaxNeighboursPerHost; refused != errors.Is(err, ErrTooManyOfHost) {
			t.Fatalf("node %d: %v", i, err)
		}
	}
	for i := range more {
		if _, n := r.Counts(); n != MaxNeighboursPerHost || len(r.sightings.refused[Announced].owners) != more-i {
			t.Errorf("%d neighbours, %d refused after %d have gone", n, len(r.sightings.refused[Announced].owners), i)
		}
		source.Lose(i)
	}
	if _, n := r.Counts(); n != MaxNeighboursPerHost || len(r.sightings.refused[Announced].owners) != 0 {
		t.Errorf("%d neighbours, %d refused", n, len(r.sightings.refused[Announced].owners))
	}
}

// TestForged has others announce something of a node that is not theirs. What is known of it stays,
// and its epmd decides.
func TestForged(t *testing.T) {
	r := New("hosta.local", 0)
	mdns := r.NewSource(Announced)
	genuine := Node{Node: "a@hostb.local", Name: "a", Host: "hostb.local", EPMDPort: 4369, Port: 4711, Type: Normal, Sure: true,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Origin: LAN}
	see := func(key any, n Node) {
		t.Helper()
		if err := mdns.See(key, n); err != nil {
			t.Error(err)
		}
	}
	want := func(when string, port uint16) {
		t.Helper()
		if n := onlyNeighbour(t, r); n.Port != port || n.Type != Normal || !n.Sure || n.Node != genuine.Node {
			t.Errorf("%s: %+v", when, n)
		}
	}
	see("a@hostb", genuine)
	forged := genuine
	forged.Port, forged.Type, forged.Node = 6666, Hidden, "a@hostb"
	see("innocent", forged)
	want("forged later", 4711)
	r.Answered(onlyNeighbour(t, r), Reachable, 4711)
	mdns.Lose("a@hostb")
	see("a@hostb", genuine)
	want("forged, and announced anew", 4711)
	moved := genuine
	moved.Port = 4712
	see("a@hostb", moved)
	want("moved, before its epmd says so", 4711)
	r.Answered(onlyNeighbour(t, r), Reachable, 4712)
	want("moved", 4712)
	for i := range 2 * maxSightings {
		see(i, forged)
	}
	mdns.Lose("a@hostb")
	see("a@hostb", moved)
	want("forged many times, and announced anew", 4712)
}

// TestForgedName has somebody announce a node under a name that is not its own, before the node is
// announced. Once its own name is known, that counts.
func TestForgedName(t *testing.T) {
	r := New("hosta.local", 0)
	mdns := r.NewSource(Announced)
	for i, name := range []string{"a@evil.example", "a@hosta.local"} {
		n := lanNode("a", 4711, "192.0.2.1")
		n.Node, n.Sure = name, true
		if err := mdns.See(i, n); err != nil {
			t.Fatal(err)
		}
		if got := onlyNeighbour(t, r); got.Node != name || got.Sure != (i == 1) {
			t.Errorf("it is called %s, sure %v", got.Node, got.Sure)
		}
	}
}

// TestForgedMany has more forged announcements than count. The genuine one waits. It counts once it
// says what the epmd does.
func TestForgedMany(t *testing.T) {
	r := New("hosta.local", 0)
	mdns := r.NewSource(Announced)
	see := func(key any, n Node) {
		t.Helper()
		if err := mdns.See(key, n); err != nil {
			t.Error(err)
		}
	}
	for i := range maxSightings {
		see(i, lanNode("a", 6666, "192.0.2.66"))
	}
	genuine := lanNode("a", 4711, "192.0.2.1")
	genuine.Type = Hidden
	see("genuine", genuine)
	r.Answered(onlyNeighbour(t, r), Reachable, 4712)
	genuine.Port = 4712
	see("genuine", genuine)
	if n := onlyNeighbour(t, r); n.Port != 4712 || n.Type != Hidden || !slices.Contains(n.Addresses, genuine.Addresses[0]) {
		t.Errorf("known is %+v", n)
	}
}

// TestAnsweredTold has the epmd of a node answer after its stream has begun, or before. What the
// stream says is newer, and the answer does not come back when the stream ends.
func TestAnsweredTold(t *testing.T) {
	r := New("hosta.local", 0)
	mdns, stream := r.NewSource(Announced), r.NewSource(Told)
	see := func(s *Source, n Node) {
		t.Helper()
		if err := s.See("a", n); err != nil {
			t.Error(err)
		}
	}
	see(mdns, lanNode("a", 1, "192.0.2.1"))
	r.Answered(onlyNeighbour(t, r), Reachable, 2)
	see(stream, toldNode("a", 3, Reachable, "192.0.2.1"))
	r.Answered(onlyNeighbour(t, r), Reachable, 2)
	if n := onlyNeighbour(t, r); n.Port != 3 {
		t.Errorf("port %d while there is a stream", n.Port)
	}
	see(mdns, lanNode("a", 3, "192.0.2.1"))
	stream.Close()
	if n := onlyNeighbour(t, r); n.Port != 3 {
		t.Errorf("port %d after the stream", n.Port)
	}
}

// TestBelongs has nodes call themselves by hosts that are theirs or not.
func TestBelongs(t *testing.T) {
	r := New("hosta.local", 0)
	r.SetResolved("b.example.com", []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("192.0.2.2")})
	r.SetResolved("db.example.com", []netip.Addr{netip.MustParseAddr("203.0.113.9")})
	source := r.NewSource(Announced)
	for host, want := range map[string]bool{
		"hostb.local": true, "HostB.local": true, "hostb": true, "192.0.2.2": true, "fe80::2": true, "b.example.com": true, "B.example.com": true,
		"hostc.local": false, "hostc": false, "192.0.2.3": false, "db.example.com": false, "nowhere.example": false, "hostb.local.example": false,
	} {
		err := source.See("a", Node{Node: "a@" + host, Name: "a", Host: "hostb.local", Port: 1, Sure: true, Origin: LAN,
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::2%eth0")}})
		if n := onlyNeighbour(t, r); err != nil || n.Sure != want || n.Node != "a@"+host {
			t.Errorf("%s: %+v, %v; want sure %v", host, n, err, want)
		}
	}
}

// flood announces so many nodes of a host at an address.
func flood(t *testing.T, s *Source, host, addr string, many int) {
	t.Helper()
	for i := range many {
		n := lanNode(fmt.Sprint("forged", i), 6666, addr)
		n.Host = host
		if err := s.See(host+addr+n.Name, n); err != nil && !errors.Is(err, ErrTooManyOfHost) && !errors.Is(err, ErrTooManyNeighbours) {
			t.Fatal(err)
		}
	}
}

// answer has the epmd of each neighbour answer that it has only nodes that are not forged, or at
// evil addresses all of them.
func answer(r *Registry, evil ...string) {
	for _, n := range r.Nodes() {
		switch has := n.Name == "genuine" || slices.Contains(evil, n.Addresses[0].String()); {
		case n.Reach != Unchecked:
		case has:
			r.Answered(n, Reachable, n.Port)
		default:
			r.Answered(n, Unreachable, 0)
		}
	}
}

// TestPlacesOfHost has somebody announce nodes of a host that does not have them, as many as there
// are places for. The host's own nodes have places all the same, and keep them.
func TestPlacesOfHost(t *testing.T) {
	r := New("hostb.local", 0)
	mdns := r.NewSource(Announced)
	if err := mdns.See("first", lanNode("genuine", 4711, "192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	answer(r)
	flood(t, mdns, "hosta.local", "192.0.2.1", 2*MaxNeighboursPerHost)
	second := lanNode("genuine", 4712, "192.0.2.1")
	second.EPMDPort = 5555
	if err := mdns.See("second", second); !errors.Is(err, ErrTooManyOfHost) {
		t.Errorf("before any epmd has answered: %v", err)
	}
	for range 10 { // all have their turn
		answer(r)
	}
	genuine := 0
	for _, n := range r.Nodes() {
		if n.Name == "genuine" && n.Reach == Reachable {
			genuine++
		}
	}
	if genuine != 2 || len(r.Nodes()) > MaxNeighboursPerHost {
		t.Errorf("%d of 2 genuine nodes can be reached, among %d", genuine, len(r.Nodes()))
	}
	third := lanNode("genuine", 4713, "192.0.2.1")
	third.EPMDPort = 5556
	if err := mdns.See("third", third); err != nil {
		t.Errorf("a third one, at once: %v", err)
	}
	mdns.Close()
	if m := r.sightings; len(r.Nodes())+len(r.shares)+len(r.lost)+len(m.refused[Announced].owners)+len(m.ports)+len(m.chosen) > 0 {
		t.Errorf("left are %d nodes, %v, %v, %v", len(r.Nodes()), r.shares, r.lost, m.refused[Announced])
	}
}

// TestPlaces has nine announced hosts at one or two addresses whose epmd has all names that anybody
// asks for. Places are counted by address, so that others have theirs.
func TestPlaces(t *testing.T) {
	r := New("hostb.local", 0)
	mdns := r.NewSource(Announced)
	for i := range 9 {
		flood(t, mdns, fmt.Sprintf("evil%d.local", i), fmt.Sprint("192.0.2.", 66+i%2), MaxNeighboursPerHost)
	}
	answer(r, "192.0.2.66", "192.0.2.67")
	if n := len(r.Nodes()); n != 2*MaxNeighboursPerHost {
		t.Errorf("%d nodes at two addresses", n)
	}
	for i := range 9 { // at addresses where nobody is
		flood(t, mdns, fmt.Sprintf("none%d.local", i), fmt.Sprint("192.0.2.", 100+i), MaxNeighboursPerHost)
	}
	answer(r)
	if n := len(r.Nodes()); n != MaxNeighbours {
		t.Errorf("%d nodes; want %d", n, MaxNeighbours)
	}
	if err := mdns.See("genuine", lanNode("genuine", 4711, "192.0.2.1")); err != nil {
		t.Errorf("a genuine one, at once: %v", err)
	}
	answer(r)
	for i := range 9 {
		flood(t, mdns, fmt.Sprintf("more%d.local", i), fmt.Sprint("192.0.2.", 120+i), MaxNeighboursPerHost)
		answer(r)
	}
	reachable := 0
	for _, n := range r.Nodes() {
		if n.Reach == Reachable {
			reachable++
		}
	}
	if want := 2*MaxNeighboursPerHost + 1; reachable != want || len(r.Nodes()) != MaxNeighbours {
		t.Errorf("%d of %d nodes can be reached; want %d of %d", reachable, len(r.Nodes()), want, MaxNeighbours)
	}
}

// forgeries are the ways in which somebody announces very many nodes, by what number i is.
var forgeries = []struct {
	name string
	node func(i int) Node
}{
	{"one node", func(i int) Node { return lanNode("a", uint16(i%100+1), "192.0.2.1") }},
	{"one node at an address each", func(i int) Node { return lanNode("a", uint16(i%100+1), fmt.Sprintf("10.0.%d.%d", i/256, i%256)) }},
	{"nodes of a host each", func(i int) Node {
		n := lanNode("a", 1, fmt.Sprint("192.0.2.", i%20+1))
		n.Host = fmt.Sprintf("host%d.local", i)
		return n
	}},
	{"nodes at one address", func(i int) Node { return lanNode(fmt.Sprint("n", i), 1, "192.0.2.1") }},
	{"nodes at nine addresses", func(i int) Node { return lanNode(fmt.Sprint("n", i), 1, fmt.Sprint("192.0.2.", i%9+1)) }},
	{"nodes at an address each", func(i int) Node { return lanNode(fmt.Sprint("n", i), 1, fmt.Sprintf("10.0.%d.%d", i/256, i%256)) }},
}

// forged returns a source that has told of so many nodes. No epmd confirms half of them.
func forged(tb testing.TB, node func(i int) Node, many int) (*Registry, *Source) {
	r := New("hostb.local", 0)
	s := r.NewSource(Announced)
	for i := range many {
		if err := s.See(i, node(i)); err != nil && !errors.Is(err, ErrTooManyOfHost) && !errors.Is(err, ErrTooManyNeighbours) {
			tb.Fatal(err)
		}
	}
	for i, n := range r.Nodes() {
		r.Answered(n, []Reach{Reachable, Unreachable}[i%2], 0)
	}
	return r, s
}

func BenchmarkClose(b *testing.B) {
	for _, f := range forgeries {
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				_, s := forged(b, f.node, 9000)
				b.StartTimer()
				s.Close()
			}
		})
	}
}

// TestCloseCost holds that to close a source costs no more than to take out each of its sightings:
// there is less than one allocation for each. Before, each had the registry work out anew what is
// left, and try others for the place.
func TestCloseCost(t *testing.T) {
	const many = 9000
	for _, f := range forgeries {
		r, s := forged(t, f.node, many)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.Close()
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > many {
			t.Errorf("%s: %d allocations for %d sightings", f.name, n, many)
		} else {
			t.Logf("%s: %d allocations", f.name, n)
		}
		if n := len(r.Nodes()) + len(r.sightings.nodes) + len(r.sightings.waiting) + len(r.sightings.refused[Announced].owners); n > 0 {
			t.Errorf("%s: %d things are left", f.name, n)
		}
	}
}
