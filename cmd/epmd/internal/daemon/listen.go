package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/stockerror"
	"github.com/goerlang/eclus/systemd"
)

// errTaken is the error of a port on which an epmd listens already. That is as good as listening.
var errTaken = errors.New("there is already a epmd running")

// inherit returns what this process was started with. If it was started with no sockets, it binds
// those of the flags.
func inherit(ctx context.Context, o Options, log *slog.Logger) (systemd.Inherited, error) {
	in, err := systemd.Inherit(log)
	switch {
	case err != nil || len(in.Listeners) > 0:
		return in, err
	case o.Systemd:
		return in, stockerror.Errorf("systemd provides no sockets")
	}
	in.Listeners, err = bind(ctx, o, log)
	return in, err
}

// bind listens on all addresses that o names, or on none.
func bind(ctx context.Context, o Options, log *slog.Logger) ([]*net.TCPListener, error) {
	var bound []*net.TCPListener
	var absent error
	for _, p := range places(o.Addresses) {
		l, err := listen(ctx, netip.AddrPortFrom(p.addr, o.Port))
		if err == nil {
			bound = append(bound, l)
			continue
		}
		err = bindError(p.addr, err)
		if p.implied && isAbsent(err) {
			log.Info("not listening there", "address", p.addr, "err", err)
			absent = cmp.Or(absent, err)
			continue
		}
		for _, l := range bound {
			l.Close()
		}
		return nil, err
	}
	if len(bound) == 0 {
		return nil, absent
	}
	return bound, nil
}

// place is an address to listen on. The host may lack one that is implied, not named by the user.
// It may be without IPv4 or IPv6, or with its loopback interface down.
type place struct {
	addr    netip.Addr
	implied bool
}

// places returns where to listen: everywhere, or on loopback and the list. A loopback address is
// left out that another in the list covers.
func places(list []netip.Addr) []place {
	v4, v6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if len(list) == 0 {
		return []place{{v4, true}, {v6, true}}
	}
	var all []place
	imply := func(loopback, everywhere netip.Addr) {
		if !slices.Contains(list, everywhere) {
			all = append(all, place{loopback, !slices.Contains(list, loopback)})
		}
	}
	imply(netip.AddrFrom4([4]byte{127, 0, 0, 1}), v4)
	imply(netip.IPv6Loopback(), v6)
	for _, addr := range list {
		if !slices.ContainsFunc(all, func(p place) bool { return p.addr == addr }) {
			all = append(all, place{addr, false})
		}
	}
	return all
}

// listen binds one address, IPv4 or IPv6 alone. It is plain TCP. Package net would choose Multipath
// TCP, which costs every lookup something and gives epmd nothing.
func listen(ctx context.Context, addr netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp6"
	if addr.Addr().Is4() {
		network = "tcp4"
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// bindError puts an error of listen in the words of OTP's epmd. It may return errTaken.
func bindError(addr netip.Addr, err error) error {
	var errno unix.Errno
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w on %v", errTaken, addr)
	case errors.As(err, &errno):
		return stockerror.Error{Text: fmt.Sprintf("failed to bind on ipaddr %v: %s", addr, stockerror.Strerror(errno)), Cause: errno}
	}
	return err
}

// isAbsent reports whether an address could not be bound because the host has none of its kind.
func isAbsent(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// isLoopbackOnly reports whether no other host can reach any of the listeners.
func isLoopbackOnly(listeners []*net.TCPListener) bool {
	return !slices.ContainsFunc(listeners, func(l *net.TCPListener) bool {
		return !l.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap().IsLoopback()
	})
}
