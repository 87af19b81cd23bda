package epmd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// manyUsers is a Config.UserOf where each connection has a user of its own.
func manyUsers(fd int) (uint32, error) { return uint32(fd), nil }

// oneUser is a Config.UserOf where the user is the one that the test says.
type oneUser struct{ atomic.Uint32 }

func (u *oneUser) of(int) (uint32, error) {
	if uid := u.Load(); uid != unknownUser {
		return uid, nil
	}
	return 0, errors.New("not known")
}

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
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
	var log logBuffer
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
	user.Store(unknownUser) // all whom nobody knows are one
	for j := range 4 {
		dial(t, s.addr).register(fmt.Sprint("unknown", j), 6)
	}
	dial(t, s.addr).refusedName("more")
	s.stillAnswers()
}

// TestUsersUnknown has no kernel that tells users apart. All may take all places then.
func TestUsersUnknown(t *testing.T) {
	const files = 128 + reservedFiles + lookupFiles
	e := &engine{engineConfig: engineConfig{files: files}, registered: 127, registeredBy: map[uint32]int{unknownUser: 127}}
	if err := e.roomToRegister(caller{local: true}); err != nil {
		t.Error(err)
	}
	e.registered++
	if err := e.roomToRegister(caller{local: true}); err == nil {
		t.Error("there is room beyond the limit")
	}
	s := &stream{shares: []share{{"watch", 4, true}}, reserve: true}
	s.local, s.user = true, unknownUser
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

// TestKillSupervised has each kind of user ask to end an epmd that a service manager would start
// again.
func TestKillSupervised(t *testing.T) {
	for uid, granted := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, 12345: false, unknownUser: false} {
		t.Run(userName(uid), func(t *testing.T) {
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
			var log logBuffer
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
	if got := s.engine.registeredBy[uint32(os.Geteuid())]; got != 1 {
		t.Errorf("registered by %v; want 1 of user %d", s.engine.registeredBy, os.Geteuid())
	}
}
