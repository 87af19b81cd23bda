package peers

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream/streamtest"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// host is an epmd on a loopback address of its own. It is the real server.
type host struct {
	t    testing.TB
	reg  *registry.Registry
	addr netip.AddrPort
	id   epmd.PeerID
	name string

	asked func(epmd.PeerAsk) // nil: nobody wants to know
	keeps bool               // its program ends without a word to peers
	stop  func()             // nil: it is not running
}

// newHost returns an epmd at ip that does not run yet.
func newHost(t testing.TB, name, ip string, id byte) *host {
	h := &host{
		t: t, name: name + ".local", id: epmd.PeerID{1, 15: id}, reg: registry.New(name+".local", registry.OldNames),
		addr: netip.AddrPortFrom(netip.MustParseAddr(ip), 0),
	}
	t.Cleanup(h.end)
	return h
}

func (h *host) hello() epmd.PeerHello {
	return epmd.PeerHello{Version: "1.2", ID: h.id, Host: h.name, Port: h.addr.Port()}
}

// keeper keeps nothing, but says that it does.
type keeper struct{}

func (keeper) Keep(int, *registry.Node, func()) bool { return true }
func (keeper) Release(*registry.Node)                {}
func (keeper) Flush()                                {}

// start runs it, at the port that it had before.
func (h *host) start() {
	h.t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(h.addr))
	wait.Must(h.t, err)
	h.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	cfg := epmd.Config{
		Registry: h.reg, Port: h.addr.Port(), Asked: h.asked, Hello: h.hello, Files: 4096,
		LinkOf: func(local netip.Addr) (string, []netip.Addr) { return "lo", []netip.Addr{local} },
	}
	if h.keeps {
		cfg.Keeper = keeper{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- epmd.NewServer(cfg).Serve(ctx, ln) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Errorf("%s: %v", h.name, err)
		}
	}
}

func (h *host) end() {
	if h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// register registers nodes that listen everywhere.
func (h *host) register(names ...string) {
	h.t.Helper()
	for _, name := range names {
		reg, err := h.reg.Register(registry.Node{Name: name, Port: 41233, Type: registry.Normal, High: 6, Low: 5})
		wait.Must(h.t, err)
		h.reg.SetListens(h.reg.Node(reg), []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()})
	}
}

// announce tells peers of the host as avahi does.
func (h *host) announce(ps *Peers) {
	ps.Found(avahi.Place{Interface: 1, Label: h.name}, avahi.EPMD{
		Host: h.name, Interface: "lo", Addrs: []netip.AddrPort{h.addr}, Announces: true,
	})
}

// run runs peers until the test ends.
func run(t testing.TB, ps *Peers) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ps.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// nobody is an Asker that asks nobody.
type nobody struct{}

func (nobody) Found(avahi.Place, avahi.EPMD)       {}
func (nobody) Gone(avahi.Place)                    {}
func (nobody) Configured(_ netip.AddrPort, _ bool) {}

// newPeers returns peers of an empty registry. change may change options.
func newPeers(t testing.TB, change func(*Options)) *Peers {
	reg := registry.New("us.local", registry.OldNames)
	o := Options{
		Registry: reg,
		Hello: func() epmd.PeerHello {
			return epmd.PeerHello{Version: "1.2", ID: epmd.PeerID{9}, Host: "us.local", Port: 4369}
		},
		Others:         nobody{},
		StreamsChanged: func() {},
		FindAgain:      func(string) {},
		Owners:         netif.NewMACs(),
		OnLink:         func(netip.Addr) bool { return true },
		Log:            slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// wantNodes waits until those are the neighbours.
func wantNodes(t testing.TB, reg *registry.Registry, want string) {
	t.Helper()
	wait.Until(t, "neighbours "+want, func() error {
		if got := streamtest.Neighbours(reg); got != want {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

// TestRealPeer follows a real epmd that is announced: its nodes, its end, and that it comes back.
func TestRealPeer(t *testing.T) {
	a := newHost(t, "a", "127.0.1.1", 1)
	a.register("one")
	a.start()
	ps := newPeers(t, nil)
	a.announce(ps)
	run(t, ps)
	wantNodes(t, ps.Registry, "one@a.local yes")
	n := ps.Registry.Nodes()[0]
	if n.Origin != registry.LAN || n.Via != registry.ViaEPMD || n.Rank != registry.Told || n.EPMDPort != a.addr.Port() ||
		!slices.Equal(n.Addresses, []netip.Addr{a.addr.Addr()}) {
		t.Errorf("got %+v", n)
	}
	if !ps.Streamed("a") || ps.Streamed("b") {
		t.Error("a gives a stream, and b does not")
	}
	a.register("two")
	wantNodes(t, ps.Registry, "one@a.local yes, two@a.local yes")
	a.end()
	wantNodes(t, ps.Registry, "")
	a.start()
	wantNodes(t, ps.Registry, "one@a.local yes, two@a.local yes")
}

// TestRealRestart restarts a real epmd that keeps its registrations. Nothing is reported.
func TestRealRestart(t *testing.T) {
	a := newHost(t, "a", "127.0.1.2", 1)
	a.keeps = true
	a.register("one", "two")
	a.start()
	var log wait.Output
	had := func() int { // streams that have told of all nodes
		return strings.Count(log.String(), `msg="stream from the epmd of a host" host=a.local`)
	}
	ps := newPeers(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ps.Configure([]netip.AddrPort{a.addr}, nil)
	run(t, ps)
	wantNodes(t, ps.Registry, "one@a.local yes, two@a.local yes")
	if n := ps.Registry.Nodes()[0]; n.Origin != registry.Peer {
		t.Errorf("got origin %v", n.Origin)
	}
	changes := ps.Registry.Subscribe()
	changes.Take()
	for range 3 {
		was := had()
		a.end()
		a.start()
		wait.Until(t, "another stream", func() error {
			if had() == was {
				return fmt.Errorf("%d so far", was)
			}
			return nil
		})
	}
	a.register("three")
	wantNodes(t, ps.Registry, "one@a.local yes, three@a.local yes, two@a.local yes")
	if events := changes.Take().Events; len(events) != 1 {
		t.Errorf("got %d events", len(events))
	}
}
