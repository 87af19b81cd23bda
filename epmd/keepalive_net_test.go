package epmd

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"

	"github.com/goerlang/eclus/test/wait"
)

// TestAddressGone registers a node over an address that then goes away. Its name is free again. A
// node of loopback stays.
func TestAddressGone(t *testing.T) {
	need.Root(t)
	need.Program(t, "ip")
	runtime.LockOSThread() // for good: the thread ends with the test, and its namespace
	need.Possible(t, unix.Unshare(unix.CLONE_NEWNET))
	const addr = "198.51.100.1"
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", addr + "/32", "dev", "lo"}} {
		wait.Must(t, ip(args...))
	}
	l, err := listen("0.0.0.0:0")
	wait.Must(t, err)
	reg := registry.New("test.local", 0)
	s := NewServer(Config{Registry: reg})
	s.nodeAlive = KeepAlive{Idle: time.Second, Interval: time.Second, Timeout: 2 * time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	defer func() {
		cancel()
		wait.Must(t, <-ended)
	}()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	for _, at := range []string{addr, "127.0.0.1"} {
		dial(t, netip.AddrPortFrom(netip.MustParseAddr(at), port)).register(at, 6)
	}
	wait.Must(t, ip("address", "delete", addr+"/32", "dev", "lo"))
	wait.True(t, "the name is free again", func() bool { return reg.Lookup(addr) == nil })
	if reg.Lookup("127.0.0.1") == nil {
		t.Error("the node of loopback has gone too")
	}
}
