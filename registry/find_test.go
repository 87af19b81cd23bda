package registry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestFind compares what is found with a walk through all nodes, while nodes come, change and go.
// Many of them have one alive name, and some claim one full name.
func TestFind(t *testing.T) {
	const steps = 20000
	rng := rand.New(rand.NewPCG(1, 2))
	r := New("hosta.local", OldNames)
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	alive := func() string { return pick("a", "b", "c") }
	host := func() string { return pick("hosta.local", "hostb.local", "hostc.local", "hostd") }
	registered := make(map[string]*Registration)
	for range steps {
		name := alive()
		n := Node{Name: name, Host: host(), EPMDPort: uint16(4369 + rng.IntN(3)), Port: 1 + uint16(rng.IntN(2)), Rank: Rank(rng.IntN(2))}
		n.Node = name + "@" + host()
		if rng.IntN(4) == 0 {
			name = "a@b" // whatever it is, it may register
		}
		switch reg := registered[name]; {
		case rng.IntN(8) == 0 && reg == nil:
			registered[name] = register(t, r, name, 6)
		case rng.IntN(8) == 0 && reg != nil && !strings.Contains(name, "@"):
			if err := r.Identify(r.Node(reg), Identity{Node: name + "@" + host()}); err != nil {
				t.Fatal(err)
			}
		case rng.IntN(8) == 0 && reg != nil:
			r.Unregister(reg)
			delete(registered, name)
		case rng.IntN(3) == 0:
			r.RemoveNeighbour(n.NeighbourKey())
		case rng.IntN(8) == 0:
			r.SetReach(&n, Reachable)
		default:
			if err := r.SetNeighbour(n); err != nil {
				t.Fatal(err)
			}
		}
		for _, wanted := range []string{alive(), alive() + "@" + host(), "a@b", "a@b@hosta.local"} {
			checkFind(t, r, wanted)
		}
	}
}

func checkFind(t *testing.T, r *Registry, name string) {
	t.Helper()
	var want []string
	for _, n := range r.Nodes() {
		if n.Name == name || n.Node == name {
			want = append(want, fmt.Sprintf("%p", n))
		}
	}
	var got []string
	for i, n := range r.Find(name) {
		got = append(got, fmt.Sprintf("%p", n))
		if n.Origin == Local && i > 1 {
			t.Fatalf("%q: the node of this host is number %d", name, i)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%q: found %v, want %v", name, got, want)
	}
}

// BenchmarkFind finds a node among as many as the network may have.
func BenchmarkFind(b *testing.B) {
	r := New("hosta.local", OldNames)
	for i := range MaxNeighbours {
		host := fmt.Sprintf("host%d.local", i/256)
		n := Node{Name: "a", Host: host, EPMDPort: uint16(1 + i), Port: 1}
		n.Node = fmt.Sprintf("n%d@%s", i, host)
		if err := r.SetNeighbour(n); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if len(r.Find("n77@host0.local")) != 1 {
			b.Fatal("not found")
		}
	}
}
