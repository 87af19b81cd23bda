package identify

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/holders"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// asked closes each connection once something has come over it.
type asked struct {
	net.Listener
	times atomic.Int32
}

func newAsked(t *testing.T) *asked {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	a := &asked{Listener: ln}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			a.times.Add(1)
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	return a
}

func (a *asked) port() uint16 { return a.Addr().(*net.TCPAddr).AddrPort().Port() }

// findHolders returns what finds the processes behind nodes.
func findHolders(reg *registry.Registry) *holders.Finder {
	return holders.New(reg, slog.New(slog.DiscardHandler))
}

// identifying runs an Identifier until the test ends. It asks one node at a time. Those that were
// asked come over done.
func identifying(t *testing.T, reg *registry.Registry) (i *Identifier, done chan *registry.Node) {
	t.Helper()
	done = make(chan *registry.Node, 1)
	i = New(Options{Registry: reg, Holders: findHolders(reg), Host: "hosta", Known: func(n *registry.Node) { done <- n }, AtOnce: 1, Log: slog.New(slog.DiscardHandler)})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = i.Run(t.Context())
	}()
	t.Cleanup(func() { <-ended })
	return i, done
}

// arrive registers a node with a holder.
func arrive(t *testing.T, reg *registry.Registry, n registry.Node, h *registry.Holder) (*registry.Registration, *registry.Node) {
	t.Helper()
	n.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	r, err := reg.Register(n)
	if err != nil {
		t.Fatal(err)
	}
	if h != nil {
		reg.SetHolder(reg.Node(r), h)
	}
	return r, reg.Node(r)
}

func TestIdentifyAsks(t *testing.T) {
	for _, tt := range []struct {
		kind   registry.NodeType
		holder *registry.Holder
		asks   bool
	}{
		{registry.Normal, nil, true},
		{registry.Normal, &registry.Holder{}, true},
		{registry.Normal, &registry.Holder{PID: 1}, true},
		{registry.Normal, &registry.Holder{PID: 1, Foreign: true}, false},
		{registry.Normal, &registry.Holder{Foreign: true}, false},
		{registry.Hidden, &registry.Holder{PID: 1}, false},
		{registry.CNode, nil, false},
		{registry.Java, nil, false},
		{0, nil, false},
		{'N', &registry.Holder{PID: 1}, false},
	} {
		t.Run(fmt.Sprintf("%d %+v", tt.kind, tt.holder), func(t *testing.T) {
			reg := registry.New("hosta.local", registry.OldNames)
			i, done := identifying(t, reg)
			first, last := newAsked(t), newAsked(t)
			_, n := arrive(t, reg, registry.Node{Name: "a", Port: first.port(), Type: tt.kind}, tt.holder)
			i.Ask(n, false)
			if tt.asks {
				await(t, done)
			}
			_, n = arrive(t, reg, registry.Node{Name: "last", Port: last.port(), Type: registry.Normal}, nil)
			i.Ask(n, false)
			await(t, done)
			if got := first.times.Load() > 0; got != tt.asks {
				t.Errorf("asked: %v, want %v", got, tt.asks)
			}
		})
	}
}

// TestIdentifyPartly has nodes come whose holders were not looked for everywhere. All of a user are
// looked for at once, and each is asked then.
func TestIdentifyPartly(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	const count = 20
	ask := func(uid uint32) {
		for k := range count {
			_, n := arrive(t, reg, registry.Node{Name: fmt.Sprint("n", uid, "-", k), Port: newAsked(t).port(), Type: registry.Normal},
				&registry.Holder{UID: uid})
			i.Ask(n, k%4 != 0)
		}
	}
	ask(1000)
	known := make(map[string]bool)
	for range count {
		known[await(t, done).Name] = true
	}
	if len(known) != count {
		t.Errorf("%d of %d nodes were asked", len(known), count)
	}

	still := New(Options{Registry: reg, Host: "hosta", Log: slog.New(slog.DiscardHandler)})
	i = still // nobody runs it
	ask(1001)
	ask(1002)
	if got := len(still.takePartly(1001)); got != count*3/4 {
		t.Errorf("%d are looked for at once; want %d", got, count*3/4)
	}
	if a, b := len(still.waiting[1001]), len(still.waiting[1002]); a != count/4 || b != count {
		t.Errorf("%d and %d still wait; want %d and %d", a, b, count/4, count)
	}
}

func await(t *testing.T, done <-chan *registry.Node) *registry.Node {
	t.Helper()
	select {
	case n := <-done:
		return n
	case <-time.After(wait.Patience):
		t.Fatalf("no node was asked for %v", wait.Patience)
		return nil
	}
}

// TestIdentifyMute has a node not tell its name. It isn't asked again. Nor is the next of that name
// and user, unless it is known to be of OTP.
func TestIdentifyMute(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	a, last := newAsked(t), newAsked(t)
	ask := func(h *registry.Holder) *registry.Registration {
		r, n := arrive(t, reg, registry.Node{Name: "a", Port: a.port(), Type: registry.Normal}, h)
		i.Ask(n, false)
		return r
	}
	r := ask(&registry.Holder{UID: 1000})
	if n := await(t, done); !n.Mute || n.Sure || n.Name != "a" {
		t.Errorf("after a question that was cut short: %+v", n)
	}
	times := a.times.Load()
	if times != 2 { // with TLS and without
		t.Errorf("%d connections, want 2", times)
	}
	i.Ask(reg.Node(r), false)
	reg.Unregister(r)
	r = ask(&registry.Holder{UID: 1000})
	_, n := arrive(t, reg, registry.Node{Name: "last", Port: last.port(), Type: registry.Normal}, nil)
	i.Ask(n, false)
	await(t, done)
	if got := a.times.Load(); got != times {
		t.Errorf("asked again: %d connections, had %d", got, times)
	}
	for _, h := range []*registry.Holder{{UID: 1001}, {UID: 1000, PID: 1}} {
		reg.Unregister(r)
		r = ask(h)
		if n := await(t, done); n.Name != "a" || a.times.Load() != times+2 {
			t.Errorf("of %v: not asked", h)
		}
		times = a.times.Load()
	}
}

// TestIdentifyNobody has a port on which nobody listens. That says nothing of the node.
func TestIdentifyNobody(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	i, done := identifying(t, reg)
	gone, last := newAsked(t), newAsked(t)
	gone.Close()
	r, n := arrive(t, reg, registry.Node{Name: "a", Port: gone.port(), Type: registry.Normal}, nil)
	i.identify(t.Context(), n)
	_, n = arrive(t, reg, registry.Node{Name: "last", Port: last.port(), Type: registry.Normal}, nil)
	i.Ask(n, false)
	await(t, done)
	if n := reg.Node(r); n.Mute {
		t.Errorf("%+v, want it not to be mute", n)
	}
}
