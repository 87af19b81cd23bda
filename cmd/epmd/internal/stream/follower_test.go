package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

var addrA = netip.MustParseAddrPort("192.0.2.1:4369")

// world has one Follower, of hosta at addrA, whose epmd the test plays. It is the Owner.
type world struct {
	*testing.T
	net      streamtest.Network
	reg      *registry.Registry
	start    time.Time
	follower *Follower

	mu       sync.Mutex
	facts    Facts
	verdict  Verdict
	streamed bool
	asked    bool // by NAMES_REQ
	why      error
	released bool
	moved    int // how often it may have had other addresses
}

// inBubble runs a test with a Follower.
func inBubble(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, reg: registry.New("us.local", registry.OldNames), start: time.Now(), streamed: true}
		log := slog.New(slog.DiscardHandler)
		o := &Options{
			Watch: w.watch, Hello: func() epmd.PeerHello { return epmd.PeerHello{} },
			KeepAlive: func() epmd.KeepAlive { return epmd.KeepAlive{} },
			Nodes:     told.NewAll(w.reg, log), Slots: NewSlots(1), Say: throttle.New(), Once: throttle.NewMinute(1), Log: log,
		}
		w.follower = New(o, w)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		w.facts = Facts{Addrs: []netip.AddrPort{addrA}, Sourced: true}
		running.Go(func() { w.follower.Run(ctx) })
		test(w)
		cancel()
		running.Wait()
		if n := len(o.Slots.Now) + len(o.Slots.First) + len(o.Slots.Again); n != 0 || len(w.net.Streams()) != 0 {
			t.Errorf("left: %d slots, %d streams", n, len(w.net.Streams()))
		}
	})
}

func (w *world) watch(ctx context.Context, addrs []netip.AddrPort, _ epmd.PeerHello, _ epmd.KeepAlive) (Stream, error) {
	s, err := w.net.Connect(ctx, addrs)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (w *world) Facts() Facts {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.facts
	w.facts.Kick, w.facts.Evicted = KickNot, false
	return f
}

func (w *world) Tries(addrs []netip.AddrPort) []netip.AddrPort { return addrs }

func (w *world) Settle(told.Who, Stream) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict
}

func (w *world) Moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved++
}

func (w *world) Lost()   {}
func (w *world) Forget() {}

func (w *world) SetStreamed(is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streamed = is
}

func (w *world) isStreamed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.streamed
}

func (w *world) AskNames(is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = is
}

func (w *world) Explain(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = why
}

// explained checks why there is no stream. nil: there is.
func (w *world) explained(want error) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !errors.Is(w.why, want) {
		w.Errorf("after %v: no stream because of %v, want %v", time.Since(w.start), w.why, want)
	}
}

func (w *world) Release() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released = !w.facts.Sourced
	return w.released
}

// found has it announced, or announced anew.
func (w *world) found() { w.learn(func(f *Facts) { f.Sourced, f.Kick = true, KickSoon }) }

// gone has it announced no longer.
func (w *world) gone() { w.learn(func(f *Facts) { f.Sourced = false }) }

func (w *world) learn(change func(*Facts)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.facts)
	w.follower.Wake()
}

// after lets time pass, then checks what is known.
func (w *world) after(d time.Duration, want string) {
	w.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := streamtest.Neighbours(w.reg); got != want {
		w.Errorf("after %v: got %q, want %q", time.Since(w.start), got, want)
	}
}

// begin has a stream with nodes a and b.
func (w *world) begin() *streamtest.Stream {
	w.Helper()
	s := w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "+b", "="))
	w.found()
	w.after(Jitter, bothUp)
	if !w.isStreamed() {
		w.Error("no stream")
	}
	return s
}

const (
	bothUp   = "a@hosta.local yes, b@hosta.local yes"
	bothDown = "a@hosta.local no, b@hosta.local no"
)

