package epmd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/internal/places"
	"github.com/goerlang/eclus/test/wait"
)

// manyUsers is a Config.UserOf where each connection has a user of its own.
func manyUsers(fd int) (uint32, error) { return uint32(fd), nil }

// oneUser is a Config.UserOf where the user is the one that the test says.
type oneUser struct{ atomic.Uint32 }

func (u *oneUser) of(int) (uint32, error) {
	if uid := u.Load(); uid != places.Unknown {
		return uid, nil
	}
	return 0, errors.New("not known")
}

// dialFrom connects from the n-th loopback address.
func dialFrom(tb testing.TB, addr netip.AddrPort, n int) *peer {
	tb.Helper()
	local := netip.AddrFrom4([4]byte{127, 1, byte(n >> 8), byte(n)})
	return dialWith(tb, addr, net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))})
}

// refusedName registers a name that must be refused.
func (p *peer) refusedName(name string) {
	p.tb.Helper()
	p.ask(AliveReq{Port: 1, High: 6, Low: 5, Name: name})
	if got := fmt.Sprintf("%x", p.read(6)); got != "760100000063" {
		p.tb.Errorf("register %q: answer %s; want it refused", name, got)
	}
}

// TestUsersShareNames has one user after the other register as many nodes as he may. Each leaves
// half of what he found. Who gives a name back may have another.
func TestUsersShareNames(t *testing.T) {
	checkLeaks(t)
	var log wait.Output
	var user oneUser
	const files = 128 + reservedFiles + lookupFiles
	s := serve(t, Config{Files: files, UserOf: user.of, Log: slog.New(slog.NewTextHandler(&log, nil))})
	var last *peer
	for i, want := range []int{64, 32, 16, 8} {
		user.Store(uint32(1000 + i))
		for j := range want {
			last = dial(t, s.addr)
			last.register(fmt.Sprint("n", i, "-", j), 6)
		}
		dial(t, s.addr).refusedName("more")
		if want := fmt.Sprintf("user %d has %d names", 1000, 64); !strings.Contains(s.Shortage(), want) {
			t.Errorf("shortage %q; want %q", s.Shortage(), want)
		}
	}
	if want := "user 1003 has 8 names, and the 8 places left are for others"; !strings.Contains(log.String(), want) {
		t.Errorf("log %s\nwant %q", log.String(), want)
	}
	last.Close()
	wait.True(t, "a node has gone", func() bool { return s.state().nodes == 119 })
	dial(t, s.addr).register("again", 6)
	user.Store(places.Unknown) // all whom nobody knows are one
	for j := range 4 {
		dial(t, s.addr).register(fmt.Sprint("unknown", j), 6)
	}
	dial(t, s.addr).refusedName("more")
	s.stillAnswers()
}

// TestUsersAsked has nobody asked for while most places are free. All but maxUnasked are known once
// half are taken, by nodes or by streams. Nodes that go again have nobody asked. All are known when
// that matters. None is counted that has gone.
func TestUsersAsked(t *testing.T) {
	checkLeaks(t)
	const most = 128
	for _, streams := range []int{0, most / 4} {
		var asked atomic.Int32
		s := serve(t, Config{Files: most + reservedFiles + lookupFiles, LinkOf: loLink, UserOf: func(int) (uint32, error) {
			asked.Add(1)
			return 1000, nil
		}})
		var nodes []*peer
		register := func(count int) {
			for range count {
				p := dial(t, s.addr)
				p.register(fmt.Sprint("n", len(nodes)), 6)
				nodes = append(nodes, p)
			}
		}
		register(most/4 - 1)
		if n := asked.Swap(0); n != 0 {
			t.Errorf("%d users were asked for while most places are free", n)
		}
		nodes[0].Close()
		wait.True(t, "a node has gone", func() bool { return s.state().nodes == most/4-2 })
		for range min(streams, 1) * (reservedStreams + streams) {
			lines, err := s.client.Watch(t.Context())
			wait.Must(t, err)
			defer lines.Close()
		}
		register(most/4 + 2 - streams)
		s.engine.mu.Lock()
		if left := s.engine.unasked; left != maxUnasked || s.engine.registeredBy[1000] != most/2-streams-left {
			t.Errorf("%d are not asked for; %v; want %d and %d", left, s.engine.registeredBy, maxUnasked, most/2-streams-maxUnasked)
		}
		s.engine.mu.Unlock()
		nodes[1].Close()
		wait.True(t, "another node has gone", func() bool { return s.state().nodes == most/2-streams-1 })
		asked.Store(0)
		const visits = 20
		for i := range visits {
			p := dial(t, s.addr)
			p.register(fmt.Sprint("visit", i), 6)
			p.Close()
			wait.True(t, "the visitor has gone", func() bool { return s.state().nodes == most/2-streams-1 })
		}
		if n := asked.Load(); n > visits/4 {
			t.Errorf("%d users were asked for as %d nodes came and went", n, visits)
		}
		s.engine.mu.Lock()
		if his := s.engine.nodesOf(1000); his != most/2-streams-1 {
			t.Errorf("user 1000 has %d names; want %d", his, most/2-streams-1)
		}
		s.engine.mu.Unlock()
		for _, p := range nodes {
			p.Close()
		}
		wait.True(t, "all have gone", func() bool { return s.state().nodes == 0 })
		s.engine.mu.Lock()
		if s.engine.unasked != 0 || len(s.engine.registeredBy) != 0 {
			t.Errorf("left are %d and %v", s.engine.unasked, s.engine.registeredBy)
		}
		s.engine.mu.Unlock()
	}
}

