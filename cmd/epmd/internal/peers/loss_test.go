package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/epmd"
)

// network is what peers find at addresses, while time is faked.
type network struct {
	mu    sync.Mutex
	tries []time.Time // when each connection was tried
	at    map[netip.AddrPort]func(context.Context) (*fakeStream, error)
	open  map[*fakeStream]bool
	alive epmd.KeepAlive // asked for last
}

// watch is a WatchFunc.
func (n *network) watch(ctx context.Context, addrs []netip.AddrPort, _ epmd.PeerHello, alive epmd.KeepAlive) (Stream, error) {
	n.mu.Lock()
	n.tries = append(n.tries, time.Now())
	n.alive = alive
	n.mu.Unlock()
	var errs []error
	for _, a := range addrs {
		n.mu.Lock()
		f := n.at[a]
		n.mu.Unlock()
		if f == nil {
			errs = append(errs, syscall.ECONNREFUSED)
			continue
		}
		s, err := f(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.who.Addr = a
		n.mu.Lock()
		n.open[s] = true
		n.mu.Unlock()
		return s, nil
	}
	return nil, errors.Join(errs...)
}

// since returns when connections were tried, counted from a time.
func (n *network) since(start time.Time) []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []time.Duration
	for _, t := range n.tries {
		list = append(list, t.Sub(start))
	}
	return list
}

// streams returns how many streams are open.
func (n *network) streams() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for s := range n.open {
		if !s.isClosed() {
			count++
		}
	}
	return count
}

// fakeStream is a Stream that says what the test wants.
type fakeStream struct {
	who    Who
	lines  chan fakeLine
	closed chan struct{}
	once   sync.Once
}

type fakeLine struct {
	line string
	err  error
}

func newStream(host string, id byte, lines ...string) *fakeStream {
	s := &fakeStream{
		who:    Who{Hello: epmd.PeerHello{Version: "1.2", ID: epmd.PeerID{1, 15: id}, Host: host, Port: 4369}},
		lines:  make(chan fakeLine, 1<<13),
		closed: make(chan struct{}),
	}
	s.who.Local = netip.MustParseAddr("192.0.2.2")
	s.say(lines...)
	return s
}

// say has it say what stands for a line: "+a", "-a", "=".
func (s *fakeStream) say(words ...string) {
	for _, w := range words {
		line := "="
		if w != "=" {
			host := s.who.Hello.Host
			line = fmt.Sprintf("%c node=%s@%s name=%s host=%s port=41233 type=normal ip=4", w[0], w[1:], host, w[1:], host)
		}
		s.lines <- fakeLine{line: line}
	}
}

// fail has it end with an error.
func (s *fakeStream) fail(err error) { s.lines <- fakeLine{err: err} }

func (s *fakeStream) Next() (epmd.Line, error) {
	select {
	case l := <-s.lines:
		if l.err != nil {
			return epmd.Line{}, l.err
		}
		return epmd.ParseLine(l.line)
	case <-s.closed:
		return epmd.Line{}, os.ErrClosed
	}
}

func (s *fakeStream) Who() Who                          { return s.who }
func (s *fakeStream) SetKeepAlive(epmd.KeepAlive) error { return nil }
func (s *fakeStream) Close() error                      { s.once.Do(func() { close(s.closed) }); return nil }

func (s *fakeStream) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

var addrA = netip.MustParseAddrPort("192.0.2.1:4369")

// world is one peer, hosta at addrA, whose epmd the test plays.
type world struct {
	*testing.T
	net   *network
	ps    *Peers
	start time.Time
}

// inBubble runs a test with peers of which one is announced.
func inBubble(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, net: &network{at: make(map[netip.AddrPort]func(context.Context) (*fakeStream, error)), open: make(map[*fakeStream]bool)}}
		w.ps = newPeers(t, func(o *Options) {
			o.Watch = w.net.watch
			o.AskBack = true
			o.Link = func(_, other netip.Addr) (string, bool) { return "eth0", !other.IsLoopback() }
		})
		w.start = time.Now()
		run(t, w.ps)
		test(w)
	})
}

// offer has the epmd at addrA give that stream from now on.
func (w *world) offer(at netip.AddrPort, s *fakeStream) *fakeStream {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	given := false
	w.net.at[at] = func(context.Context) (*fakeStream, error) {
		if given {
			return nil, syscall.ECONNREFUSED
		}
		given = true
		return s, nil
	}
	return s
}

