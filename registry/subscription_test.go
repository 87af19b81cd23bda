package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSubscribe(t *testing.T) {
	r := New(testHost, OldNames)
	a, b := register(t, r, "a", 6), register(t, r, "b", 6)
	if err := r.SetNeighbour(Node{Node: "c@hostb.local", Host: "hostb.local"}); err != nil {
		t.Fatal(err)
	}
	s := r.Subscribe()
	defer s.Close()
	if nodes, want := taken(s, true).Nodes, r.Nodes(); len(want) != 3 || !slices.Equal(nodes, want) {
		t.Errorf("snapshot %v; want %v", nodes, want)
	}
	if want := []*Node{r.Node(a), r.Node(b), neighbour(r, "c@hostb.local")}; !slices.Equal(r.Nodes(), want) {
		t.Errorf("nodes %v; want %v", r.Nodes(), want)
	}
	if b := taken(s, false); b.Anew || len(b.Events) != 0 {
		t.Errorf("took %+v before anything happened", b)
	}

	last := r.Node(a)
	r.Unregister(a)
	again := register(t, r, "a", 6)
	want := []Event{{Down, last}, {Up, r.Node(again)}}
	if b := taken(s, true); b.Anew || !slices.Equal(b.Events, want) {
		t.Errorf("took %+v; want %v", b, want)
	}
	if b := taken(s, false); len(b.Events) != 0 {
		t.Errorf("took %+v a second time", b)
	}
}

// TestSubscribeLocal has a subscriber that wants to know of the nodes of this host alone.
func TestSubscribeLocal(t *testing.T) {
	r := New(testHost, OldNames)
	a := register(t, r, "a", 6)
	far := Node{Node: "c@hostb.local", Name: "c", Host: "hostb.local", Origin: LAN}
	if err := r.SetNeighbour(far); err != nil {
		t.Fatal(err)
	}
	s := r.SubscribeLocal()
	defer s.Close()
	if b := taken(s, true); !b.Anew || !slices.Equal(b.Nodes, []*Node{r.Node(a)}) || b.LAN == nil {
		t.Errorf("first batch %+v; want node a and LAN state", b)
	}
	r.RemoveNeighbour(far.NeighbourKey())
	if err := r.SetNeighbour(far); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Ready():
		t.Errorf("a neighbour woke the reader: %+v", s.Take())
	default:
	}
	r.SetLAN(LANState{Browsing: Discovery{Wanted: true}})
	b := register(t, r, "b", 6)
	if got := taken(s, true); got.Anew || !slices.Equal(got.Events, []Event{{Up, r.Node(b)}}) || got.LAN == nil {
		t.Errorf("took %+v; want node b and LAN state", got)
	}
}

// TestSubscribeNeighbours has a subscriber that wants to know of the nodes of other hosts alone.
func TestSubscribeNeighbours(t *testing.T) {
	r := New(testHost, OldNames)
	register(t, r, "a", 6)
	far := Node{Node: "c@hostb.local", Name: "c", Host: "hostb.local", Origin: LAN}
	if err := r.SetNeighbour(far); err != nil {
		t.Fatal(err)
	}
	s := r.SubscribeNeighbours()
	defer s.Close()
	if b := taken(s, true); !b.Anew || !slices.Equal(b.Nodes, []*Node{neighbour(r, far.Node)}) || b.LAN == nil {
		t.Errorf("first batch %+v; want c and LAN state", b)
	}
	r.Unregister(register(t, r, "b", 6))
	select {
	case <-s.Ready():
		t.Errorf("a registration woke the reader: %+v", s.Take())
	default:
	}
	last := neighbour(r, far.Node)
	r.RemoveNeighbour(far.NeighbourKey())
	if got := taken(s, true); got.Anew || !slices.Equal(got.Events, []Event{{Down, last}}) {
		t.Errorf("took %+v; want that c has gone", got)
	}
}

// taken takes what there is. Ready must have yielded if that is anything.
func taken(s *Subscription, ready bool) Batch {
	select {
	case <-s.Ready():
	default:
		if ready {
			return Batch{}
		}
	}
	return s.Take()
}

// TestSubscriberBehind fills a subscriber that does not read, while another does.
func TestSubscriberBehind(t *testing.T) {
	r := New(testHost, OldNames)
	idle, full, reader := begun(r), begun(r), begun(r)
	for range maxPending / 2 {
		r.Unregister(register(t, r, "a", 6))
	}
	for _, s := range []*Subscription{full, reader} {
		if b := s.Take(); b.Anew || len(b.Events) != maxPending {
			t.Fatalf("took %d events, anew %v; want %d", len(b.Events), b.Anew, maxPending)
		}
	}
	register(t, r, "b", 6)
	last := register(t, r, "c", 6)
	r.Unregister(last)
	if b := taken(idle, true); !b.Anew || len(b.Events) != 0 || !slices.Equal(b.Nodes, r.Nodes()) {
		t.Errorf("past the limit: took %d events, anew %v, nodes %v; want the node b", len(b.Events), b.Anew, b.Nodes)
	}
	if b, err := reader.Next(t.Context()); b.Anew || len(b.Events) != 3 || err != nil {
		t.Errorf("the reader took %d events, anew %v, %v; want 3", len(b.Events), b.Anew, err)
	}
	d := register(t, r, "d", 6)
	if b := taken(idle, true); b.Anew || !slices.Equal(b.Events, []Event{{Up, r.Node(d)}}) {
		t.Errorf("begun anew: took %+v; want d", b)
	}
}

