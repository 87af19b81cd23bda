package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// crowdAddress returns one of 300 addresses of one host.
func crowdAddress(i int) string { return fmt.Sprintf("198.51.%d.%d", 100+i/200, i%200+1) }

// withCrowd returns a registry that knows the crowd's MAC address once known is set, and of which
// one node of another host can be reached.
func withCrowd(t *testing.T, known *bool) (*Registry, *Source) {
	t.Helper()
	r := New("hostb.local", 0)
	r.SetOwners(func(a netip.Addr) string {
		if *known && strings.HasPrefix(a.String(), "198.51.") {
			return "MAC"
		}
		return a.String()
	})
	mdns := r.NewSource(Announced)
	if err := mdns.See("early", lanNode("early", 1, "192.0.2.9")); err != nil {
		t.Fatal(err)
	}
	r.Answered(onlyNeighbour(t, r), Reachable, 1)
	return r, mdns
}

// crowd announces nodes at 300 addresses, and returns how many have a place.
func crowd(r *Registry, s *Source, n int) int {
	for i := range n {
		_ = s.See(i, lanNode(fmt.Sprintf("x%d", i), 2, crowdAddress(i%300)))
	}
	return countCrowd(r)
}

func countCrowd(r *Registry) (n int) {
	for _, is := range r.Nodes() {
		if is.Name[0] == 'x' {
			n++
		}
	}
	return n
}

func has(r *Registry, name string) bool {
	return slices.ContainsFunc(r.Nodes(), func(n *Node) bool { return n.Name == name })
}

// TestCrowd has a host with 300 addresses announce nodes at all of them. Another host finds a
// place, before and after it is known that all addresses are one host's.
func TestCrowd(t *testing.T) {
	for _, knownFirst := range []bool{false, true} {
		t.Run(fmt.Sprint(knownFirst), func(t *testing.T) {
			known := knownFirst
			r, mdns := withCrowd(t, &known)
			want := map[bool]int{false: MaxNeighbours - 1, true: MaxNeighbours / 2}[knownFirst]
			if got := crowd(r, mdns, 6000); got != want {
				t.Errorf("the crowd has %d places, want %d", got, want)
			}
			if err := mdns.See("new", lanNode("new", 3, "192.0.2.10")); err != nil {
				t.Errorf("another host: %v", err)
			}
			known = true
			for _, n := range r.Nodes() {
				r.Answered(n, Reachable, n.Port)
			}
			if got := countCrowd(r); got > MaxNeighbours/2 {
				t.Errorf("the crowd has %d places after all have answered", got)
			}
			for i := range MaxNeighboursPerHost {
				if err := mdns.See(fmt.Sprint("more", i), lanNode(fmt.Sprintf("more%d", i), 3, "192.0.2.11")); err != nil {
					t.Fatalf("node %d of a third host: %v", i, err)
				}
			}
			if !has(r, "early") || !has(r, "new") {
				t.Errorf("the node that was there first: %t; the new one: %t", has(r, "early"), has(r, "new"))
			}
			mdns.Close()
			if len(r.owners[Announced]) != 0 || len(r.shares) != 0 || len(r.neighbours) != 0 {
				t.Errorf("left: %v, %v, %d neighbours", r.owners, r.shares, len(r.neighbours))
			}
		})
	}
}

// TestCrowdTold has a host tell as many nodes as it can. It gets half of the places.
func TestCrowdTold(t *testing.T) {
	known := true
	r, _ := withCrowd(t, &known)
	stream := r.NewSource(Told)
	for i := range MaxTold {
		err := stream.See(i, toldNode(fmt.Sprintf("x%d", i), 2, Reachable, crowdAddress(i%300)))
		if refused := i >= MaxTold/2; refused != errors.Is(err, ErrGreedy) {
			t.Fatalf("node %d: %v", i, err)
		}
	}
	for i := range MaxTold / 4 {
		if err := stream.See(fmt.Sprint("new", i), toldNode(fmt.Sprintf("new%d", i), 2, Reachable, "192.0.2.10")); err != nil {
			t.Fatalf("node %d of another host: %v", i, err)
		}
	}
	stream.Close()
	if len(r.owners[Told]) != 0 {
		t.Errorf("left: %v", r.owners[Told])
	}
}

// TestPoorestFirst has all places be taken, and thousands of nodes wait of who has most. Places
// that become free are of a host that has none.
func TestPoorestFirst(t *testing.T) {
	r := New("hostb.local", 0)
	streams := make(map[string]*Source)
	tell := func(host string, count int, want error) {
		t.Helper()
		if streams[host] == nil {
			streams[host] = r.NewSource(Told)
		}
		for i := range count {
			if err := streams[host].See(i, toldNode(fmt.Sprint("x", i, host), 2, Reachable, host)); !errors.Is(err, want) {
				t.Fatalf("node %d of %s: %v, want %v", i, host, err, want)
			}
		}
	}
	for i := range MaxTold / MaxNeighboursPerHost {
		tell(fmt.Sprintf("192.0.2.%d", i), MaxNeighboursPerHost, nil)
	}
	crowd := r.NewSource(Told)
	for i := range 5000 {
		_ = crowd.See(i, toldNode(fmt.Sprint("crowd", i), 2, Reachable, "192.0.2.1"))
	}
	tell("192.0.2.200", 3, ErrTooManyTold)
	for i := range 3 {
		streams["192.0.2.2"].Lose(i)
	}
	if has := r.owners[Told]["192.0.2.200"]; has != 3 {
		t.Errorf("the host without any has got %d of 3 places", has)
	}
	for _, s := range streams {
		s.Close()
	}
	crowd.Close()
	if m := r.sightings; len(r.owners[Told])+len(m.refused[Told].owners)+len(m.refused[Told].had) != 0 {
		t.Errorf("left: %v, %v", r.owners[Told], m.refused[Told])
	}
}
