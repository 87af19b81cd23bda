package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// toldNode returns lanNode as its host's epmd tells of it.
func toldNode(name string, port uint16, reach Reach, addrs ...string) Node {
	n := lanNode(name, port, addrs[0])
	n.Reach, n.Via = reach, ViaEPMD
	for _, a := range addrs[1:] {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	return n
}

// onlyNeighbour returns the only neighbour.
func onlyNeighbour(t *testing.T, r *Registry) *Node {
	t.Helper()
	nodes := r.Nodes()
	if len(nodes) != 1 {
		t.Fatalf("%d nodes, want 1", len(nodes))
	}
	return nodes[0]
}

// TestTold enters one node from mDNS and from two streams.
func TestTold(t *testing.T) {
	r := New("hostb.local", 0)
	r.SetLANPrefixes([]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")})
	mdns, stream := r.NewSource(Announced), r.NewSource(Told)
	changes := begun(r)
	see := func(s *Source, key string, n Node) {
		t.Helper()
		if err := s.See(key, n); err != nil {
			t.Error(err)
		}
	}
	announced := lanNode("a", 1, "192.0.2.1")
	announced.Sure = true
	steps := []struct {
		name  string
		do    func()
		port  uint16
		reach Reach
		addrs string
	}{
		{"announced", func() { see(mdns, "m", announced) }, 1, Unchecked, "[192.0.2.1]"},
		{"told wins, though less sure", func() { see(stream, "1", toldNode("a", 2, Reachable, "198.51.100.1", "2001:db8::1", "192.0.2.9")) },
			2, Reachable, "[198.51.100.1 2001:db8::1 192.0.2.9]"},
		{"polling does nothing then", func() { r.SetReach(onlyNeighbour(t, r), Unreachable) },
			2, Reachable, "[198.51.100.1 2001:db8::1 192.0.2.9]"},
		{"what is announced counts no more", func() { see(mdns, "m", lanNode("a", 9, "192.0.2.77")) },
			2, Reachable, "[198.51.100.1 2001:db8::1 192.0.2.9]"},
		{"a second link, on-link", func() { see(stream, "2", toldNode("a", 2, Reachable, "192.0.2.1")) },
			2, Reachable, "[192.0.2.1 198.51.100.1 2001:db8::1 192.0.2.9]"},
		{"which fails", func() { see(stream, "2", toldNode("a", 2, Unreachable, "192.0.2.1")) },
			2, Reachable, "[198.51.100.1 2001:db8::1 192.0.2.9 192.0.2.1]"},
		{"as does the first", func() { see(stream, "1", toldNode("a", 2, Unreachable, "198.51.100.1")) },
			2, Unreachable, "[192.0.2.1 198.51.100.1]"},
		{"the streams end", func() { stream.Close() }, 9, Unreachable, "[192.0.2.77]"},
		{"polling counts again", func() { r.SetReach(onlyNeighbour(t, r), Reachable) }, 9, Reachable, "[192.0.2.77]"},
	}
	id := uint64(0)
	for _, tt := range steps {
		tt.do()
		n := onlyNeighbour(t, r)
		if got := fmt.Sprintf("%d %v %v", n.Port, n.Reach, n.Addresses); got != fmt.Sprintf("%d %v %s", tt.port, tt.reach, tt.addrs) {
			t.Errorf("%s: %s, want %d %v %s", tt.name, got, tt.port, tt.reach, tt.addrs)
		}
		if id != 0 && n.ID != id {
			t.Errorf("%s: it is another neighbour", tt.name)
		}
		id = n.ID
	}
	for _, e := range changes.Take().Events[1:] {
		if e.Kind != Changed {
			t.Errorf("%v of %s", e.Kind, e.Node.Node)
		}
	}
	mdns.Close()
	if _, n := r.Counts(); n != 0 {
		t.Errorf("%d neighbours when no source has any", n)
	}
}

// TestOrigin has a node that is configured and on the LAN.
func TestOrigin(t *testing.T) {
	r := New("hostb.local", 0)
	stream := r.NewSource(Told)
	n := toldNode("a", 1, Reachable, "192.0.2.1")
	for _, step := range []struct {
		key    string
		origin Origin
		want   Origin
	}{{"conf", Peer, Peer}, {"lan", LAN, LAN}, {"conf", Peer, LAN}, {"lan", Peer, Peer}} {
		n.Origin = step.origin
		if err := stream.See(step.key, n); err != nil {
			t.Fatal(err)
		}
		if got := onlyNeighbour(t, r).Origin; got != step.want {
			t.Errorf("%s is %v: origin %v, want %v", step.key, step.origin, got, step.want)
		}
	}
}

// TestToldLimit fills the places for nodes that are told of. Those for announced ones are others.
func TestToldLimit(t *testing.T) {
	r := New("hostb.local", 0)
	mdns, stream := r.NewSource(Announced), r.NewSource(Told)
	name := func(i int) string { return fmt.Sprintf("n%d", i) }
	for i := range MaxTold + 2 {
		err := stream.See(i, toldNode(name(i), 1, Reachable, fmt.Sprint("192.0.2.", i/MaxNeighboursPerHost)))
		if refused := i >= MaxTold; refused != errors.Is(err, ErrTooManyTold) {
			t.Fatalf("%d told: %v", i, err)
		}
	}
	if err := mdns.See("a", lanNode("a", 1, "192.0.2.1")); err != nil {
		t.Errorf("announced beside them: %v", err)
	}
	last := name(MaxTold + 1)
	if err := mdns.See("last", lanNode(last, 7, "192.0.2.1")); !errors.Is(err, ErrTooManyTold) {
		t.Errorf("told and announced, with room for announced ones: %v", err)
	}
	rank := func(name string) Rank {
		nodes := r.Nodes()
		i := slices.IndexFunc(nodes, func(n *Node) bool { return n.Name == name })
		if i < 0 {
			t.Fatalf("%s isn't there", name)
		}
		return nodes[i].Rank
	}
	if rank(last) != Announced {
		t.Error("a node past the limit counts as told")
	}
	// A node that goes makes room for one, one that is announced alone for another.
	if err := mdns.See("0", lanNode(name(0), 7, "192.0.2.1")); err != nil {
		t.Error(err)
	}
	stream.Lose(0)
	stream.Lose(1)
	if rank(last) != Told || rank(name(MaxTold)) != Told || rank(name(0)) != Announced {
		t.Error("places that were left have not been given to others")
	}
	stream.Close()
	mdns.Close()
	if len(r.neighbours) != 0 || r.ranked != [numRanks]int{} || r.origins != [Origins]int{} || len(r.shares) != 0 ||
		len(r.sightings.nodes) != 0 || len(r.sightings.refused[Told].owners)+len(r.sightings.refused[Announced].owners) != 0 {
		t.Errorf("left at the end: %d neighbours, %v, %v", len(r.neighbours), r.ranked, r.shares)
	}
}
