package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// absent is an address that no host has.
const absent = "192.0.2.1"

func addressesOf(list string) (addrs []netip.Addr) {
	for word := range strings.FieldsSeq(list) {
		addrs = append(addrs, netip.MustParseAddr(word))
	}
	return addrs
}

// TestBind listens on all addresses or on none. After an error the port is free again.
func TestBind(t *testing.T) {
	for _, tt := range []struct {
		addresses, want string // PORT is the port
		err             string
	}{
		{"", "0.0.0.0:PORT,[::]:PORT", ""},
		{"127.0.0.1", "127.0.0.1:PORT,[::1]:PORT", ""},
		{"0.0.0.0", "[::1]:PORT,0.0.0.0:PORT", ""},
		{"127.0.0.2 127.0.0.2", "127.0.0.1:PORT,[::1]:PORT,127.0.0.2:PORT", ""},
		{"127.0.0.2 " + absent, "", "failed to bind on ipaddr 192.0.2.1: Cannot assign requested address"},
	} {
		port := freePort(t)
		o := Options{Port: port, Addresses: addressesOf(tt.addresses)}
		for range 2 {
			lns, err := bind(t.Context(), o, slog.New(slog.DiscardHandler))
			got := strings.ReplaceAll(addresses(lns), fmt.Sprint(port), "PORT")
			withoutIPv6 := strings.NewReplacer(",[::]:PORT", "", ",[::1]:PORT", "", "[::1]:PORT,", "").Replace(tt.want)
			if got != tt.want && got != withoutIPv6 || fmt.Sprint(err) != tt.err && (err != nil || tt.err != "") {
				t.Errorf("%q: %s, %v; want %s, %q", tt.addresses, got, err, tt.want, tt.err)
			}
			for _, l := range lns {
				l.Close()
			}
		}
	}
}

// TestBindTaken finds something at one of the addresses. Then it listens at none.
func TestBindTaken(t *testing.T) {
	port := freePort(t)
	other, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.3:%d", port))
	wait.Must(t, err)
	o := Options{Port: port, Addresses: addressesOf("127.0.0.2 127.0.0.3")}
	lns, err := bind(t.Context(), o, slog.New(slog.DiscardHandler))
	if lns != nil || !errors.Is(err, errTaken) || err.Error() != "there is already a epmd running on 127.0.0.3" {
		t.Errorf("got %s, %v", addresses(lns), err)
	}
	wait.Must(t, other.Close())
	lns, err = bind(t.Context(), o, slog.New(slog.DiscardHandler))
	wait.Must(t, err)
	for _, l := range lns {
		l.Close()
	}
}

// TestBindError has the words of OTP's epmd for the system's errors. Others stay as they are.
func TestBindError(t *testing.T) {
	addr := netip.MustParseAddr("::1")
	other := errors.New("context canceled")
	for _, tt := range []struct {
		err             error
		want            string
		isStock, absent bool
	}{
		{unix.EACCES, "failed to bind on ipaddr ::1: Permission denied", true, false},
		{unix.EADDRNOTAVAIL, "failed to bind on ipaddr ::1: Cannot assign requested address", true, true},
		{unix.EAFNOSUPPORT, "failed to bind on ipaddr ::1: Address family not supported by protocol", true, true},
		{unix.EPROTONOSUPPORT, "failed to bind on ipaddr ::1: Protocol not supported", true, true},
		{unix.EADDRINUSE, "there is already a epmd running on ::1", false, false},
		{other, "context canceled", false, false},
	} {
		err := bindError(addr, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", tt.err)})
		if tt.err == other {
			err = bindError(addr, other)
		}
		if err.Error() != tt.want || errors.As(err, new(stockerror.Error)) != tt.isStock || isAbsent(err) != tt.absent {
			t.Errorf("%v: got %T %q, absent %v; want %q", tt.err, err, err, isAbsent(err), tt.want)
		}
	}
}

// TestIsLoopbackOnly looks at where sockets listen.
func TestIsLoopbackOnly(t *testing.T) {
	for list, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1 127.0.0.2": true, "0.0.0.0": false, "127.0.0.1 0.0.0.0": false,
	} {
		var lns []*net.TCPListener
		for _, addr := range addressesOf(list) {
			l, err := listen(t.Context(), netip.AddrPortFrom(addr, 0))
			wait.Must(t, err)
			defer l.Close()
			lns = append(lns, l)
		}
		if got := isLoopbackOnly(lns); got != want {
			t.Errorf("%s: %v, want %v", list, got, want)
		}
	}
}

