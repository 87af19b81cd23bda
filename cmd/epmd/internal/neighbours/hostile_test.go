package neighbours

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// lan is an Asker in a bubble of synctest, and what the epmds of its LAN say.
type lan struct {
	*Asker
	reg *registry.Registry
	end func() // returns when Run has

	mu    sync.Mutex
	log   bytes.Buffer
	names []epmd.NamedPort
	err   error
	takes time.Duration // to answer
	asked int
}

func newLAN() *lan {
	l := &lan{reg: registry.New("hostb.local", 0)}
	l.Asker = New(Options{Registry: l.reg, Log: slog.New(slog.NewTextHandler(l, nil)), OnLink: everywhere, Names: l.answer})
	return l
}

// run has the Asker run until the test ends.
func (l *lan) run(t *testing.T) *lan {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	l.end = func() { cancel(); <-ended }
	t.Cleanup(l.end)
	synctest.Wait()
	return l
}

func (l *lan) answer(ctx context.Context, _ netip.AddrPort) (epmd.Names, error) {
	l.mu.Lock()
	takes := l.takes
	l.asked++
	l.mu.Unlock()
	if takes > 0 { // what is due at once may break the race detector: go.dev/issue/78156
		select {
		case <-ctx.Done():
			return epmd.Names{}, ctx.Err()
		case <-time.After(takes):
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return epmd.Names{Nodes: l.names}, l.err
}

// Write takes what is logged.
func (l *lan) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(b)
}

// logged returns what has been logged since the last call.
func (l *lan) logged() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.log.Reset()
	return l.log.String()
}

// take has all epmds take that long to answer from now on.
func (l *lan) take(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takes = d
}

// questions returns how often an epmd has been asked.
func (l *lan) questions() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// say has all epmds answer so from now on.
func (l *lan) say(err error, names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names, l.err = nil, err
	for _, name := range names {
		l.names = append(l.names, epmd.NamedPort{Name: name, Port: 4711})
	}
}

// after returns the nodes that are known after that time, by name.
func (l *lan) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	var names []string
	for _, n := range l.reg.Nodes() {
		names = append(names, n.Node)
	}
	slices.Sort(names)
	return names
}

func (l *lan) want(t *testing.T, what string, d time.Duration, want ...string) {
	t.Helper()
	if got := l.after(d); !slices.Equal(got, want) {
		t.Errorf("%s: nodes %q, want %q", what, got, want)
	}
}

// TestAnswers follows what one epmd says. It is believed once more if it fails once.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.say(nil, "a", "b")
		l.Found(at(0), epmdOf(0))
		l.want(t, "before Run", 2*askEvery)
		l.run(t)
		l.want(t, "at once", 0, "a@host0.local", "b@host0.local")
		refused := errors.New("refused")
		for _, s := range []struct {
			what  string
			err   error
			names []string
			want  []string
		}{
			{"one goes, one comes", nil, []string{"b", "c"}, []string{"b@host0.local", "c@host0.local"}},
			{"fails", refused, nil, []string{"b@host0.local", "c@host0.local"}},
			{"answers again", nil, []string{"b"}, []string{"b@host0.local"}},
			{"fails anew", refused, nil, []string{"b@host0.local"}},
			{"fails twice", refused, nil, nil},
			{"fails on", refused, nil, nil},
			{"is back", nil, []string{"d", "d"}, []string{"d@host0.local"}},
			{"has none", nil, nil, nil},
		} {
			l.say(s.err, s.names...)
			l.want(t, s.what, askEvery, s.want...)
		}
	})
}

// TestSlow asks an epmd that takes longer than it is given.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		l.say(nil, "a")
		l.take(askTimeout - time.Second)
		l.Found(at(0), epmdOf(0))
		l.want(t, "not yet", askTimeout-time.Second-1)
		l.want(t, "in time", 1, "a@host0.local")
		l.take(askTimeout + 1)
		l.want(t, "late once", askEvery+askTimeout, "a@host0.local")
		l.want(t, "late twice", askEvery+askTimeout)
		if got := l.questions(); got != 3 {
			t.Errorf("asked %d times, want 3", got)
		}
	})
}

// TestGoneMeanwhile has an epmd go, or announce its nodes, while it is being asked. Its answer
// does not count. Repeated news don't have it asked twice at once.
func TestGoneMeanwhile(t *testing.T) {
	for name, goes := range map[string]func(*lan){
		"goes":        func(l *lan) { l.Gone(at(0)) },
		"announces":   func(l *lan) { l.Found(at(0), announced(epmdOf(0))) },
		"other place": func(l *lan) { l.Found(at(9), announced(epmdOf(0))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN().run(t)
				l.say(nil, "a")
				l.take(time.Second)
				for range 3 {
					l.Found(at(0), epmdOf(0))
				}
				synctest.Wait()
				goes(l)
				l.want(t, name, 10*askEvery)
				if got := l.questions(); got != 1 {
					t.Errorf("asked %d times, want once", got)
				}
			})
		})
	}
}