// fail has tries at an address fail.
func (w *world) fail(at netip.AddrPort, err error) {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	w.net.at[at] = func(context.Context) (*fakeStream, error) { return nil, err }
}

// hang has tries at an address last.
func (w *world) hang(at netip.AddrPort) {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	w.net.at[at] = func(ctx context.Context) (*fakeStream, error) { <-ctx.Done(); return nil, ctx.Err() }
}

func place(host string, i int32) avahi.Place { return avahi.Place{Interface: i, Label: host} }

func (w *world) found(host string, addrs ...netip.AddrPort) {
	w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: addrs, Announces: true})
}

// after lets time pass, then checks what is known.
func (w *world) after(d time.Duration, want string) {
	w.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got := show(w.ps.Registry); got != want {
		w.Errorf("after %v: got %q, want %q", time.Since(w.start), got, want)
	}
}

// begin has a stream with nodes a and b.
func (w *world) begin() *fakeStream {
	w.Helper()
	s := w.offer(addrA, newStream("hosta.local", 1, "+a", "+b", "="))
	w.found("hosta.local", addrA)
	w.after(jitter, bothUp)
	if !w.ps.Streamed("hosta") {
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
		do   func(w *world, s *fakeStream)
	}{
		{"says -", func(w *world, s *fakeStream) {
			s.say("-a")
			w.after(0, "b@hosta.local yes")
		}},
		{"ends in order", func(w *world, s *fakeStream) {
			s.say("-a", "-b")
			s.fail(io.EOF)
			w.after(0, "")
			w.after(time.Hour, "")
		}},
		{"closes", func(w *world, s *fakeStream) {
			s.fail(io.EOF)
			w.after(grace-1, bothUp)
			w.after(1, bothDown)
			w.after(forgets-1, bothDown)
			if !w.ps.Streamed("hosta") {
				w.Error("instances are resolved in place of nodes that are kept")
			}
			w.after(1, "")
			if w.ps.Streamed("hosta") {
				w.Error("still counts as a stream")
			}
		}},
		{"resets", func(w *world, s *fakeStream) {
			s.fail(syscall.ECONNRESET)
			w.after(grace-1, bothUp)
			w.after(1, bothDown)
		}},
		{"closes and comes back", func(w *world, s *fakeStream) {
			w.offer(addrA, newStream("hosta.local", 1, "+a", "+b", "="))
			s.fail(io.EOF)
			w.after(grace-1, bothUp)
			w.after(time.Hour, bothUp)
		}},
		{"is back after 5 s with fewer nodes", func(w *world, s *fakeStream) {
			s.fail(io.EOF)
			w.after(grace, bothDown)
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.after(fastRetry, "a@hosta.local yes")
		}},
		{"is silent", func(w *world, s *fakeStream) {
			s.fail(syscall.ETIMEDOUT)
			w.after(0, bothDown)
			w.after(forgets-1, bothDown)
			w.after(1, "")
		}},
		{"is out of reach", func(w *world, s *fakeStream) {
			s.fail(syscall.EHOSTUNREACH)
			w.after(0, bothDown)
		}},
		{"has a new id and fewer nodes", func(w *world, s *fakeStream) {
			s2 := w.offer(addrA, newStream("hosta.local", 2, "+a", "="))
			s.fail(io.EOF)
			w.after(firstRetry*5/4, bothUp)
			w.after(grace, "a@hosta.local yes")
			s2.say("+b")
			w.after(0, bothUp)
		}},
		{"has a new id, and nodes register again", func(w *world, s *fakeStream) {
			s2 := w.offer(addrA, newStream("hosta.local", 2, "="))
			s.fail(io.EOF)
			w.after(2*time.Second, bothUp)
			s2.say("+a", "+b")
			w.after(time.Minute, bothUp)
		}},
		{"has the same id and fewer nodes", func(w *world, s *fakeStream) {
			w.offer(addrA, newStream("hosta.local", 1, "+b", "="))
			s.fail(io.EOF)
			w.after(firstRetry*5/4, "b@hosta.local yes")
		}},
		{"its announcement ends, with the stream up", func(w *world, s *fakeStream) {
			w.ps.Gone(place("hosta.local", 1))
			w.after(time.Hour, bothUp)
			s.fail(io.EOF)
			w.after(grace-1, bothUp)
			w.after(1, "")
		}},
		{"its announcement ends, with the stream down", func(w *world, s *fakeStream) {
			s.fail(io.EOF)
			w.after(time.Minute, bothDown)
			w.ps.Gone(place("hosta.local", 1))
			w.after(0, "")
		}},
		{"stops in the middle of its nodes", func(w *world, s *fakeStream) {
			w.offer(addrA, newStream("hosta.local", 1, "+a"))
			s.fail(io.EOF)
			w.after(grace-1, bothUp)
			w.after(1, bothDown)
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.after(snapshotIn+fastRetry, "a@hosta.local yes")
		}},
		{"is now an epmd that closes", func(w *world, s *fakeStream) {
			w.fail(addrA, epmd.ErrNoAnswer)
			s.fail(io.EOF)
			w.after(grace-1, bothUp)
			w.after(1, "")
			if w.ps.Streamed("hosta") {
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

// TestRetry holds when a peer is tried again.
func TestRetry(t *testing.T) {
	inBubble(t, func(w *world) {
		s := w.begin()
		w.after(time.Minute, bothUp)
		s.fail(io.EOF)
		synctest.Wait()
		lost := time.Now()
		w.after(forgets+grace, "")
		tries := w.net.since(lost)[1:]
		if tries[0] < firstRetry*3/4 || tries[0] > firstRetry*5/4 {
			t.Errorf("first retry after %v", tries[0])
		}
		slow := 0
		for i, at := range tries[1:] {
			gap := at - tries[i]
			switch {
			case tries[i] < fastFor-fastRetry && gap > fastRetry, gap > slowRetry:
				t.Errorf("try after %v, and then after %v", tries[i], at)
			case gap > slowRetry/2:
				slow++
			}
		}
		if slow < 10 || len(tries) > 80 {
			t.Errorf("%d tries in 10 minutes, %d of them slow", len(tries), slow)
		}
		// A link that changes, an announcement and a question each have it tried at once.
		w.found("hosta.local", addrA)
		w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
		w.after(jitter, "a@hosta.local yes")
	})
}

// TestKicks has a peer tried at once, that would be tried much later.
func TestKicks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kick   func(w *world)
		within time.Duration
	}{
		{"link", func(w *world) { w.ps.LinksChanged() }, jitter},
		{"announced anew", func(w *world) { w.found("hosta.local", addrA) }, jitter},
		{"asks us", func(w *world) { w.ask("hosta.local", 1, addrA) }, 0},
	} {
		for _, closes := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, closes), func(t *testing.T) {
				inBubble(t, func(w *world) {
					w.hang(addrA)
					if closes {
						w.fail(addrA, epmd.ErrNoAnswer)
					}
					w.found("hosta.local", addrA)
					w.after(5*time.Minute, "")
					w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
					w.kick(tt.kick, tt.within)
				})
			})
		}
	}
}

