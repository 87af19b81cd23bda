package way

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// TestRealWorld asks an epmd of ours that has a node of this host: its own nodes are no neighbours.
func TestRealWorld(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	reg := registry.New("hosta.local", registry.OldNames)
	if _, err := reg.Register(registry.Node{Name: "a", Port: 41000, Type: registry.Normal}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- epmd.NewServer(epmd.Config{Registry: reg}).Serve(ctx, l.(*net.TCPListener)) }()
	defer func() {
		cancel()
		<-served
	}()
	w := realWorld(at.Port())
	answer, from, err := w.lookup(t.Context(), []netip.AddrPort{at}, "a")
	if err != nil || from != at || answer.Port != 41000 {
		t.Errorf("lookup: %+v from %v, %v", answer, from, err)
	}
	if names, err := w.names(t.Context(), at); err != nil || len(names.Nodes) != 1 {
		t.Errorf("names: %+v, %v", names, err)
	}
	if list, err := w.neighbours(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("neighbours: %+v, %v; want none", list, err)
	}
	if addrs, err := w.addresses(t.Context(), "127.0.0.1"); err != nil || !slices.Equal(addrs, []netip.Addr{at.Addr()}) {
		t.Errorf("addresses: %v, %v", addrs, err)
	}
}
