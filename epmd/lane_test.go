package epmd

import (
	"context"
	"io"
	"maps"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

// TestLane has users take turns, and each keep its order.
func TestLane(t *testing.T) {
	var l lane
	var done []string
	begun := 0
	for _, job := range strings.Fields("a1 a2 a3 b1 c1 b2") {
		l.add(job[:1], func() { done = append(done, job) }, func() { begun++ })
	}
	l.work(t.Context())
	l.add("a", func() { done = append(done, "a4") }, func() { begun++ })
	l.work(t.Context())
	if got, want := strings.Join(done, " "), "a1 b1 c1 a2 b2 a3 a4"; got != want || begun != 2 {
		t.Errorf("done %s, after %d beginnings; want %s after 2", got, begun, want)
	}
	if l.busy || len(l.jobs)+len(l.order) > 0 {
		t.Errorf("left are %v", l.order)
	}
}

// TestLaneEnds has more to do than the budget has when the server ends. It is done without a rest.
func TestLaneEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := lane{spent: budget{-time.Hour, time.Now()}}
	jobs := 0
	for range 10 {
		l.add("a", func() { jobs++ }, func() {})
	}
	l.work(ctx)
	if jobs != 10 {
		t.Errorf("%d of 10 are done", jobs)
	}
}

// TestBudget spends a burst at once. After that, as much is left for others as laneShare says.
func TestBudget(t *testing.T) {
	b := budget{}
	at := time.Unix(1e9, 0)
	spend := func(d time.Duration) (rest time.Duration) {
		began := at
		at = at.Add(d)
		rest = b.spend(began, at)
		return rest
	}
	const piece = 100 * time.Microsecond
	var worked, rested time.Duration
	for ; worked < laneBurst; worked += piece {
		if rest := spend(piece); rest > 0 {
			t.Fatalf("rests after %v; want that after %v", worked, laneBurst)
		}
	}
	worked = 0
	for worked < time.Second {
		rest := spend(piece)
		at = at.Add(rest)
		worked += piece
		rested += rest
	}
	each := laneShare / time.Duration(min(laneShare, runtime.GOMAXPROCS(0)))
	if want := (each - 1) * time.Second; (rested - want).Abs() > 200*time.Millisecond*each {
		t.Errorf("rested %v in %v of work; want about %v", rested, worked, want)
	}
	spend(time.Minute) // of which others had most
	if b.left < -2*laneMost {
		t.Errorf("%v are left after a job that was kept from the processors", b.left)
	}
	at = at.Add(time.Hour)
	if rest := spend(0); rest > 0 || b.left != laneBurst {
		t.Errorf("after an hour it rests %v, and %v are left", rest, b.left)
	}
}

// waitingInLane returns how many jobs of each user wait.
func (e *engine) waitingInLane() map[any]int {
	e.lane.mu.Lock()
	defer e.lane.mu.Unlock()
	count := make(map[any]int)
	for of, jobs := range e.lane.jobs {
		count[of] = len(jobs)
	}
	return count
}

// TestLaneUsers has one user ask for long answers of each kind over many connections, and another
// over one. They wait by user. A lookup waits for none of them.
func TestLaneUsers(t *testing.T) {
	checkLeaks(t)
	var user oneUser
	s := serve(t, Config{UserOf: user.of})
	s.addNodes(2000, strings.Repeat("x", 100))
	for _, req := range []Request{DumpReq{}, NamesReq{}} { // which are made once
		p := dial(t, s.addr)
		p.ask(req)
		p.all()
	}
	goOn := make(chan struct{})
	s.engine.inLane("test", func() { <-goOn })
	var peers []*peer
	ask := func(uid uint32, req Request) {
		user.Store(uid)
		p := dial(t, s.addr)
		p.ask(req)
		peers = append(peers, p)
		wait.True(t, "it waits", func() bool {
			sum := 0
			for _, n := range s.engine.waitingInLane() {
				sum += n
			}
			return sum == len(peers)
		})
	}
	for range 10 {
		ask(1000, DumpReq{})
		ask(1000, NamesReq{})
		ask(1000, NodesReq{})
		ask(1000, WatchReq{})
	}
	ask(1001, NamesReq{})
	if got, want := s.engine.waitingInLane(), (map[any]int{uint32(1000): 40, uint32(1001): 1}); !maps.Equal(got, want) {
		t.Errorf("there wait %v; want %v", got, want)
	}
	s.stillAnswers()
	close(goOn)
	var reading sync.WaitGroup // all at once: who does not read for 10 s is cut off
	for i, p := range peers {
		if i < 40 && i%4 == 3 {
			p.reset() // which would follow
			continue
		}
		reading.Go(func() {
			if got, err := io.ReadAll(p); err != nil || len(got) < 2000*100 {
				t.Errorf("answer %d has %d bytes: %v", i, len(got), err)
			}
		})
	}
	reading.Wait()
}

// TestRefusedLater has streams refused. That takes a while each time, so nobody asks again at once.
func TestRefusedLater(t *testing.T) {
	checkLeaks(t)
	var user oneUser
	s := serve(t, Config{UserOf: user.of})
	for range maxStreams / 2 {
		dial(t, s.addr).ask(WatchReq{})
	}
	wait.True(t, "all that he may have are there", func() bool { return s.streaming() == maxStreams/2 })
	began := time.Now()
	p := dial(t, s.addr)
	p.ask(WatchReq{})
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	refused := make(chan time.Duration, 1)
	go func() {
		if got, err := io.ReadAll(p); err != nil || len(got) > 0 {
			t.Errorf("got %x, %v; want the end", got, err)
		}
		refused <- time.Since(began)
	}()
	gone := dial(t, s.addr)
	gone.ask(WatchReq{})
	wait.True(t, "both wait", func() bool { return s.state().waiting == 2 || time.Since(began) > refusalPause })
	gone.reset()
	if took := <-refused; took < refusalPause {
		t.Errorf("refused after %v", took)
	}
	wait.True(t, "nobody waits", func() bool { return s.state().waiting == 0 })
}
