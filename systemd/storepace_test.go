package systemd

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// TestPace keeps systemd busy. After maxBusy the next message waits until systemd has dealt with
// all, and has had several times as long for others.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		want := func(what string, want time.Duration) {
			t.Helper()
			if got := p.wait(time.Now()); got != want {
				t.Errorf("%s: the next message waits %v; want %v", what, got, want)
			}
		}
		spend := func(d time.Duration, busy bool) {
			p.count(time.Now())
			p.asked = busy
			time.Sleep(d)
		}
		want("at first", 0)
		spend(maxBusy-1, true)
		want("just not too long", 0)
		spend(1, true)
		want("busy for too long", maxRest)
		spend(300*time.Millisecond, true)
		spend(0, false)
		want("and done", restShare*(300*time.Millisecond+1))
		spend(restShare*(300*time.Millisecond+1), false)
		want("after a rest", 0)
		spend(time.Hour, true)
		spend(0, false)
		want("after an hour", maxRest+restShare)
		spend(maxRest+restShare, false)
		want("and a long rest", 0)
		spend(time.Hour, false)
		spend(maxBusy-1, true)
		want("after a long rest", 0)
	})
}

// TestPaceBarrier has a barrier follow a message unless one is there, or messages are seldom.
func TestPaceBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		for i, tt := range []struct {
			after time.Duration
			asked bool
			want  bool
		}{
			{0, false, false},
			{seldom, false, false},
			{seldom - 1, false, true},
			{0, true, false},
			{0, false, true},
		} {
			time.Sleep(tt.after)
			p.asked = tt.asked
			if got := p.sent(time.Now()); got != tt.want {
				t.Errorf("message %d: a barrier follows: %t; want %t", i, got, tt.want)
			}
		}
	})
}

// TestStoreBarrier stores two nodes. After the second, systemd is asked when it has dealt with
// both.
func TestStoreBarrier(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	m.receive()
	for _, name := range []string{"a", "b"} {
		_, n := s.register(name)
		s.keep(n, nil)
		m.wantStored(n)
	}
	text, files := m.receiveAny()
	if text != "BARRIER=1" || len(files) != 1 {
		t.Fatalf("got %q with %d descriptors; want a barrier", text, len(files))
	}
	asked := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pace.asked
	}
	if !asked() {
		t.Error("nobody waits for the barrier")
	}
	files[0].Close()
	wait.True(t, "the barrier is noticed", func() bool { return !asked() })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace = pace{at: time.Now().Add(-time.Hour)} // nothing was sent for an hour
	if s.measure(); s.pace.busy > 0 {
		t.Errorf("systemd counts as busy for %v", s.pace.busy)
	}
}

// TestStorePaced has nodes wait while systemd is to have time for others. They come in one message.
// A node that has gone meanwhile does not, and no node waits for too long.
func TestStorePaced(t *testing.T) {
	m := startManager(t)
	s := openStore(t, Inherited{})
	s.run()
	m.receive()
	tire := func(busy time.Duration) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pace = pace{busy: busy, at: time.Now(), asked: busy > 0}
		s.wake()
	}
	tire(maxBusy + maxRest/restShare)
	var nodes []*registry.Node
	var kept sync.WaitGroup
	for i := range 3 {
		_, n := s.register(fmt.Sprint("n", i))
		nodes = append(nodes, n)
		kept.Add(1)
		if s.keep(n, kept.Done) {
			t.Errorf("%s is kept at once", n.Name)
		}
	}
	r, gone := s.register("gone")
	s.keep(gone, never(t, "kept of a node that had gone"))
	s.reg.Unregister(r)
	s.Release(gone)
	m.wantNothing()
	tire(0)
	m.wantStored(nodes...)
	kept.Wait()

	tire(maxBusy + maxRest/restShare)
	s.mu.Lock()
	s.patience = time.Millisecond
	s.mu.Unlock()
	_, late := s.register("late")
	answered := make(chan struct{})
	if s.keep(late, func() { close(answered) }) {
		t.Error("late is kept at once")
	}
	<-answered
	m.wantStored(late)
}
