package owner

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// listenAt listens with a real socket until the test ends.
func listenAt(t *testing.T, network, address string) uint16 {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestFindListeners(t *testing.T) {
	want := make(map[uint16]string)
	for _, tt := range []struct{ network, address, want string }{
		{"tcp4", "127.0.0.1:0", "[127.0.0.1]"}, {"tcp4", "0.0.0.0:0", "[0.0.0.0]"}, {"tcp4", "127.0.0.2:0", "[127.0.0.2]"},
		{"tcp6", "[::1]:0", "[::1]"}, {"tcp6", "[::]:0", "[::]"}, {"tcp", ":0", "[0.0.0.0 ::]"},
	} {
		want[listenAt(t, tt.network, tt.address)] = tt.want
	}
	both := listenAt(t, "tcp4", "127.0.0.1:0")
	listenAt(t, "tcp6", fmt.Sprintf("[::1]:%d", both))
	want[both] = "[127.0.0.1 ::1]"
	mapped := bindMapped(t)
	want[mapped] = "[127.0.0.1]"
	closed := listenAt(t, "tcp4", "127.0.0.1:0")
	listenAt(t, "tcp4", fmt.Sprintf("127.0.0.3:%d", closed))
	want[closed] = "[127.0.0.1 127.0.0.3]"
	want[1] = "[]"

	var ports []uint16
	for port := range want {
		ports = append(ports, port)
	}
	for chunk := range slices.Chunk(ports, fewPorts) { // asked for one by one, and all at once
		checkListeners(t, chunk, want)
	}
	checkListeners(t, ports, want)
}

func checkListeners(t *testing.T, ports []uint16, want map[uint16]string) {
	t.Helper()
	got, err := FindListeners(ports)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(ports) {
		t.Errorf("got %d ports, want %d: %v", len(got), len(ports), got)
	}
	for _, port := range ports {
		if s := fmt.Sprint(got[port]); s != want[port] {
			t.Errorf("of %d ports, %d: got %s, want %s", len(ports), port, s, want[port])
		}
	}
}

// bindMapped listens on 127.0.0.1 with an IPv6 socket.
func bindMapped(t *testing.T) uint16 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	addr := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: addr}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(name.(*unix.SockaddrInet6).Port)
}

// TestFindListenersMany has more sockets listen than fit into one datagram of the kernel's.
func TestFindListenersMany(t *testing.T) {
	var ports []uint16
	for range 500 {
		ports = append(ports, listenAt(t, "tcp4", "127.0.0.1:0"))
	}
	got, err := FindListeners(ports)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports { // at which others may listen too, at addresses of their own
		if !slices.Contains(got[port], netip.MustParseAddr("127.0.0.1")) {
			t.Errorf("port %d: got %v", port, got[port])
		}
	}
}

func FuzzAddListeners(f *testing.F) {
	for _, tt := range diagTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		found := map[uint16][]netip.Addr{37478: nil, 50740: nil}
		messages, _ := parseAnswer(b, 7)
		addListeners(messages, found)
		for _, addrs := range found {
			for _, a := range addrs {
				if !a.IsValid() {
					t.Errorf("%x: address %v", b, a)
				}
			}
		}
	})
}

func BenchmarkFindListeners(b *testing.B) {
	for b.Loop() {
		if _, err := FindListeners([]uint16{4369}); err != nil {
			b.Fatal(err)
		}
	}
}
