package identify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// TestCutShort has questions fail. Only what was reached, and was not just busy, isn't asked again.
func TestCutShort(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
		{&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, true},
		{io.ErrUnexpectedEOF, true},
		{context.DeadlineExceeded, true},
		{&node.StatusError{Code: node.NotAllowed}, true},
		{&node.StatusError{Code: node.NotOK}, false},
		{&node.StatusError{Code: "\x1b[2J"}, false},
	} {
		if got := cutShort(errors.Join(fmt.Errorf("identify: %w", tt.err))); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestMuteBound has more nodes not tell their names than are remembered. Users don't share names.
func TestMuteBound(t *testing.T) {
	i := New(Options{Registry: registry.New("hosta.local", registry.OldNames), Host: "hosta", Log: slog.New(slog.DiscardHandler)})
	of := func(uid int) *registry.Node {
		return &registry.Node{Name: "a", Holder: &registry.Holder{UID: uint32(uid)}}
	}
	for uid := range 3 * maxMute {
		if i.isMute(of(uid)) {
			t.Fatalf("user %d: mute before it was asked", uid)
		}
		if i.setMute(of(uid)); !i.isMute(of(uid)) || len(i.mute) > maxMute {
			t.Fatalf("user %d: mute %v, %d remembered", uid, i.isMute(of(uid)), len(i.mute))
		}
	}
	if i.isMute(&registry.Node{Name: "a"}) {
		t.Error("mute without a user")
	}
}

// TestLikelyAddresses tries each address once: where the node registered from, then loopback.
func TestLikelyAddresses(t *testing.T) {
	v4, v6, other := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct{ from, want []netip.Addr }{
		{nil, []netip.Addr{v4, v6}},
		{[]netip.Addr{v6}, []netip.Addr{v6, v4}},
		{[]netip.Addr{other, v4, other}, []netip.Addr{other, v4, v6}},
	} {
		got := slices.Collect(likelyAddresses(tt.from))
		if len(got) < len(tt.want) || !slices.Equal(got[:len(tt.want)], tt.want) {
			t.Errorf("from %v: %v; want it to begin with %v", tt.from, got, tt.want)
		}
		slices.SortFunc(got, netip.Addr.Compare)
		if all := len(got); len(slices.Compact(got)) != all {
			t.Errorf("from %v: an address comes twice: %v", tt.from, got)
		}
	}
	for range likelyAddresses(nil) {
		break // must not go on
	}
}

// TestIdentify asks a node of ours, as one of OTP, and enters what that says.
func TestIdentify(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	server := &node.Server{Name: "a@host.example", Cookie: "secret"}
	served := make(chan error, 1)
	go func() { served <- server.Serve(t.Context(), ln) }()
	t.Cleanup(func() { <-served })
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	r, n := arrive(t, reg, registry.Node{Name: "a", Port: ln.Addr().(*net.TCPAddr).AddrPort().Port(), Type: registry.Normal}, nil)
	i.Ask(n, true)
	if got := await(t, done); got.ID != n.ID || got.Node != "a@host.example" || !got.Sure || got.Mute {
		t.Errorf("got %+v", got)
	}
	if n := reg.Node(r); i.mayAsk(n) {
		t.Errorf("%+v is asked again", n)
	}
}

// crossed is a listener whose node gives up the first handshakes after it has accepted the name, as
// OTP does if another one under that name ends at that moment.
type crossed struct {
	net.Listener
	left int
}

func (l *crossed) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		in := bufio.NewReader(c)
		const greeting = 0x16 // of TLS, which precedes each handshake
		if first, err := in.Peek(1); err == nil && first[0] != greeting && l.left > 0 {
			l.left--
			c.Write([]byte("\x00\x03sok"))
			c.Close()
			continue
		}
		return begun{c, in}, nil
	}
}

// begun is a connection of which something was read.
type begun struct {
	net.Conn
	in *bufio.Reader
}

func (c begun) Read(b []byte) (int, error) { return c.in.Read(b) }

// TestIdentifyCrossed asks a node while another handshake under our name is in the way.
func TestIdentifyCrossed(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	server := &node.Server{Name: "a@host.example", Cookie: "secret"}
	served := make(chan error, 1)
	l := &crossed{ln, 2}
	go func() { served <- server.Serve(t.Context(), l) }()
	t.Cleanup(func() { <-served })
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	_, n := arrive(t, reg, registry.Node{Name: "a", Port: ln.Addr().(*net.TCPAddr).AddrPort().Port(), Type: registry.Normal}, nil)
	i.Ask(n, true)
	if got := await(t, done); got.Node != "a@host.example" || !got.Sure || got.Mute {
		t.Errorf("got %+v", got)
	}
}

