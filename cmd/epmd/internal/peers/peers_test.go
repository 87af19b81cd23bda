package peers

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/epmd"
)

var addrA = netip.MustParseAddrPort("192.0.2.1:4369")

// world is one peer, hosta at addrA, whose epmd the test plays.
type world struct {
	*testing.T
	net   streamtest.Network
	ps    *Peers
	start time.Time
}

// inBubble runs a test with peers of which one is announced.
func inBubble(t *testing.T, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		w.ps = newPeers(t, func(o *Options) {
			o.Watch = w.watch
			o.AskBack = true
			o.Link = func(_, other netip.Addr) (string, bool) { return "eth0", !other.IsLoopback() }
		})
		w.start = time.Now()
		run(t, w.ps)
		test(w)
	})
}

func (w *world) watch(ctx context.Context, addrs []netip.AddrPort, _ epmd.PeerHello, _ epmd.KeepAlive) (stream.Stream, error) {
	s, err := w.net.Connect(ctx, addrs)
	if err != nil {
		return nil, err
	}
	return s, nil
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
	if got := streamtest.Neighbours(w.ps.Registry); got != want {
		w.Errorf("after %v: got %q, want %q", time.Since(w.start), got, want)
	}
}

// TestKicks has a peer tried at once, that would be tried much later.
func TestKicks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kick   func(w *world)
		within time.Duration
	}{
		{"link", func(w *world) { w.ps.LinksChanged() }, stream.Jitter},
		{"announced anew", func(w *world) { w.found("hosta.local", addrA) }, stream.Jitter},
		{"asks us", func(w *world) { w.ask("hosta.local", 1, addrA) }, 0},
	} {
		for _, closes := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, closes), func(t *testing.T) {
				inBubble(t, func(w *world) {
					w.net.Hang(addrA)
					if closes {
						w.net.Fail(addrA, epmd.ErrNoAnswer)
					}
					w.found("hosta.local", addrA)
					w.after(5*time.Minute, "")
					w.beQuiet()
					w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
					w.kick(tt.kick, tt.within)
				})
			})
		}
	}
}

// beQuiet waits until no try is as young as to be left alone by a kick.
func (w *world) beQuiet() {
	const young = 100 * time.Millisecond
	for tries := w.net.Since(time.Now()); tries[len(tries)-1] > -young; tries = w.net.Since(time.Now()) {
		time.Sleep(young)
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

// TestStreamed has hosts that give no stream. Their instances are resolved then.
func TestStreamed(t *testing.T) {
	inBubble(t, func(w *world) {
		changes := 0
		w.ps.StreamsChanged = func() { changes++ }
		other := netip.MustParseAddrPort("192.0.2.3:4369")
		w.net.Hang(addrA)
		w.net.Fail(other, syscall.ECONNREFUSED)
		w.found("hosta.local", addrA)
		w.ps.Found(place("hostb.local", 1), avahi.EPMD{Host: "hostb.local", Interface: "eth0", Addrs: []netip.AddrPort{other}, Announces: true})
		if !w.ps.Streamed("hosta") || !w.ps.Streamed("HostB") {
			t.Error("resolved before it is known")
		}
		w.after(stream.Jitter, "")
		if !w.ps.Streamed("hosta") || w.ps.Streamed("hostb") {
			t.Error("who refuses gives no stream")
		}
		w.after(stream.Patience-stream.Jitter, "")
		if w.ps.Streamed("hosta") {
			t.Error("no stream within 2 s")
		}
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "="))
		w.after(2*stream.FastRetry, "")
		if !w.ps.Streamed("hosta") || changes < 4 {
			t.Errorf("a stream after all: %d changes", changes)
		}
	})
}

// TestInterfaces asks nobody back over an interface that is not to be used.
func TestInterfaces(t *testing.T) {
	for only, want := range map[string]string{"": "a@hosta.local yes", "eth1,eth0": "a@hosta.local yes", "eth1": ""} {
		t.Run(only, func(t *testing.T) {
			inBubble(t, func(w *world) {
				if only != "" {
					w.ps.Interfaces = strings.Split(only, ",")
				}
				w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
				w.ask("hosta.local", 1, addrA)
				w.after(time.Minute, want)
			})
		})
	}
}

