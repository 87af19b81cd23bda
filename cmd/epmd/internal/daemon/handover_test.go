package daemon

import (
	"context"
	"net"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/need"
)

// TestAliveCheckAbsent checks a listener whose address no interface has.
func TestAliveCheckAbsent(t *testing.T) {
	need.Root(t)
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
