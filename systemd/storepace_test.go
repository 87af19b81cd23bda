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

// TestPace keeps systemd busy. After a while the next message waits until systemd has dealt with
// all, and has had some time for others. It has more where nodes also go.
func TestPace(t *testing.T) {
	for r, ended := range map[rhythm]int{calm: churnAt - 1, churn: churnAt} {
		synctest.Test(t, func(t *testing.T) { testPace(t, r, ended) })
	}
}

func testPace(t *testing.T, r rhythm, ended int) {
	p := pace{forks: true}
	want := func(what string, want time.Duration) {
		t.Helper()
		if got := p.wait(time.Now(), ended); got != want {
			t.Errorf("%d ended, %s: the next message waits %v; want %v", ended, what, got, want)
		}
	}
	spend := func(d time.Duration, busy bool) {
		p.count(time.Now())
		p.asked = busy
		time.Sleep(d)
	}
	want("at first", 0)
	spend(r.busy-1, true)
	want("just not too long", 0)
	spend(1, true)
	want("busy for too long", r.rest)
	spend(300*time.Millisecond, true)
	spend(0, false)
	want("and done", r.share*(300*time.Millisecond+1))
	spend(r.share*(300*time.Millisecond+1), false)
	want("after a rest", 0)
	spend(time.Hour, true)
	spend(0, false)
	want("after an hour", r.rest)
	spend(r.rest+r.share, false)
	want("and a long rest", 0)
	spend(time.Hour, false)
	spend(r.busy-1, true)
	want("after a longer rest", 0)
}

// TestPaceChurn has nodes begin to go, and end to, while systemd is busy.
func TestPaceChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{busy: calm.busy - 1, at: time.Now(), forks: true}
		for _, tt := range []struct {
			after time.Duration
			ended int
			want  time.Duration
		}{
			{0, 0, 0},
			{0, churnAt, churn.rest},
			// The rest is not over.
			{churn.rest - 3*time.Millisecond, 0, churn.share + 3*time.Millisecond},
			{churn.rest, 0, 0},
			{churn.busy * churn.share, 0, 0},
		} {
			time.Sleep(tt.after)
			if got := p.wait(time.Now(), tt.ended); got != tt.want {
				t.Errorf("%v later, with %d ended: waits %v; want %v", tt.after, tt.ended, got, tt.want)
			}
		}
		if p.churns {
			t.Error("nobody goes any more, and all the rest is over")
		}
		older := pace{busy: churn.busy, at: time.Now()}
		if wait := older.wait(time.Now(), churnAt); wait != 0 {
			t.Errorf("before release 254: waits %v", wait)
		}
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
	for i, name := range []string{"a", "b"} {
		_, n := s.register(name)
		if i > 0 {
			s.mu.Lock()
			s.pace.message = time.Now() // just now, however slow the machine
			s.mu.Unlock()
		}
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
		s.pace = pace{busy: busy, at: time.Now(), asked: busy > 0, churns: busy > 0}
		s.wake()
	}
	tire(churn.most()) // to rest for 3 s
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

	tire(churn.most())
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

// TestPaceFollows has a process follow another, which had systemd busy.
func TestPaceFollows(t *testing.T) {
	startManager(t)
	const busy = 5 * time.Second
	s := openStore(t, Inherited{})
	s.mu.Lock()
	s.pace = pace{busy: busy, at: time.Now()}
	s.recordPace()
	p, err := readState(s.state.file)
	s.mu.Unlock()
	wait.Must(t, err)
	s = openStore(t, Inherited{pace: p.pace})
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err = readState(s.state.file)
	wait.Must(t, err)
	for _, got := range []pace{s.pace, p.pace} {
		if got.busy > busy || got.busy < busy/2 {
			t.Errorf("the next process begins with %v; want %v, less what has passed", got.busy, busy)
		}
	}
}