func (w *world) kick(kick func(*world), within time.Duration) {
	kick(w)
	w.after(within, "a@hosta.local yes")
}

// ask has an epmd ask us.
func (w *world) ask(host string, id byte, from netip.AddrPort) {
	w.ps.Asked(epmd.PeerAsk{
		Hello: epmd.PeerHello{Version: "1.2", ID: epmd.PeerID{1, 15: id}, Host: host, Port: from.Port()},
		From:  netip.AddrPortFrom(from.Addr(), 50000), Local: netip.MustParseAddr("192.0.2.2"),
	})
}

// TestCloses leaves an epmd alone for an hour that closes on W.
func TestCloses(t *testing.T) {
	inBubble(t, func(w *world) {
		w.fail(addrA, epmd.ErrNoAnswer)
		w.found("hosta.local", addrA)
		if !w.ps.Streamed("hosta") {
			t.Error("resolved at once")
		}
		w.after(jitter+4*firstRetry, "")
		if w.ps.Streamed("hosta") {
			t.Error("not resolved")
		}
		n := len(w.net.since(w.start))
		w.after(59*time.Minute, "")
		if got := len(w.net.since(w.start)); got != n {
			t.Errorf("tried %d times", got-n)
		}
		w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
		w.after(2*time.Minute, "a@hosta.local yes")
	})
}