// TestUsersUnknown has no kernel that tells users apart. All may take all places then.
func TestUsersUnknown(t *testing.T) {
	const files = 128 + reservedFiles + lookupFiles
	e := &engine{engineConfig: engineConfig{files: files}, registered: 127, registeredBy: map[uint32]int{places.Unknown: 127}}
	if err := e.roomToRegister(caller{local: true}); err != nil {
		t.Error(err)
	}
	e.registered++
	if err := e.roomToRegister(caller{local: true}); err == nil {
		t.Error("there is room beyond the limit")
	}
	s := &stream{shares: []share{{"watch", 4, true}}, reserve: true}
	s.local, s.user = true, places.Unknown
	e.ctx, e.registered, e.streams.running = t.Context(), 0, map[any]int{"watch": 3}
	if _, ok := e.roomForStream(s); !ok {
		t.Error("the last stream is refused")
	}
}

// TestUsersShareStreams has one user watch as often as he may. Others still can.
func TestUsersShareStreams(t *testing.T) {
	for _, req := range []WatchReq{{}, {&testHello}} {
		checkLeaks(t)
		var user oneUser
		s := serve(t, Config{LinkOf: loLink, Files: 256, UserOf: user.of})
		watch := func(n int) *peer {
			p := dialFrom(t, s.addr, n)
			p.ask(req)
			return p
		}
		places := maxStreams
		if req.Hello != nil {
			places = 256 / 4
		}
		user.Store(1000)
		var first *peer
		for i := range places / 2 {
			p := watch(i)
			p.read(4)
			if first == nil {
				first = p
			}
		}
		watch(places).wantAll("")
		user.Store(1001)
		watch(places + 1).read(4)
		first.Close()
		wait.True(t, "a stream has ended", func() bool { return s.streaming() == places/2 })
		watch(places + 2).read(4)
	}
}

// TestOwnersShareStreams has a host ask for streams from many addresses. It gets half of them, and
// no more once it is known that all are its own.
func TestOwnersShareStreams(t *testing.T) {
	for name, before := range map[string]int{"known at once": 32, "known late": 48} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				known := before == 32
				e := &engine{engineConfig: engineConfig{files: 4096}}
				e.ownerOf = func(a netip.Addr) string {
					if known && netip.MustParsePrefix("10.66.0.0/16").Contains(a) {
						return "crowd"
					}
					return a.String()
				}
				e.ctx, e.streams.running = t.Context(), make(map[any]int)
				asks := func(a netip.Addr) bool {
					s := &stream{shares: []share{{"peers", 64, true}, {addrShare{a}, 2, false}}, addr: a}
					_, ok := e.roomForStream(s)
					if ok {
						e.takePlaces(s)
					}
					return ok
				}
				a := netip.MustParseAddr("10.66.0.1")
				for range before {
					if !asks(a) {
						t.Fatalf("%v is refused", a)
					}
					a = a.Next()
				}
				known = true
				time.Sleep(ownersAge + 1)
				if asks(a) {
					t.Errorf("%v has a stream beyond its share", a)
				}
				for i, other := 0, netip.MustParseAddr("192.0.2.1"); i < (64-before)/2; i, other = i+1, other.Next() {
					if !asks(other) {
						t.Errorf("%v is refused", other)
					}
				}
			})
		})
	}
}

// TestKillSupervised has each kind of user ask to end an epmd that a service manager would start
// again.
func TestKillSupervised(t *testing.T) {
	for uid, granted := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, 12345: false, places.Unknown: false} {
		t.Run(places.UserName(uid), func(t *testing.T) {
			checkLeaks(t)
			var user oneUser
			user.Store(uid)
			s := serve(t, Config{Supervised: true, Relaxed: true, UserOf: user.of})
			p := dial(t, s.addr)
			p.ask(KillReq{})
			if !granted {
				p.wantAll("4e4f")
				s.stillAnswers()
				return
			}
			p.wantAll("4f4b")
			if err := s.wait(); !errors.Is(err, ErrKilled) {
				t.Errorf("Serve returned %v", err)
			}
		})
	}
}

// TestWarnings floods the log with each request that is refused. A user gets some entries a minute,
// and another one is not held back for him.
func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		msg string
		req Request
	}{
		{"name refused", AliveReq{High: 6, Name: "taken"}},
		{"kill refused", KillReq{}},
		{"stop refused", StopReq{"taken"}},
	} {
		t.Run(tt.msg, func(t *testing.T) {
			checkLeaks(t)
			var log wait.Output
			var user oneUser
			s := serve(t, Config{UserOf: user.of, Log: slog.New(slog.NewTextHandler(&log, nil))})
			dial(t, s.addr).register("taken", 6)
			for uid := range uint32(2) {
				user.Store(1000 + uid)
				for range 5 * maxWarnings {
					p := dial(t, s.addr)
					p.ask(tt.req)
					p.CloseWrite()
					p.all()
				}
				if got, want := strings.Count(log.String(), tt.msg), maxWarnings*int(uid+1); got != want {
					t.Errorf("%d entries after user %d; want %d", got, 1000+uid, want)
				}
			}
		})
	}
}

// TestUserOfKernel is the user whom the kernel knows.
func TestUserOfKernel(t *testing.T) {
	checkLeaks(t)
	s := serve(t, Config{})
	dial(t, s.addr).register("a", 6)
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if got := s.engine.nodesOf(uint32(os.Geteuid())); got != 1 {
		t.Errorf("registered by %v; want 1 of user %d", s.engine.registeredBy, os.Geteuid())
	}
}
