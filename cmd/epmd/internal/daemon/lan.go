package daemon

import (
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/registry"
)

// otherEPMDs are the epmds of other hosts.
type otherEPMDs interface {
	avahi.EPMDs
	avahi.Streams
}

// newLAN returns as much of LAN discovery as is wanted, for an epmd on that port. It tells
// epmds which are announced, and they know whose nodes need not be resolved.
func newLAN(o Options, reg *registry.Registry, port uint16, lns []*net.TCPListener, epmds otherEPMDs, log *slog.Logger) *avahi.Discovery {
	options := avahi.Options{
		Browse:     o.Browse,
		Interfaces: o.Interfaces,
		Port:       port,
		Version:    o.Version,
		EPMDs:      epmds,
		Streams:    epmds,
	}
	switch {
	case !o.Publish:
	case isLoopbackOnly(lns):
		options.Private = "epmd listens on loopback only"
	case o.Access.LocalOnly():
		options.Private = "-allow local"
	default:
		options.Publish, options.Listens = true, listensOn(lns)
	}
	if options.Private != "" {
		log.Info("not published", "reason", options.Private)
	}
	return avahi.New(reg, options, log)
}

// listensOn returns the addresses at which listeners listen, without zones. A socket on :: that
// takes IPv4 too has both.
func listensOn(listeners []*net.TCPListener) []netip.Addr {
	var addrs []netip.Addr
	for _, l := range listeners {
		addr := l.Addr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
		addrs = append(addrs, addr)
		if addr == netip.IPv6Unspecified() && takesIPv4(l) {
			addrs = append(addrs, netip.IPv4Unspecified())
		}
	}
	return addrs
}

// takesIPv4 reports whether a socket of IPv6 takes connections of IPv4 too.
func takesIPv4(l *net.TCPListener) bool {
	only := 1
	if raw, err := l.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); err == nil {
				only = v
			}
		})
	}
	return only == 0
}
