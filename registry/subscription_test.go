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
	nodes, s := r.Subscribe()
	defer s.Close()
	if want := []*Node{r.Node(a), r.Node(b), neighbour(r, "c@hostb.local")}; !slices.Equal(nodes, want) {
		t.Errorf("snapshot %v; want %v", nodes, want)
	}
	if events, err := s.Take(); len(events) != 0 || err != nil {
		t.Errorf("took %v, %v before anything happened", events, err)
	}
	select {
	case <-s.Ready():
		t.Error("ready before anything happened")
	default:
	}

	last := r.Node(a)
	r.Unregister(a)
	again := register(t, r, "a", 6)
	select {
	case <-s.Ready():
	default:
		t.Error("not ready after two changes")
	}
	want := []Event{{Down, last}, {Up, r.Node(again)}}
	if events, err := s.Take(); err != nil || !slices.Equal(events, want) {
		t.Errorf("took %v, %v; want %v", events, err, want)
	}
	if events, err := s.Take(); len(events) != 0 || err != nil {
		t.Errorf("took %v, %v a second time", events, err)
	}
}

// TestSubscriberBehind fills a subscriber that does not read, while another does.
func TestSubscriberBehind(t *testing.T) {
	r := New(testHost, OldNames)
	_, idle := r.Subscribe()
	_, full := r.Subscribe()
	_, reader := r.Subscribe()
	defer reader.Close()
	for range maxPending / 2 {
		r.Unregister(register(t, r, "a", 6))
	}
	if events, err := full.Take(); len(events) != maxPending || err != nil {
		t.Fatalf("took %d events, %v; want %d", len(events), err, maxPending)
	}
	if events, err := reader.Take(); len(events) != maxPending || err != nil {
		t.Fatalf("took %d events, %v; want %d", len(events), err, maxPending)
	}
	register(t, r, "b", 6)
	for range 2 {
		if events, err := idle.Take(); len(events) != 0 || !errors.Is(err, ErrBehind) {
			t.Errorf("past the limit: took %d events, %v; want ErrBehind", len(events), err)
		}
	}
	if events, err := reader.Next(t.Context()); len(events) != 1 || err != nil {
		t.Errorf("the reader took %d events, %v; want 1", len(events), err)
	}
	if len(r.subscriptions) != 2 {
		t.Errorf("%d subscriptions are left; want the 2 that were read", len(r.subscriptions))
	}
	idle.Close()
	if nodes, anew := r.Subscribe(); len(nodes) != 1 {
		t.Errorf("subscribed anew to %d nodes; want 1", len(nodes))
		anew.Close()
	}
}

func TestSubscriptionClose(t *testing.T) {
	r := New(testHost, OldNames)
	_, s := r.Subscribe()
	register(t, r, "a", 6)
	s.Close()
	s.Close()
	if events, err := s.Take(); len(events) != 0 || !errors.Is(err, ErrBehind) {
		t.Errorf("took %v, %v after Close; want ErrBehind", events, err)
	}
	if len(r.subscriptions) != 0 {
		t.Errorf("%d subscriptions are left", len(r.subscriptions))
	}
}

func TestNext(t *testing.T) {
	ends := []struct {
		name string
		end  func(r *Registry, s *Subscription, cancel func())
		want error
	}{
		{"change", func(r *Registry, _ *Subscription, _ func()) { register(t, r, "a", 6) }, nil},
		{"end of the context", func(_ *Registry, _ *Subscription, cancel func()) { cancel() }, context.Canceled},
		{"Close", func(_ *Registry, s *Subscription, _ func()) { s.Close() }, ErrBehind},
		{"deadline", func(*Registry, *Subscription, func()) { time.Sleep(time.Hour) }, context.DeadlineExceeded},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r := New(testHost, OldNames)
				_, s := r.Subscribe()
				defer s.Close()
				returned := make(chan error, 1)
				go func() {
					_, err := s.Next(ctx)
					returned <- err
				}()
				synctest.Wait()
				if len(returned) != 0 {
					t.Fatalf("Next returned %v before anything happened", <-returned)
				}
				tt.end(r, s, cancel)
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

// TestModel lets many goroutines change a registry at once while others replay what they are told.
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

// replay follows a registry until done is closed, subscribing anew now and then if it is restless, and
// compares what it made of it with a snapshot.
func replay(t *testing.T, r *Registry, done <-chan struct{}, restless bool) {
	known, s := begin(r)
	defer func() { s.Close() }()
	for taken := 0; ; {
		ended := false
		select {
		case <-s.Ready():
		case <-done:
			ended = true
		}
		events, err := s.Take()
		taken += len(events)
		if errors.Is(err, ErrBehind) || restless && taken > 1000 {
			s.Close()
			known, s = begin(r)
			taken = 0
			continue
		}
		for _, e := range events {
			if problem := apply(known, e); problem != "" {
				t.Errorf("%v of %q: %s", e.Kind, e.Node.Node, problem)
				return
			}
		}
		if ended {
			compare(t, r, known)
			return
		}
	}
}

func begin(r *Registry) (map[uint64]*Node, *Subscription) {
	nodes, s := r.Subscribe()
	known := make(map[uint64]*Node)
	for _, n := range nodes {
		known[n.ID] = n
	}
	return known, s
}

// apply enters e into known and says what in it does not fit.
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
	want, s := begin(r)
	s.Close()
	if len(known) != len(want) {
		t.Errorf("replayed to %d nodes; want %d", len(known), len(want))
	}
	for id, n := range want {
		if known[id] != n {
			t.Errorf("replayed to %+v; want %+v", known[id], n)
		}
	}
}