// TestListenersOf goes on with sockets that listen, and not with anything else.
func TestListenersOf(t *testing.T) {
	l, err := listen(t.Context(), netip.AddrPortFrom(loopback[0], 0))
	wait.Must(t, err)
	file, err := l.File()
	wait.Must(t, err)
	wait.Must(t, l.Close())
	lns, err := listenersOf([]*os.File{file})
	wait.Must(t, err)
	defer lns[0].Close()
	if got := lns[0].Addr().String(); got != l.Addr().String() {
		t.Errorf("listens on %s; want %v", got, l.Addr())
	}
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is open: %v", err)
	}
	null, err := os.Open(os.DevNull)
	wait.Must(t, err)
	defer null.Close()
	if _, err := listenersOf([]*os.File{null}); err == nil || !strings.HasPrefix(err.Error(), "listen on /dev/null again: ") {
		t.Errorf("got %v", err)
	}
}

// TestAliveCheck looks a name up in an epmd, and again when that has ended.
func TestAliveCheck(t *testing.T) {
	l, err := listen(t.Context(), netip.AddrPortFrom(loopback[0], 0))
	wait.Must(t, err)
	check := aliveCheck([]*net.TCPListener{l})
	server := epmd.NewServer(epmd.Config{Registry: registry.New("hosta.local", registry.OldNames)})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	if err := check(wait.Soon(t)); err != nil {
		t.Errorf("of an epmd that answers: %v", err)
	}
	cancel()
	wait.Must(t, <-served)
	if err := check(wait.Soon(t)); err == nil {
		t.Error("an epmd that has ended is well")
	}
}

// TestShortageChanged does not block, however often it is called before anybody looks.
func TestShortageChanged(t *testing.T) {
	s := &service{shortage: make(chan struct{}, 1)}
	for range 3 {
		s.shortageChanged()
	}
	<-s.shortage
	select {
	case <-s.shortage:
		t.Error("looked at twice")
	default:
	}
}

// TestServeLogs has a daemon write who comes. A SIGHUP finds a program that can't go on. The daemon
// says so and goes on. SIGTERM ends it.
func TestServeLogs(t *testing.T) {
	var log wait.Output
	o := options(freePort(t))
	o.Debug, o.Stderr = 1, &log
	o.Args = []string{"epmd", "-test.run=^$"} // makes the program that is tested do nothing
	o.HostsFile = filepath.Join(t.TempDir(), ".hosts.erlang")
	o.EtcHosts = filepath.Join(t.TempDir(), "hosts")
	client, _, served := start(t, o)
	says := func(text string) {
		t.Helper()
		wait.True(t, text, func() bool { return strings.Contains(log.String(), text) })
	}
	says(fmt.Sprintf("msg=listening addresses=127.0.0.1:%d", o.Port))
	wait.Must(t, syscall.Kill(os.Getpid(), syscall.SIGHUP))
	says(`msg="program not replaced" err="rehearse `)
	if _, err := client.Names(t.Context()); err != nil {
		t.Errorf("after a SIGHUP: %v", err)
	}
	wait.Must(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// TestServeAtOnce starts many daemons at one port at once. One serves, and all others find it.
func TestServeAtOnce(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	ctx, cancel := context.WithCancel(t.Context())
	o := options(freePort(t))
	o.Daemon = false
	const count = 8
	served := make(chan error, count)
	for range count {
		go func() { served <- Serve(ctx, o) }()
	}
	for range count - 1 {
		wait.Must(t, <-served)
	}
	cancel()
	wait.Must(t, <-served)
}
