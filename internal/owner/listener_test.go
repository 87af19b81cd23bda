package owner

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/need"
)

// self is this process as one that listens.
func self(t *testing.T) Listener {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	pid := int32(os.Getpid())
	return Listener{
		Owner:   Owner{Foreign: true, PID: pid, UID: uint32(os.Geteuid()), Unit: unitOfProcess(pid)},
		Program: strings.TrimSpace(string(name)),
	}
}

// listening returns a listener and its port.
func listening(t *testing.T, network, address string) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen(network, address)
	need.Possible(t, err)
	t.Cleanup(func() { l.Close() })
	return l, uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestFindListener(t *testing.T) {
	for _, tt := range []struct {
		name, network, listen, at string
		none                      bool
	}{
		{name: "IPv4", network: "tcp4", listen: "127.0.0.1:0", at: "127.0.0.1"},
		{name: "IPv6", network: "tcp6", listen: "[::1]:0", at: "::1"},
		{name: "all of IPv4", network: "tcp4", listen: ":0", at: "127.0.0.1"},
		{name: "all of IPv6", network: "tcp6", listen: ":0", at: "::1"},
		{name: "all of both", network: "tcp", listen: ":0", at: "127.0.0.1"},
		{name: "IPv6 only", network: "tcp6", listen: ":0", at: "127.0.0.1", none: true},
		{name: "other address", network: "tcp4", listen: "127.0.0.2:0", at: "127.0.0.1", none: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, port := listening(t, tt.network, tt.listen)
			got, err := FindListener(t.Context(), netip.AddrPortFrom(netip.MustParseAddr(tt.at), port))
			want := self(t)
			switch {
			case err != nil:
				t.Error(err)
			case tt.none && got != nil:
				t.Errorf("got %+v; want nobody", got)
			case !tt.none && (got == nil || *got != want):
				t.Errorf("got %+v; want %+v", got, want)
			}
		})
	}
}

// TestFindListenerConnected asks for a port at which there are connections, but nobody listens any
// more.
func TestFindListenerConnected(t *testing.T) {
	l, port := listening(t, "tcp4", "127.0.0.1:0")
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	l.Close()
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	if got, err := FindListener(t.Context(), at); got != nil || err != nil {
		t.Errorf("got %+v, %v; want nobody", got, err)
	}
}

// TestFindListenerOtherUser finds a process of another user than the socket that it has inherited.
func TestFindListenerOtherUser(t *testing.T) {
	need.Root(t)
	l, port := listening(t, "tcp4", "127.0.0.1:0")
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := startHolder(t, "keep the socket", asNobody(), file)
	want := self(t)
	want.PID, want.UID = int32(h.cmd.Process.Pid), nobody
	want.Program = "exe" // how startHolder calls it
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	if got, err := FindListener(t.Context(), at); err != nil || got == nil || *got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// TestFindListenerInterrupted is told by the kernel alone.
func TestFindListenerInterrupted(t *testing.T) {
	_, port := listening(t, "tcp4", "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := FindListener(ctx, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if err != nil || got == nil || got.PID != 0 || got.UID != uint32(os.Geteuid()) {
		t.Errorf("got %+v, %v; want user %d alone", got, err, os.Geteuid())
	}
}