// TestStreamed has hosts that give no stream. Their instances are resolved then.
func TestStreamed(t *testing.T) {
	inBubble(t, func(w *world) {
		changes := 0
		w.ps.StreamsChanged = func() { changes++ }
		other := netip.MustParseAddrPort("192.0.2.3:4369")
		w.hang(addrA)
		w.fail(other, syscall.ECONNREFUSED)
		w.found("hosta.local", addrA)
		w.ps.Found(place("hostb.local", 1), avahi.EPMD{Host: "hostb.local", Interface: "eth0", Addrs: []netip.AddrPort{other}, Announces: true})
		if !w.ps.Streamed("hosta") || !w.ps.Streamed("HostB") {
			t.Error("resolved before it is known")
		}
		w.after(jitter, "")
		if !w.ps.Streamed("hosta") || w.ps.Streamed("hostb") {
			t.Error("who refuses gives no stream")
		}
		w.after(patience-jitter, "")
		if w.ps.Streamed("hosta") {
			t.Error("no stream within 2 s")
		}
		w.offer(addrA, newStream("hosta.local", 1, "="))
		w.after(2*fastRetry, "")
		if !w.ps.Streamed("hosta") || changes < 4 {
			t.Errorf("a stream after all: %d changes", changes)
		}
	})
}

// TestJoined has a peer that changes all the time.
func TestJoined(t *testing.T) {
	inBubble(t, func(w *world) {
		s := w.begin()
		w.after(time.Minute, bothUp)
		changes := w.ps.Registry.Subscribe()
		changes.Take()
		for i := range 100 * maxAtOnce {
			s.say([]string{"-a", "+a"}[i%2])
		}
		synctest.Wait()
		if n := len(changes.Take().Events); n != maxAtOnce {
			t.Errorf("%d changes at once", n)
		}
		w.after(joined, bothUp)
		if n := len(changes.Take().Events); n > 2 {
			t.Errorf("%d changes of one node in a second", n)
		}
		s.say("-a", "+c")
		w.after(joined, "b@hosta.local yes, c@hosta.local yes")
		w.after(2*joined, "b@hosta.local yes, c@hosta.local yes")
		s.say("-c") // at once again
		w.after(0, "b@hosta.local yes")
	})
}

// TestWho decides which addresses are one epmd.
func TestWho(t *testing.T) {
	second := netip.MustParseAddrPort("192.0.2.3:4369")
	third := netip.MustParseAddrPort("192.0.2.4:4369")
	t.Run("ourselves", func(t *testing.T) {
		inBubble(t, func(w *world) {
			s := newStream("us.local", 0, "+a", "=")
			s.who.Hello.ID = w.ps.Hello().ID
			w.offer(addrA, s)
			w.found("us.local", addrA)
			w.after(time.Minute, "")
			if w.net.streams() != 0 {
				t.Error("a stream to ourselves")
			}
		})
	})
	t.Run("asked and found at one address", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.ask("hosta.local", 1, addrA)
			w.found("hosta.local", addrA)
			w.ask("hosta.local", 1, addrA)
			w.after(time.Hour, "a@hosta.local yes")
			if n := len(w.net.since(w.start)); n != 1 || w.net.streams() != 1 {
				t.Errorf("%d tries, %d streams", n, w.net.streams())
			}
		})
	})
	t.Run("asked from an address that the records have later", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.found("hosta.local", addrA)
			w.hang(addrA)
			w.offer(second, newStream("hosta.local", 1, "+a", "="))
			w.after(time.Second, "")
			w.ask("hosta.local", 1, second)
			w.after(0, "a@hosta.local yes")
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA, second)
			w.after(time.Hour, "a@hosta.local yes")
			if w.net.streams() != 1 {
				t.Errorf("%d streams", w.net.streams())
			}
		})
	})
	t.Run("both configured", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.offer(second, newStream("hosta.local", 1, "+a", "="))
			w.ps.Configure(addrA, second)
			w.after(time.Minute, "a@hosta.local yes")
			if w.net.streams() != 1 {
				t.Errorf("%d streams", w.net.streams())
			}
		})
	})
	t.Run("one id, two hosts", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.offer(second, newStream("hostb.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.ask("hostb.local", 1, second)
			w.after(time.Minute, "a@hosta.local yes, a@hostb.local yes")
		})
	})
	t.Run("one id and name, from an address that no record has", func(t *testing.T) {
		inBubble(t, func(w *world) {
			s := w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.after(time.Second, "a@hosta.local yes")
			w.offer(second, newStream("hosta.local", 1, "+evil", "="))
			w.offer(third, newStream("hosta.local", 7, "+worse", "="))
			w.ask("hosta.local", 7, third)
			w.ask("hosta.local", 1, second)
			w.after(time.Minute, "a@hosta.local yes")
			if w.net.streams() != 1 {
				t.Errorf("%d streams", w.net.streams())
			}
			s.fail(io.EOF)
			w.after(grace+forgets, "")
		})
	})
	t.Run("who is announced has the name", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.offer(second, newStream("hosta.local", 7, "+evil", "="))
			w.ask("hosta.local", 7, second)
			w.after(time.Second, "evil@hosta.local yes")
			w.offer(addrA, newStream("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.after(jitter+grace, "a@hosta.local yes")
		})
	})
}