// TestLoss holds what becomes of a peer's nodes, as the design has it.
func TestLoss(t *testing.T) {
	tests := []struct {
		name string
		do   func(w *world, s *streamtest.Stream)
	}{
		{"says -", func(w *world, s *streamtest.Stream) {
			s.Say("-a")
			w.after(0, "b@hosta.local yes")
		}},
		{"ends in order", func(w *world, s *streamtest.Stream) {
			s.Say("-a", "-b")
			s.Fail(io.EOF)
			w.after(0, "")
			w.after(time.Hour, "")
		}},
		{"closes", func(w *world, s *streamtest.Stream) {
			s.Fail(io.EOF)
			w.after(Grace-1, bothUp)
			w.after(1, bothDown)
			w.after(Forgets-1, bothDown)
			if !w.isStreamed() {
				w.Error("instances are resolved in place of nodes that are kept")
			}
			w.explained(nil)
			w.after(1, "")
			w.explained(syscall.ECONNREFUSED)
			if w.isStreamed() {
				w.Error("still counts as a stream")
			}
		}},
		{"resets", func(w *world, s *streamtest.Stream) {
			s.Fail(syscall.ECONNRESET)
			w.after(Grace-1, bothUp)
			w.after(1, bothDown)
		}},
		{"closes and comes back", func(w *world, s *streamtest.Stream) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "+b", "="))
			s.Fail(io.EOF)
			w.after(Grace-1, bothUp)
			w.after(time.Hour, bothUp)
		}},
		{"is back after 5 s with fewer nodes", func(w *world, s *streamtest.Stream) {
			s.Fail(io.EOF)
			w.after(Grace, bothDown)
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.after(FastRetry, "a@hosta.local yes")
		}},
		{"is silent", func(w *world, s *streamtest.Stream) {
			s.Fail(syscall.ETIMEDOUT)
			w.after(Recheck-1, bothUp)
			w.after(1, bothDown)
			w.after(Forgets-1, bothDown)
			w.after(1, "")
		}},
		{"is out of reach", func(w *world, s *streamtest.Stream) {
			s.Fail(syscall.EHOSTUNREACH)
			w.after(Recheck-1, bothUp)
			w.after(1, bothDown)
		}},
		{"was silent, as packets got lost", func(w *world, s *streamtest.Stream) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "+b", "="))
			s.Fail(syscall.ETIMEDOUT)
			w.after(0, bothUp)
			w.after(Recheck, bothUp)
			w.after(time.Hour, bothUp)
		}},
		{"has a new id and fewer nodes", func(w *world, s *streamtest.Stream) {
			s2 := w.net.Offer(addrA, streamtest.New("hosta.local", 2, "+a", "="))
			s.Fail(io.EOF)
			w.after(firstRetry*5/4, bothUp)
			w.after(Grace, "a@hosta.local yes")
			s2.Say("+b")
			w.after(0, bothUp)
		}},
		{"has a new id, and nodes register again", func(w *world, s *streamtest.Stream) {
			s2 := w.net.Offer(addrA, streamtest.New("hosta.local", 2, "="))
			s.Fail(io.EOF)
			w.after(2*time.Second, bothUp)
			s2.Say("+a", "+b")
			w.after(time.Minute, bothUp)
		}},
		{"has the same id and fewer nodes", func(w *world, s *streamtest.Stream) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+b", "="))
			s.Fail(io.EOF)
			w.after(firstRetry*5/4, "b@hosta.local yes")
		}},
		{"its announcement ends, with the stream up", func(w *world, s *streamtest.Stream) {
			w.gone()
			w.after(time.Hour, bothUp)
			s.Fail(io.EOF)
			w.after(Grace-1, bothUp)
			w.after(1, "")
		}},
		{"its announcement ends, with the stream down", func(w *world, s *streamtest.Stream) {
			s.Fail(io.EOF)
			w.after(time.Minute, bothDown)
			w.gone()
			w.after(0, "")
		}},
		{"stops in the middle of its nodes", func(w *world, s *streamtest.Stream) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a"))
			s.Fail(io.EOF)
			w.after(Grace-1, bothUp)
			w.after(1, bothDown)
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.after(snapshotIn+FastRetry, "a@hosta.local yes")
		}},
		{"is now an epmd that closes", func(w *world, s *streamtest.Stream) {
			w.net.Fail(addrA, epmd.ErrNoAnswer)
			s.Fail(io.EOF)
			w.after(Grace-1, bothUp)
			w.after(1, "")
			if w.isStreamed() {
				w.Error("counts as a stream")
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(w *world) {
				s := w.begin()
				w.after(time.Minute, bothUp)
				tt.do(w, s)
			})
		})
	}
}

