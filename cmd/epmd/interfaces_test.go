package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsOnInterface(t *testing.T) {
	interfaces := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"),
		netip.MustParsePrefix("192.168.1.5/24"),
		netip.MustParsePrefix("fe80::1/64"),
	}
	for addr, want := range map[string]bool{
		"127.0.0.1":          true,
		"127.0.0.2":          true,
		"::1":                false, // IPv6 may have been switched off
		"192.168.1.5":        true,
		"::ffff:192.168.1.5": true,
		"192.168.1.6":        false, // another host's, or this one's until its lease ended
		"fe80::1%eth0":       true,
		"fe80::2%eth0":       false,
	} {
		if got := isOnInterface(netip.MustParseAddr(addr), interfaces); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

func TestInterfacePrefixes(t *testing.T) {
	prefixes, err := interfacePrefixes()
	if err != nil || !isOnInterface(netip.AddrFrom4([4]byte{127, 0, 0, 1}), prefixes) {
		t.Errorf("got %v, %v; want loopback among them", prefixes, err)
	}
}

// TestAliveCheckAbsent checks a listener whose address no interface has, on a host without any.
func TestAliveCheckAbsent(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("not root")
	}
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its network namespace
		errs <- checkAbsent(t.Context())
	}()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

func checkAbsent(ctx context.Context) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		if ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	l, err := config.Listen(ctx, "tcp4", "198.51.100.5:0")
	if err != nil {
		return err
	}
	defer l.Close()
	return aliveCheck([]*net.TCPListener{l.(*net.TCPListener)})(ctx)
}

// TestAliveCheckMute checks a listener that answers nobody.
func TestAliveCheckMute(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if err := aliveCheck([]*net.TCPListener{l.(*net.TCPListener)})(t.Context()); err == nil {
		t.Error("found well")
	}
}
