package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

func TestFirstOpen(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open, closed := l.Addr().(*net.TCPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:1")
	if at, err := FirstOpen(t.Context(), []netip.AddrPort{closed, open}); at != open || err != nil {
		t.Errorf("got %v, %v; want %v", at, err, open)
	}
	l.Close()
	if at, err := FirstOpen(t.Context(), []netip.AddrPort{closed, open}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, %v; want connections refused", at, err)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err             error
		timeout, closed bool
	}{
		{context.DeadlineExceeded, true, false},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, true, false},
		{&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}, true, false},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, false, true},
		{io.ErrUnexpectedEOF, false, true},
		{net.ErrClosed, false, true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, false, false},
		{context.Canceled, false, false},
	} {
		if timeout, closed := IsTimeout(tt.err), IsClosed(tt.err); timeout != tt.timeout || closed != tt.closed {
			t.Errorf("%v: timeout %v, closed %v; want %v, %v", tt.err, timeout, closed, tt.timeout, tt.closed)
		}
	}
}