// TestMoved has an epmd fall silent, and come back at another address. Then its host may have other
// addresses than are known. After a restart it has not. A node that listens where the host has no
// known address has it looked up too.
func TestMoved(t *testing.T) {
	inBubble(t, func(w *world) {
		moved := func(want int) {
			t.Helper()
			w.after(time.Minute, bothUp)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.moved != want {
				t.Errorf("%d times; want %d", w.moved, want)
			}
		}
		s := w.begin()
		moved(0)
		again := func(at netip.AddrPort, why error) {
			next := w.net.Offer(at, streamtest.New("hosta.local", 1, "+a", "+b", "="))
			s.Fail(why)
			s = next
		}
		again(addrA, io.EOF)
		moved(0)
		again(addrA, syscall.ETIMEDOUT)
		moved(1)
		other := netip.MustParseAddrPort("192.0.2.2:4369")
		w.learn(func(f *Facts) { f.Addrs = []netip.AddrPort{other} })
		again(other, io.EOF)
		moved(2)
		again(other, io.EOF)
		moved(2)
		s.Line("+ node=c@hosta.local name=c host=hosta.local port=41233 type=normal ip=6")
		moved(2 + 3) // at once, after 10 s, and after 20 s more
	})
}

// TestRetry holds when a peer is tried again.
func TestRetry(t *testing.T) {
	inBubble(t, func(w *world) {
		s := w.begin()
		w.after(time.Minute, bothUp)
		s.Fail(io.EOF)
		synctest.Wait()
		lost := time.Now()
		w.after(Forgets+Grace, "")
		tries := w.net.Since(lost)[1:]
		if tries[0] < firstRetry*3/4 || tries[0] > firstRetry*5/4 {
			t.Errorf("first retry after %v", tries[0])
		}
		slow := 0
		for i, at := range tries[1:] {
			gap := at - tries[i]
			switch {
			case tries[i] < fastFor-FastRetry && gap > FastRetry, gap > slowRetry:
				t.Errorf("try after %v, and then after %v", tries[i], at)
			case gap > slowRetry/2:
				slow++
			}
		}
		if slow < 10 || len(tries) > 80 {
			t.Errorf("%d tries in 10 minutes, %d of them slow", len(tries), slow)
		}
		// A link that changes, an announcement and a question each have it tried at once.
		w.found()
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.after(Jitter, "a@hosta.local yes")
	})
}

// TestCloses leaves an epmd alone for an hour that closes on W.
func TestCloses(t *testing.T) {
	inBubble(t, func(w *world) {
		w.net.Fail(addrA, epmd.ErrNoAnswer)
		w.found()
		if !w.isStreamed() {
			t.Error("resolved at once")
		}
		w.after(Jitter+4*firstRetry, "")
		if w.isStreamed() {
			t.Error("not resolved")
		}
		w.explained(errCloses)
		if !w.asked {
			t.Error("its names are not asked for")
		}
		n := len(w.net.Since(w.start))
		w.after(59*time.Minute, "")
		if got := len(w.net.Since(w.start)); got != n {
			t.Errorf("tried %d times", got-n)
		}
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.after(2*time.Minute, "a@hosta.local yes")
		w.explained(nil)
		if w.asked {
			t.Error("its names are asked for")
		}
	})
}

// TestExplain says why there is no stream, as it is now.
func TestExplain(t *testing.T) {
	inBubble(t, func(w *world) {
		w.net.Fail(addrA, syscall.EHOSTUNREACH)
		w.found()
		w.after(Patience-1, "")
		w.explained(nil)
		w.after(1, "")
		w.explained(syscall.EHOSTUNREACH)
		w.net.Fail(addrA, syscall.ECONNREFUSED)
		w.after(FastRetry, "")
		w.explained(syscall.ECONNREFUSED)
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.after(FastRetry, "a@hosta.local yes")
		w.explained(nil)
		w.mu.Lock()
		w.verdict = Impostor
		w.mu.Unlock()
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "="))
		w.learn(func(f *Facts) { f.Evicted = true })
		w.after(Grace, "")
		w.explained(Impostor)
		w.mu.Lock()
		w.verdict = Twin
		w.mu.Unlock()
		w.found()
		w.after(Jitter, "")
		w.explained(nil)
	})
}

// TestComplainOnce has two Followers of one host: its addresses were not known to be of one.
func TestComplainOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		var log bytes.Buffer
		addr := addrA.Addr()
		o := *w.follower.Options
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		complain := func(host string, err error) {
			f := New(&o, w)
			addr = addr.Next()
			f.now, f.lastErr = Facts{Host: host, Addrs: []netip.AddrPort{netip.AddrPortFrom(addr, 4369)}}, err
			f.complain()
		}
		complain("a.local", errCloses)
		complain("a.local", errCloses)
		complain("a.local", io.EOF) // another reason
		complain("b.local", errCloses)
		complain("", errCloses) // nobody knows whose it is
		complain("", errCloses)
		if n := strings.Count(log.String(), "\n"); n != 5 {
			t.Errorf("%d entries, want 5:\n%s", n, &log)
		}
	})
}