// TestFamilies enters a node where it listens.
func TestFamilies(t *testing.T) {
	inBubble(t, func(w *world) {
		s := newStream("hosta.local", 1)
		for _, ip := range []string{"4", "6", "46"} {
			s.lines <- fakeLine{line: fmt.Sprintf("+ node=n%s@hosta.local name=n%s host=hosta.local port=1 type=normal ip=%s", ip, ip, ip)}
		}
		s.say("=")
		w.offer(addrA, s)
		six, local := netip.MustParseAddrPort("[2001:db8::1]:4369"), netip.MustParseAddrPort("[fe80::1%eth0]:4369")
		w.found("hosta.local", addrA, local, netip.MustParseAddrPort("203.0.113.7:4369"), six)
		w.after(jitter, "n46@hosta.local yes, n4@hosta.local yes, n6@hosta.local yes")
		want := map[string]string{"n4": "[192.0.2.1]", "n6": "[2001:db8::1 fe80::1%eth0]", "n46": "[192.0.2.1 2001:db8::1 fe80::1%eth0]"}
		for _, n := range w.ps.Registry.Nodes() {
			if got := fmt.Sprint(n.Addresses); got != want[n.Name] {
				t.Errorf("%s: got %s, want %s", n.Name, got, want[n.Name])
			}
		}
		w.found("hosta.local", addrA)
		w.after(0, "n46@hosta.local yes, n4@hosta.local yes")
	})
}

// TestStorm has 100 hosts found at one time. They are not connected to in lockstep.
func TestStorm(t *testing.T) {
	inBubble(t, func(w *world) {
		for i := range 100 {
			at := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:4369", i+100))
			host := fmt.Sprintf("host%d.local", i)
			w.hang(at)
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at}, Announces: true})
		}
		w.after(2*time.Second, "")
		tries := w.net.since(w.start)
		for i := range tries {
			if i >= maxTries && tries[i]-tries[i-maxTries] < slotTime/2 {
				t.Errorf("%d tries within %v", maxTries+1, tries[i]-tries[i-maxTries])
			}
		}
		if len(tries) < 100 {
			t.Errorf("%d tries in 2 s", len(tries))
		}
	})
}

// TestKeepAlive has more peers, and each probes less often.
func TestKeepAlive(t *testing.T) {
	inBubble(t, func(w *world) {
		for i := range 201 {
			at := netip.MustParseAddrPort(fmt.Sprintf("198.51.%d.%d:4369", i/100, i%100))
			host := fmt.Sprintf("host%d.local", i)
			w.offer(at, newStream(host, byte(i), "="))
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at}, Announces: true})
		}
		w.after(time.Minute, "")
		want := epmd.KeepAlive{Idle: 9 * time.Second, Interval: 3 * time.Second, Timeout: 18 * time.Second}
		w.ps.mu.Lock()
		defer w.ps.mu.Unlock()
		if got := w.ps.keepAlive(); got != want || w.ps.live != 201 {
			t.Errorf("got %+v, want %+v with %d streams", got, want, w.ps.live)
		}
	})
}

// TestLimit has more hosts than there are places for. One gets a place when another goes.
func TestLimit(t *testing.T) {
	inBubble(t, func(w *world) {
		at := func(i int) netip.AddrPort {
			return netip.MustParseAddrPort(fmt.Sprintf("198.51.%d.%d:4369", i/100, i%100))
		}
		for i := range maxFound + 1 {
			host := fmt.Sprintf("host%d.local", i)
			w.offer(at(i), newStream(host, byte(i), "+n", "="))
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at(i)}, Announces: true})
		}
		w.ask("hostx.local", 3, addrA)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(show(w.ps.Registry), "yes"); got != maxFound {
			t.Errorf("%d nodes of %d hosts", got, maxFound)
		}
		w.ps.Gone(place("host0.local", 1))
		w.net.mu.Lock()
		for s := range w.net.open {
			if s.who.Hello.Host == "host0.local" {
				s.fail(io.EOF)
			}
		}
		w.net.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := show(w.ps.Registry); strings.Count(got, "yes") != maxFound || !strings.Contains(got, fmt.Sprintf("host%d.", maxFound)) {
			t.Errorf("the host that had waited has no place")
		}
	})
}
