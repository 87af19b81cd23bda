package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestLasting has nodes come, change and go beside a subscriber that only wants to know what there
// is.
func TestLasting(t *testing.T) {
	r := New(testHost, OldNames)
	s := begun(r).Lasting()
	defer s.Close()
	a := register(t, r, "a", 6)
	brief := register(t, r, "brief", 6)
	r.SetMute(r.Node(brief))
	b := register(t, r, "b", 6)
	r.Unregister(brief)
	if got, want := taken(s, true).Events, []Event{{Up, r.Node(a)}, {Up, r.Node(b)}}; !slices.Equal(got, want) {
		t.Errorf("took %v beside a node that came and went; want %v", got, want)
	}
	last := r.Node(a)
	r.Unregister(a)
	r.Unregister(register(t, r, "a", 6))
	if got := taken(s, true).Events; !slices.Equal(got, []Event{{Down, last}}) {
		t.Errorf("took %v; want that the first a has gone", got)
	}
}

// TestLastingRandom is the same with nodes in any order, more of them than are looked through. What
// was told adds up to what there is.
func TestLastingRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := New(testHost, OldNames)
	s := begun(r).Lasting()
	defer s.Close()
	var there []*Registration
	told := make(map[uint64]*Node)
	for serial := range 20_000 {
		switch k := rng.IntN(100); {
		case k < 50:
			there = append(there, register(t, r, fmt.Sprintf("n%d", serial), 6))
		case k < 55 && len(there) > 0:
			r.SetMute(r.Node(there[rng.IntN(len(there))]))
		case k < 99 && len(there) > 0:
			i := rng.IntN(len(there))
			r.Unregister(there[i])
			there = slices.Delete(there, i, i+1)
		case k == 99:
			for _, ev := range s.Take().Events {
				if known := told[ev.Node.ID] != nil; known == (ev.Kind == Up) {
					t.Fatalf("step %d: %v of %s; known before: %v", serial, ev.Kind, ev.Node.Name, known)
				}
				if told[ev.Node.ID] = ev.Node; ev.Kind == Down {
					delete(told, ev.Node.ID)
				}
			}
			byID := func(a, b *Node) int { return int(a.ID) - int(b.ID) }
			if got := slices.SortedFunc(maps.Values(told), byID); !slices.Equal(got, r.Nodes()) {
				t.Fatalf("step %d: told of %d nodes; want %d", serial, len(got), len(r.Nodes()))
			}
		}
	}
}