// TestEnds ends Run while an epmd is being asked. Nothing is told or asked from then on.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		l.say(nil, "a")
		l.Found(at(0), epmdOf(0))
		l.want(t, "found", 0, "a@host0.local")
		l.take(time.Second)
		l.Found(at(1), epmdOf(1))
		synctest.Wait()
		l.end()
		l.want(t, "ended", 0)
		l.Found(at(2), epmdOf(2))
		l.Gone(at(0))
		l.want(t, "later", 10*askEvery)
		if got := l.questions(); got != 2 {
			t.Errorf("asked %d times, want twice", got)
		}
	})
}

// TestHostileAnswer has an epmd say what no epmd should. Some of it is logged, once a minute.
func TestHostileAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		l.say(nil, "good", "a@b", "\x1b[31m", "x\nlevel=ERROR", strings.Repeat("n", 255))
		l.names = append(l.names, epmd.NamedPort{Name: "port0"}) // nobody is asked yet
		l.Found(at(0), epmdOf(0))
		l.want(t, "hostile", 0, "good@host0.local")
		if got := l.logged(); strings.Contains(got, "\x1b") || strings.Count(got, "\n") != 1 || !strings.Contains(got, "bad answer from an epmd on the LAN") {
			t.Errorf("logged %q", got)
		}
		l.after(2*askEvery + 1)
		if got := l.logged(); strings.Contains(got, "\x1b") || strings.Count(got, "\n") != 1 || !strings.Contains(got, "withheld=9") {
			t.Errorf("logged after a minute: %q", got)
		}
	})
}

// TestHugeAnswer has an epmd say more nodes than are kept of a host.
func TestHugeAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		var names []string
		for i := range 2 * registry.MaxNeighboursPerHost {
			names = append(names, fmt.Sprint("n", i))
		}
		l.say(nil, names...)
		l.Found(at(0), epmdOf(0))
		if got := len(l.after(0)); got != registry.MaxNeighboursPerHost {
			t.Errorf("%d nodes, want %d", got, registry.MaxNeighboursPerHost)
		}
		if got := l.logged(); !strings.Contains(got, "LAN nodes left out") || strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q", got)
		}
		other := epmdOf(0)
		other.Addrs = []netip.AddrPort{netip.AddrPortFrom(testAddr, 6000)}
		l.say(nil, "more")
		l.Found(at(1), other)
		l.after(0)
		if got := l.logged(); !strings.Contains(got, "LAN node left out") || !strings.Contains(got, "more than 512 nodes of one host") {
			t.Errorf("logged %q", got)
		}
	})
}

// TestTwoPlaces finds an epmd in two places. Its nodes are there until both have gone.
func TestTwoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		l.say(nil, "a")
		l.Found(at(0), epmdOf(0))
		l.Found(at(1), epmdOf(0))
		l.want(t, "both", 0, "a@host0.local")
		l.Gone(at(0))
		l.Gone(at(0))
		l.Gone(at(7)) // where nothing ever was
		l.want(t, "one", 0, "a@host0.local")
		l.Gone(at(1))
		l.want(t, "none", 0)
	})
}

// TestConcurrently has epmds come and go, all at once. In the end there is what came last.
func TestConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN().run(t)
		l.say(nil, "a")
		var telling sync.WaitGroup
		for i := range 8 {
			telling.Go(func() {
				for range 50 {
					l.Found(at(i), epmdOf(i))
					l.Found(avahi.Place{Label: fmt.Sprint("other", i)}, announced(epmdOf(i)))
					l.Gone(avahi.Place{Label: fmt.Sprint("other", i)})
					l.Gone(at(i))
				}
				if i%2 == 0 {
					l.Found(at(i), epmdOf(i))
				}
			})
		}
		telling.Wait()
		l.want(t, "in the end", 0, "a@host0.local", "a@host2.local", "a@host4.local", "a@host6.local")
		if len(l.found) != 4 || len(l.announcers) != 0 || l.admitted != 4 {
			t.Errorf("%d found, %d announce, %d have a place; want 4, 0, 4", len(l.found), len(l.announcers), l.admitted)
		}
	})
}

// TestOverTheNetwork asks a listener that says a node, lines that are none, and a cut one.
func TestOverTheNetwork(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, 3))
			io.WriteString(conn, "\x00\x00\x11\x11name a at port 4711\nname b at port 99999\n\x1b]0;x\a\nname c at po")
			conn.Close()
		}
	}()
	reg := registry.New("hostb.local", 0)
	ctx, cancel := context.WithCancel(t.Context())
	a := New(Options{Registry: reg, OnLink: everywhere, Log: slog.New(slog.DiscardHandler)})
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	a.Found(at(0), avahi.EPMD{Host: "hosta.local", Addrs: []netip.AddrPort{listener.Addr().(*net.TCPAddr).AddrPort()}})
	wait.True(t, "the node is told", func() bool { return len(reg.Nodes()) > 0 })
	if nodes := reg.Nodes(); len(nodes) != 1 || nodes[0].Node != "a@hosta.local" || nodes[0].Port != 4711 {
		t.Errorf("got %v", nodes)
	}
	cancel()
	wait.Must(t, <-ended)
}