func TestSubscriptionClose(t *testing.T) {
	r := New(testHost, OldNames)
	s := r.Subscribe()
	register(t, r, "a", 6)
	s.Close()
	s.Close()
	if b := s.Take(); b.Anew || len(b.Nodes) != 0 || len(b.Events) != 0 {
		t.Errorf("took %+v after Close; want nothing", b)
	}
	if len(r.subscriptions) != 0 {
		t.Errorf("%d subscriptions are left", len(r.subscriptions))
	}
}

func TestNext(t *testing.T) {
	ends := []struct {
		name string
		end  func(r *Registry, cancel func())
		want error
	}{
		{"change", func(r *Registry, _ func()) { register(t, r, "a", 6) }, nil},
		{"end of the context", func(_ *Registry, cancel func()) { cancel() }, context.Canceled},
		{"deadline", func(*Registry, func()) { time.Sleep(time.Hour) }, context.DeadlineExceeded},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r := New(testHost, OldNames)
				s := begun(r)
				returned := make(chan error, 1)
				go func() {
					_, err := s.Next(ctx)
					returned <- err
				}()
				synctest.Wait()
				if len(returned) != 0 {
					t.Fatalf("Next returned %v before anything happened", <-returned)
				}
				tt.end(r, cancel)
				synctest.Wait()
				select {
				case err := <-returned:
					if !errors.Is(err, tt.want) {
						t.Errorf("Next returned %v; want %v", err, tt.want)
					}
				default:
					t.Error("Next still waits")
					cancel()
				}
			})
		})
	}
}

// TestModel lets many goroutines change a registry at once. Others replay what they are told.
// Each replay must be free of contradictions and end with what the registry holds.
func TestModel(t *testing.T) {
	const writers, replayers, rounds = 8, 4, 2000
	r := New(testHost, 10)
	var writing, replaying sync.WaitGroup
	done := make(chan struct{})
	for i := range replayers {
		replaying.Go(func() { replay(t, r, done, i%2 == 1) })
	}
	for i := range writers {
		writing.Go(func() { write(t, r, rand.New(rand.NewPCG(uint64(i), 0)), rounds) })
	}
	writing.Wait()
	close(done)
	replaying.Wait()
}

// write makes random changes, to names that other writers use too.
func write(t *testing.T, r *Registry, rnd *rand.Rand, rounds int) {
	var mine []*Registration
	for range rounds {
		name := fmt.Sprintf("n%d", rnd.IntN(30))
		host := fmt.Sprintf("h%d.local", rnd.IntN(3))
		switch rnd.IntN(8) {
		case 0, 1, 2:
			reg, err := r.Register(Node{Name: name, High: 6})
			if err == nil {
				mine = append(mine, reg)
			} else if !errors.Is(err, ErrNameTaken) {
				t.Error(err)
			}
		case 3, 4:
			if len(mine) > 0 {
				i := rnd.IntN(len(mine))
				r.Unregister(mine[i])
				mine = slices.Delete(mine, i, i+1)
			}
		case 5:
			if n := r.Lookup(name); n != nil {
				if err := r.Identify(n, Identity{Node: n.Name + "@real", Hidden: rnd.IntN(2) == 0}); err != nil {
					t.Error(err)
				}
			}
		case 6:
			if err := r.SetNeighbour(Node{Node: name, Name: name, Host: host, Port: uint16(rnd.IntN(3))}); err != nil {
				t.Error(err)
			}
		case 7:
			r.RemoveNeighbour(NeighbourKey{Name: name, Host: host})
			if rnd.IntN(50) == 0 {
				r.SetHost(host)
			}
		}
	}
}

// replay follows a registry until done is closed, and compares the result with a snapshot. If
// it is restless, it subscribes anew now and then.
func replay(t *testing.T, r *Registry, done <-chan struct{}, restless bool) {
	known, s := make(map[uint64]*Node), r.Subscribe()
	defer func() { s.Close() }()
	for count := 0; ; {
		ended := false
		select {
		case <-s.Ready():
		case <-done:
			ended = true
		}
		b := s.Take()
		if b.Anew {
			known = byID(b.Nodes)
		}
		for _, e := range b.Events {
			if problem := apply(known, e); problem != "" {
				t.Errorf("%v of %q: %s", e.Kind, e.Node.Node, problem)
				return
			}
		}
		if ended {
			compare(t, r, known)
			return
		}
		if count += len(b.Events); restless && count > 1000 {
			s.Close()
			s, count = r.Subscribe(), 0
		}
	}
}

func byID(nodes []*Node) map[uint64]*Node {
	known := make(map[uint64]*Node)
	for _, n := range nodes {
		known[n.ID] = n
	}
	return known
}

// apply enters e into known. It says what in e does not fit.
func apply(known map[uint64]*Node, e Event) string {
	was := known[e.Node.ID]
	switch e.Kind {
	case Up:
		if was != nil {
			return "it was there already"
		}
		known[e.Node.ID] = e.Node
	case Changed:
		if was == nil || was == e.Node {
			return "it was not there, or is the same"
		}
		known[e.Node.ID] = e.Node
	case Down:
		if was != e.Node {
			return "it is not what was known last"
		}
		delete(known, e.Node.ID)
	}
	return ""
}

func compare(t *testing.T, r *Registry, known map[uint64]*Node) {
	want := byID(r.Nodes())
	if len(known) != len(want) {
		t.Errorf("replayed to %d nodes; want %d", len(known), len(want))
	}
	for id, n := range want {
		if known[id] != n {
			t.Errorf("replayed to %+v; want %+v", known[id], n)
		}
	}
}