// TestIdentifyGone has nodes go, or another take the name, while they wait to be asked.
func TestIdentifyGone(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	gone, last := newAsked(t), newAsked(t)
	r, n := arrive(t, reg, registry.Node{Name: "a", Port: gone.port(), Type: registry.Normal}, nil)
	reg.Unregister(r)
	i.Ask(n, false)
	_, successor := arrive(t, reg, registry.Node{Name: "a", Port: last.port(), Type: registry.Normal}, nil)
	i.Ask(n, false) // whose name another node has
	i.Ask(successor, false)
	if got := await(t, done); got.ID != successor.ID || gone.times.Load() != 0 {
		t.Errorf("got %+v; a node that had gone was asked %d times", got, gone.times.Load())
	}
}

// TestIdentifyAtOnce has many nodes of a user arrive. No more are asked at once than he may have
// asked: half of all.
func TestIdentifyAtOnce(t *testing.T) {
	const atOnce, count = 3, 12
	reg := registry.New("hosta.local", registry.OldNames)
	done := make(chan *registry.Node, count)
	i := New(Options{Registry: reg, Holders: findHolders(reg), Host: "hosta", Known: func(n *registry.Node) { done <- n }, AtOnce: 2 * atOnce, Log: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	defer ln.Close()
	for at := range count {
		n := registry.Node{Name: fmt.Sprint("n", at), Port: ln.Addr().(*net.TCPAddr).AddrPort().Port(), Type: registry.Normal}
		_, arrived := arrive(t, reg, n, nil)
		i.Ask(arrived, false)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	var held []net.Conn
	for range atOnce {
		c, err := ln.Accept()
		wait.Must(t, err)
		held = append(held, c)
	}
	wait.True(t, "his slots are taken", func() bool { return i.taken() == atOnce })
	cancel()
	if err := <-ended; err != nil { // and nobody is asked any more
		t.Errorf("Run returned %v", err)
	}
	wait.Must(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(20*time.Millisecond)))
	if c, err := ln.Accept(); err == nil { // which was connected before Run returned
		c.Close()
		t.Errorf("more than %d were asked at once", atOnce)
	}
	for _, c := range held {
		c.Close()
	}
	if len(done) != 0 {
		t.Errorf("%d nodes are known; epmd ended before they answered", len(done))
	}
}

// taken returns how many slots are taken.
func (i *Identifier) taken() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.slots
}

// TestIdentifyShares has 200 nodes of a user take connections and say nothing. A node of another
// user is asked at once.
func TestIdentifyShares(t *testing.T) {
	tarpit, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	defer tarpit.Close()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	server := &node.Server{Name: "rabbit@host.example", Cookie: "secret"}
	served := make(chan error, 1)
	go func() { served <- server.Serve(t.Context(), ln) }()
	t.Cleanup(func() { <-served })
	reg := registry.New("hosta.local", registry.OldNames)
	done := make(chan *registry.Node, 1000)
	i := New(Options{Registry: reg, Holders: findHolders(reg), Host: "hosta", Known: func(n *registry.Node) { done <- n }, Log: slog.New(slog.DiscardHandler)})
	ended := make(chan error, 1)
	go func() { ended <- i.Run(t.Context()) }()
	t.Cleanup(func() { <-ended })
	port := func(ln net.Listener) uint16 { return ln.Addr().(*net.TCPAddr).AddrPort().Port() }
	for at := range 200 {
		_, n := arrive(t, reg, registry.Node{Name: fmt.Sprint("t", at), Port: port(tarpit), Type: registry.Normal}, &registry.Holder{UID: 65001})
		i.Ask(n, false)
	}
	wait.True(t, "half of the slots are taken", func() bool { return i.taken() == identifyAtOnce/2 })
	began := time.Now()
	_, n := arrive(t, reg, registry.Node{Name: "rabbit", Port: port(ln), Type: registry.Normal}, &registry.Holder{UID: 65002})
	i.Ask(n, false)
	got := await(t, done)
	t.Logf("identified after %v", time.Since(began))
	if got.ID != n.ID || got.Node != "rabbit@host.example" || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %+v; want rabbit in 3 s", time.Since(began), got)
	}
}