// TestLinkMoved has an interface become a port of a bridge, which gets its address. The stream
// stays the only one.
func TestLinkMoved(t *testing.T) {
	inBubble(t, func(w *world) {
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.found("hosta.local", addrA)
		w.after(time.Minute, "a@hosta.local yes")
		w.ps.Link = func(_, other netip.Addr) (string, bool) { return "br0", !other.IsLoopback() }
		w.ps.LinksChanged()
		w.ps.Gone(place("hosta.local", 1))
		w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
		w.ps.Found(place("hosta.local", 2), avahi.EPMD{Host: "hosta.local", Interface: "br0", Addrs: []netip.AddrPort{addrA}, Announces: true})
		w.after(time.Minute, "a@hosta.local yes")
		if n := len(w.net.Streams()); n != 1 || len(w.net.Since(w.start)) != 1 {
			t.Errorf("%d streams, %d tries", n, len(w.net.Since(w.start)))
		}
	})
}

// TestWho decides which addresses are one epmd.
func TestWho(t *testing.T) {
	second := netip.MustParseAddrPort("192.0.2.3:4369")
	third := netip.MustParseAddrPort("192.0.2.4:4369")
	t.Run("ourselves", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(addrA, streamtest.New("us.local", 0, "+a", "=").WithID(w.ps.Hello().ID))
			w.found("us.local", addrA)
			w.after(time.Minute, "")
			if len(w.net.Streams()) != 0 {
				t.Error("a stream to ourselves")
			}
		})
	})
	t.Run("our own host name", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(addrA, streamtest.New("us.local", 1, "+evil", "="))
			w.ask("us.local", 1, addrA)
			w.after(time.Minute, "")
			w.net.Offer(second, streamtest.New("us.local", 2, "+a", "="))
			w.ps.Configure([]netip.AddrPort{second}, nil)
			w.after(time.Minute, "a@us.local yes")
		})
	})
	t.Run("asked and found at one address", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.ask("hosta.local", 1, addrA)
			w.found("hosta.local", addrA)
			w.ask("hosta.local", 1, addrA)
			w.after(time.Hour, "a@hosta.local yes")
			if n := len(w.net.Since(w.start)); n != 1 || len(w.net.Streams()) != 1 {
				t.Errorf("%d tries, %d streams", n, len(w.net.Streams()))
			}
		})
	})
	t.Run("asked from an address that the records have later", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.found("hosta.local", addrA)
			w.net.Hang(addrA)
			w.net.Offer(second, streamtest.New("hosta.local", 1, "+a", "="))
			w.after(time.Second, "")
			w.ask("hosta.local", 1, second)
			w.after(0, "a@hosta.local yes")
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA, second)
			w.after(time.Hour, "a@hosta.local yes")
			if len(w.net.Streams()) != 1 {
				t.Errorf("%d streams", len(w.net.Streams()))
			}
		})
	})
	t.Run("both configured", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.net.Offer(second, streamtest.New("hosta.local", 1, "+a", "="))
			w.ps.Configure([]netip.AddrPort{addrA, second}, nil)
			w.after(time.Minute, "a@hosta.local yes")
			if len(w.net.Streams()) != 1 {
				t.Errorf("%d streams", len(w.net.Streams()))
			}
		})
	})
	t.Run("both configured, of different IP versions", func(t *testing.T) {
		inBubble(t, func(w *world) {
			six := netip.MustParseAddrPort("[2001:db8::3]:4369")
			listensOn6 := func() *streamtest.Stream {
				s := streamtest.New("hosta.local", 1)
				s.Line("+ node=a@hosta.local name=a host=hosta.local ip=6 port=41233 type=normal proto=0 high=6 low=5")
				s.Say("=")
				return s
			}
			w.net.Offer(addrA, listensOn6())
			w.ps.Configure([]netip.AddrPort{addrA}, nil)
			w.after(time.Minute, "")
			w.net.Offer(six, listensOn6())
			w.ps.Configure([]netip.AddrPort{addrA, six}, nil)
			w.after(time.Minute, "a@hosta.local yes")
			if len(w.net.Streams()) != 1 {
				t.Errorf("%d streams", len(w.net.Streams()))
			}
			w.ps.Configure([]netip.AddrPort{addrA}, nil)
			w.after(time.Minute, "")
		})
	})
	t.Run("one id, two hosts", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.net.Offer(second, streamtest.New("hostb.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.ask("hostb.local", 1, second)
			w.after(time.Minute, "a@hosta.local yes, a@hostb.local yes")
		})
	})
	t.Run("one id and name, from an address that no record has", func(t *testing.T) {
		inBubble(t, func(w *world) {
			s := w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.after(time.Second, "a@hosta.local yes")
			w.net.Offer(second, streamtest.New("hosta.local", 1, "+evil", "="))
			w.net.Offer(third, streamtest.New("hosta.local", 7, "+worse", "="))
			w.ask("hosta.local", 7, third)
			w.ask("hosta.local", 1, second)
			w.after(time.Minute, "a@hosta.local yes")
			if len(w.net.Streams()) != 1 {
				t.Errorf("%d streams", len(w.net.Streams()))
			}
			s.Fail(io.EOF)
			w.after(stream.Grace+stream.Forgets, "")
		})
	})
	t.Run("who is announced has the name", func(t *testing.T) {
		inBubble(t, func(w *world) {
			w.net.Offer(second, streamtest.New("hosta.local", 7, "+evil", "="))
			w.ask("hosta.local", 7, second)
			w.after(time.Second, "evil@hosta.local yes")
			w.net.Offer(addrA, streamtest.New("hosta.local", 1, "+a", "="))
			w.found("hosta.local", addrA)
			w.after(stream.Jitter+stream.Grace, "a@hosta.local yes")
			w.after(stream.Forgets, "a@hosta.local yes")
			w.ps.mu.Lock()
			defer w.ps.mu.Unlock()
			if n := len(w.ps.all); n != 1 {
				t.Errorf("%d peers", n)
			}
		})
	})
}

