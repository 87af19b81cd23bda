// Package tcp finds out whether TCP ports are open, and sorts the errors of connections.
//
// It starts no goroutine that outlives a call.
package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	"github.com/goerlang/eclus/epmd"
)

// FirstOpen returns the first address that takes a connection, which is closed at once.
func FirstOpen(ctx context.Context, addrs []netip.AddrPort) (netip.AddrPort, error) {
	return epmd.FirstOf(ctx, addrs, func(ctx context.Context, at netip.AddrPort) (netip.AddrPort, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
		if err != nil {
			return netip.AddrPort{}, err
		}
		return at, conn.Close()
	}, func(netip.AddrPort) {})
}

// IsTimeout reports whether err says that something took longer than it was given.
func IsTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// IsClosed reports whether the other side has ended a connection.
func IsClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
