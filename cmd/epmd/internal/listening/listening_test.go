package listening

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
	"golang.org/x/sys/unix"
)

// TestListens has a node that listens on loopback, and one that doesn't.
func TestListens(t *testing.T) {
	open, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	reg := registry.New("hosta.local", registry.OldNames)
	for name, l := range map[string]net.Listener{"open": open, "gone": gone} {
		if _, err := reg.Register(registry.Node{Name: name, Port: l.Addr().(*net.TCPAddr).AddrPort().Port(), FD: -1}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	ended := make(chan error, 1)
	w := New(Options{Registry: reg, Log: slog.New(slog.DiscardHandler)})
	go func() { ended <- w.Run(ctx) }()
	select {
	case <-w.Looked():
	case <-ctx.Done():
		t.Fatalf("not looked at for %v", wait.Patience)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := reg.Lookup("open").Listens; !slices.Equal(got, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}) {
		t.Errorf("listens at %v, want loopback alone", got)
	}
	if got := reg.Lookup("gone").Listens; len(got) != 0 {
		t.Errorf("listens at %v, want nowhere", got)
	}
}

// claim binds a socket to a port of loopback, which nobody else gets from then on. The socket
// listens from the call of listen.
func claim(t *testing.T) (at netip.AddrPort, listen func()) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	wait.Must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	loopback := [4]byte{127, 0, 0, 1}
	wait.Must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback}))
	name, err := unix.Getsockname(fd)
	wait.Must(t, err)
	at = netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(name.(*unix.SockaddrInet4).Port))
	return at, func() { wait.Must(t, unix.Listen(fd, 8)) }
}

// TestListensLater has a node register before it listens.
func TestListensLater(t *testing.T) {
	at, listen := claim(t)
	reg := registry.New("hosta.local", registry.OldNames)
	changes := reg.Subscribe()
	defer changes.Close()
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	ended := make(chan error, 1)
	go func() { ended <- New(Options{Registry: reg, Log: slog.New(slog.DiscardHandler)}).Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	if _, err := reg.Register(registry.Node{Name: "a", Port: at.Port(), FD: -1}); err != nil {
		t.Fatal(err)
	}
	await := func(what string, is func(*registry.Node) bool) {
		t.Helper()
		for !is(reg.Lookup("a")) {
			if _, err := changes.Next(ctx); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	await("nobody listens", func(n *registry.Node) bool { return n.Listens != nil && len(n.Listens) == 0 })
	listen()
	await("the node listens", func(n *registry.Node) bool { return slices.Contains(n.Listens, at.Addr()) })
}

// TestListensYoung has a node that goes before it is old enough to be looked at, and one that
// stays.
func TestListensYoung(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	changes := reg.SubscribeLocal()
	defer changes.Close()
	w := New(Options{Registry: reg, Log: slog.New(slog.DiscardHandler)})
	w.again = time.NewTimer(time.Hour)
	w.take(changes.Take(), 0)
	var nodes []*registry.Registration
	for _, name := range []string{"goes", "stays"} {
		r, err := reg.Register(registry.Node{Name: name, Port: 1, FD: -1})
		wait.Must(t, err)
		nodes = append(nodes, r)
	}
	if w.take(changes.Take(), time.Hour) {
		t.Error("it says that it has looked at nodes that have only just come")
	}
	for _, r := range nodes {
		if n := reg.Node(r); n.Listens != nil {
			t.Errorf("%s was looked at at once: %v", n.Name, n.Listens)
		}
	}
	reg.Unregister(nodes[0])
	if !w.take(changes.Take(), 0) {
		t.Error("it says that it has looked at nothing")
	}
	if n := reg.Lookup("stays"); n.Listens == nil || len(w.come) != 0 {
		t.Errorf("the node that stays was not looked at; %d are left", len(w.come))
	}
}