// TestStorm has 100 hosts found at one time. They are not connected to in lockstep.
func TestStorm(t *testing.T) {
	inBubble(t, func(w *world) {
		for i := range 100 {
			at := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:4369", i+100))
			host := fmt.Sprintf("host%d.local", i)
			w.net.Hang(at)
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at}, Announces: true})
		}
		w.after(2*time.Second, "")
		tries := w.net.Since(w.start)
		for i := range tries {
			if i >= maxTries && tries[i]-tries[i-maxTries] < stream.SlotTime/2 {
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
			w.net.Offer(at, streamtest.New(host, byte(i), "="))
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at}, Announces: true})
		}
		w.after(time.Minute, "")
		want := epmd.KeepAlive{Idle: 9 * time.Second, Interval: 3 * time.Second, Timeout: 15 * time.Second}
		if got := w.ps.keepAlive(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
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
			w.net.Offer(at(i), streamtest.New(host, byte(i), "+n", "="))
			w.ps.Found(place(host, 1), avahi.EPMD{Host: host, Interface: "eth0", Addrs: []netip.AddrPort{at(i)}, Announces: true})
		}
		w.ask("hostx.local", 3, addrA)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(streamtest.Neighbours(w.ps.Registry), "yes"); got != maxFound {
			t.Errorf("%d nodes of %d hosts", got, maxFound)
		}
		w.ps.Gone(place("host0.local", 1))
		for _, s := range w.net.Streams() {
			if s.Who().Hello.Host == "host0.local" {
				s.Fail(io.EOF)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := streamtest.Neighbours(w.ps.Registry); strings.Count(got, "yes") != maxFound || !strings.Contains(got, fmt.Sprintf("host%d.", maxFound)) {
			t.Errorf("the host that had waited has no place")
		}
	})
}
