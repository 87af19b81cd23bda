package holders

import (
	"net"
	"net/netip"
	"testing"

	"github.com/goerlang/eclus/registry"
)

// enter registers a node over a connection of this process with itself.
func enter(t *testing.T, reg *registry.Registry, name string) *registry.Registration {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	node, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	n := registry.Node{Name: name, Port: 41233, Addresses: []netip.Addr{peer.Addr()}, PeerPort: peer.Port()}
	if err := raw.Control(func(fd uintptr) { n.FD = int32(fd) }); err != nil {
		t.Fatal(err)
	}
	r, err := reg.Register(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOtherConnection registers a node whose descriptor is no connection any more.
func TestOtherConnection(t *testing.T) {
	reg := registry.New("hosta.local", 0)
	r := enter(t, reg, "a")
	stale := reg.Node(r)
	reg.Unregister(r)
	if c, ok := connection(reg, stale); ok {
		t.Errorf("connection %v of a node that has gone", c)
	}
	enter(t, reg, "a")
	if c, ok := connection(reg, stale); ok {
		t.Errorf("connection %v of a node whose name is another's by now", c)
	}
}
