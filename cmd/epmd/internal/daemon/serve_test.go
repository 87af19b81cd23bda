package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/daemonlog"
	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/systemd"
	"github.com/goerlang/eclus/test/wait"
)

// loopback is where the daemons of the tests listen.
var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// freePort returns a port for the test alone. A socket that does not listen holds it until the test
// ends: the kernel gives the port to nobody who takes any. A daemon can listen there all the same.
func freePort(t *testing.T) uint16 {
	t.Helper()
	family, everywhere := unix.AF_INET6, unix.Sockaddr(new(unix.SockaddrInet6)) // and IPv4
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		family, everywhere = unix.AF_INET, new(unix.SockaddrInet4)
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	wait.Must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	wait.Must(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	wait.Must(t, unix.Bind(fd, everywhere))
	at, err := unix.Getsockname(fd)
	wait.Must(t, err)
	if v4, ok := at.(*unix.SockaddrInet4); ok {
		return uint16(v4.Port)
	}
	return uint16(at.(*unix.SockaddrInet6).Port)
}

// options returns those of a daemon that another process started, without LAN discovery.
func options(port uint16) Options {
	return Options{
		Args: []string{"epmd"}, Stderr: io.Discard, Port: port, Addresses: loopback, Daemon: true,
		HostName: func() string { return "hosta" }, Version: "1.2.3", Identify: true,
	}
}

// start runs a daemon until the test ends. It returns when the daemon is ready. served yields the
// error of Serve.
func start(t *testing.T, o Options) (client *epmd.Client, stop func(), served chan error) {
	t.Helper()
	conn, starter := net.Pipe()
	defer conn.Close()
	o.Starter = starter
	t.Setenv("NOTIFY_SOCKET", "")
	ctx, cancel := context.WithCancel(context.Background())
	served = make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		served <- Serve(ctx, o)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	said := make([]byte, 4096)
	n, err := conn.Read(said)
	if err != nil || !bytes.Contains(said[:n], []byte("READY=1")) {
		t.Fatalf("notified %q, %v; want READY=1", said[:n], err)
	}
	return epmd.NewClient(netip.AddrPortFrom(loopback[0], o.Port)), cancel, served
}

// TestServe registers a node with a daemon and ends the daemon by its context.
func TestServe(t *testing.T) {
	client, stop, served := start(t, options(freePort(t)))
	req := epmd.AliveReq{Port: 41000, Type: registry.Normal, High: 6, Low: 5, Name: "a"}
	registration, err := client.Register(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer registration.Close()
	names, err := client.Names(t.Context())
	if err != nil || len(names.Nodes) != 1 || names.Nodes[0].Name != "a" {
		t.Errorf("names %+v, %v; want a", names, err)
	}
	if err := client.Stop(t.Context(), "a"); err == nil {
		t.Error("stopped a node without -relaxed_command_check")
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestServeKilled ends a daemon by KILL_REQ.
func TestServeKilled(t *testing.T) {
	client, _, served := start(t, options(freePort(t)))
	if err := client.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestServeTaken starts a daemon where one runs already. That is no error.
func TestServeTaken(t *testing.T) {
	o := options(freePort(t))
	start(t, o)
	if err := Serve(t.Context(), o); err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestServeNode has the daemon be a node too. That keeps nobody from ending it.
func TestServeNode(t *testing.T) {
	o := options(freePort(t))
	o.AsNode, o.NodeName, o.Cookie = true, "mine@127.0.0.1", "secret"
	client, _, served := start(t, o)
	lines, err := client.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for node := ""; node != o.NodeName; {
		line, err := lines.Next()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := line.Node(); err == nil {
			node = n.Node
		}
	}
	lines.Close()
	if err := client.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestServeErrors can't listen, for reasons that OTP's epmd has words for.
func TestServeErrors(t *testing.T) {
	absent := options(freePort(t))
	absent.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	withoutSockets := options(freePort(t))
	withoutSockets.Systemd = true
	for want, o := range map[string]Options{
		"failed to bind on ipaddr 192.0.2.1: Cannot assign requested address": absent,
		"systemd provides no sockets":                                         withoutSockets,
	} {
		err := Serve(t.Context(), o)
		var stock stockerror.Error
		if !errors.As(err, &stock) || stock.Text != want {
			t.Errorf("error %v; want %q", err, want)
		}
	}
}

// TestStatus says in a line how the daemon is doing.
func TestStatus(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log := daemonlog.Open(daemonlog.Options{Stderr: io.Discard})
	defer log.Close()
	o := options(0)
	o.Publish = true
	s := newService(o, systemd.Inherited{Listeners: []*net.TCPListener{l.(*net.TCPListener)}}, log)
	for i, want := range []string{"0 nodes registered", "1 node registered", "2 nodes registered"} {
		want += ", 0 on the LAN; LAN discovery off: epmd listens on loopback only"
		if got := s.status(); got != want {
			t.Errorf("status %q; want %q", got, want)
		}
		if _, err := s.reg.Register(registry.Node{Name: fmt.Sprint("n", i), Port: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for name, origin := range map[string]registry.Origin{"a": registry.LAN, "b": registry.Peer, "c": registry.Peer} {
		if err := s.reg.SetNeighbour(registry.Node{Name: name, Host: "hostb.local", Port: 1, Origin: origin}); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.status(), "3 nodes registered, 1 on the LAN, 2 elsewhere; LAN "; !strings.HasPrefix(got, want) {
		t.Errorf("status %q; want %q", got, want)
	}
}

// TestRestore takes over what earlier processes had registered, except what can't be.
func TestRestore(t *testing.T) {
	var log strings.Builder
	reg := registry.New("hosta.local", registry.OldNames)
	in := systemd.Inherited{
		LastID: 70,
		PeerID: [16]byte{15: 1},
		Kept: []systemd.Kept{
			{FD: -1, Node: registry.Node{ID: 7, Name: "a", Port: 41000, Creation: 3}},
			{FD: -1, Node: registry.Node{ID: 8, Name: "a", Port: 41001, Creation: 4}},
		},
	}
	restored := restore(reg, &in, slog.New(slog.NewTextHandler(&log, nil)))
	if n := reg.Lookup("a"); len(restored) != 1 || n == nil || n.Port != 41000 || n.Creation != 3 {
		t.Errorf("restored %d, a is %+v", len(restored), n)
	}
	if reg.PeerID() != in.PeerID {
		t.Errorf("peer ID %x; want %x", reg.PeerID(), in.PeerID)
	}
	for _, want := range []string{"registration not restored", "state restored"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("no %q in\n%s", want, &log)
		}
	}
}
