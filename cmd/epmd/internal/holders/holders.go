// Package holders finds the processes that hold the registrations of this host's nodes.
//
// It reads sockets and /proc by package systemd, and tells the registry. Set blocks until that is done or
// its context ends; it starts no goroutines.
package holders

import (
	"context"
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/systemd"
)

// Set finds the processes behind those nodes that are of this host, and tells the registry. It stops looking
// when ctx ends, and reports whether it has looked.
func Set(ctx context.Context, reg *registry.Registry, nodes []*registry.Node, log *slog.Logger) bool {
	var local []*registry.Node
	var conns []systemd.Connection
	for _, n := range nodes {
		if c, ok := connection(reg, n); ok {
			local, conns = append(local, n), append(conns, c)
		}
	}
	if len(conns) == 0 {
		return false
	}
	holders, err := systemd.FindHolders(ctx, conns)
	if err != nil {
		log.Debug("holders of names not found", "err", err)
		return false
	}
	for i, h := range holders {
		if h != nil {
			reg.SetHolder(local[i], h)
		}
	}
	return true
}

// connection returns the connection that a node of this host has registered by.
func connection(reg *registry.Registry, n *registry.Node) (systemd.Connection, bool) {
	if n.Origin != registry.Local || n.PeerPort == 0 {
		return systemd.Connection{}, false
	}
	sa, err := unix.Getsockname(int(n.FD))
	// The descriptor is that of another connection by now if the node has gone.
	if now := reg.Lookup(n.Name); err != nil || now == nil || now.ID != n.ID {
		return systemd.Connection{}, false
	}
	return systemd.Connection{Local: addrPort(sa), Peer: n.Peer()}, true
}

// addrPort returns a socket address in Go's form.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
