package nodeserver

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// serve runs an epmd of ours, and what makes it a node. The nodes that it has told of come over
// known.
func serve(t *testing.T, reg *registry.Registry) (s *Server, known chan *registry.Node) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	access, err := epmd.ParseAccess("local")
	if err != nil {
		t.Fatal(err)
	}
	known = make(chan *registry.Node, 8)
	s = New(Options{
		Registry: reg, Access: access, Port: port, Cookie: "secret",
		Address: netip.MustParseAddr("127.0.0.1"),
		Host:    func() string { return "hosta" },
		Known:   func(n *registry.Node) { known <- n },
		Log:     slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	config := epmd.Config{Registry: reg, Port: port, Own: s.Owns}
	go func() { ended <- epmd.NewServer(config).Serve(ctx, l.(*net.TCPListener)) }()
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-ended
	})
	return s, known
}

// await returns what comes over a channel.
func await(t *testing.T, known chan *registry.Node) *registry.Node {
	t.Helper()
	select {
	case n := <-known:
		return n
	case <-time.After(wait.Patience):
		t.Fatalf("no node for %v", wait.Patience)
		return nil
	}
}

// connect connects to the epmd as a node.
func connect(t *testing.T, n *registry.Node, cookie node.Cookie) (*node.Conn, error) {
	t.Helper()
	d := &node.Dialer{Name: "us@127.0.0.1", Cookie: cookie}
	c, err := d.DialAddr(t.Context(), "epmd@127.0.0.1", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.Port))
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// TestServe asks the epmd as a node.
func TestServe(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	other := registry.Node{
		Name: "a", Port: 41000, Type: registry.Normal, Since: since, FD: -1,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
	}
	if _, err := reg.Register(other); err != nil {
		t.Fatal(err)
	}
	_, known := serve(t, reg)
	own := await(t, known)
	if own.Node != "epmd@hosta.local" || own.Type != registry.Hidden || !own.Sure {
		t.Errorf("is known as %+v", own)
	}
	c, err := connect(t, own, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	raw, err := c.CallServer(t.Context(), "epmd", etf.Atom("nodes"))
	var nodes []nodeTerm
	if err != nil || raw.Unmarshal(&nodes) != nil || len(nodes) != 2 {
		t.Fatalf("nodes %+v, %v", nodes, err)
	}
	at := slices.IndexFunc(nodes, func(n nodeTerm) bool { return n.Name == "a" })
	if at < 0 {
		t.Fatalf("nodes %+v; want a among them", nodes)
	}
	if n := nodes[at]; n.Port != 41000 || n.Type != "normal" || n.Origin != "local" || n.Host != "hosta.local" {
		t.Errorf("a is %+v", n)
	}
}

// TestServeOther asks for what the epmd does not answer.
func TestServeOther(t *testing.T) {
	_, known := serve(t, registry.New("hosta.local", registry.OldNames))
	own := await(t, known)
	c, err := connect(t, own, "secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, request := range []any{etf.Atom("stop"), "nodes", etf.Tuple{etf.Atom("nodes"), 1}} {
		raw, err := c.CallServer(t.Context(), "epmd", request)
		var answer struct {
			_             struct{} `erl:",tuple"`
			Error, Reason etf.Atom
		}
		if err != nil || raw.Unmarshal(&answer) != nil || answer.Error != "error" || answer.Reason != "badarg" {
			t.Errorf("%v: answer %+v, %v; want {error, badarg}", request, answer, err)
		}
	}
	if _, err := connect(t, own, "wrong"); err == nil {
		t.Error("connected with a wrong cookie")
	}
}

// TestServeTaken finds its name taken, and is a node once it is free.
func TestServeTaken(t *testing.T) {
	reg := registry.New("hosta.local", registry.OldNames)
	taken, err := reg.Register(registry.Node{Name: "epmd", Port: 41000, Type: registry.Normal, FD: -1})
	if err != nil {
		t.Fatal(err)
	}
	s, known := serve(t, reg)
	if s.peer.Load() != nil {
		t.Error("is a node under a name that is taken")
	}
	reg.Unregister(taken)
	own := await(t, known)
	if now := reg.Lookup("epmd"); now == nil || now.Port != own.Port || own.Port == 41000 {
		t.Errorf("registered is %+v, told of %+v", now, own)
	}
}
