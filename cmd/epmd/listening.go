package main

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"eclus/avahi"
	"eclus/registry"
	"eclus/systemd"
)

// A node may register before it listens. It is looked at again after firstLook, then after pauses
// that double, until they would be longer than lastLook.
const (
	firstLook = 250 * time.Millisecond
	lastLook  = 32 * time.Second
)

// listening keeps the registry informed of where each node of this host listens, and of the addresses
// that this host has on a LAN: of what decides whether other hosts can reach the node.
type listening struct {
	reg        *registry.Registry
	interfaces []string // as -interface has them
	log        *slog.Logger

	closed map[uint64]*registry.Node // at whose ports nobody listens, by ID
	again  *time.Timer               // to the next look at them
	pause  time.Duration             // before that
	said   bool                      // that the kernel can't be asked
}

func newListening(reg *registry.Registry, interfaces []string, log *slog.Logger) *listening {
	return &listening{reg: reg, interfaces: interfaces, log: log, closed: make(map[uint64]*registry.Node)}
}

// run returns when ctx has ended.
func (l *listening) run(ctx context.Context) {
	links, err := avahi.WatchLinks()
	if err != nil {
		l.log.Warn("addresses that come and go are not noticed", "err", err)
	}
	defer links.Close()
	l.again = time.NewTimer(lastLook)
	defer l.again.Stop()
	l.readAddresses()
	nodes, changes := l.reg.Subscribe()
	defer func() { changes.Close() }()
	l.look(nodes)
	for {
		select {
		case <-ctx.Done():
			return
		case <-links.Changed():
			l.readAddresses()
		case <-l.again.C:
			l.lookAgain()
		case <-changes.Ready():
			events, behind := changes.Take()
			if behind != nil {
				clear(l.closed)
				nodes, changes = l.reg.Subscribe()
				l.look(nodes)
			}
			l.apply(events)
		}
	}
}

// readAddresses tells the registry the addresses that this host has now.
func (l *listening) readAddresses() {
	addrs, err := avahi.LANAddresses(l.interfaces)
	if err != nil {
		l.log.Debug("addresses not read", "err", err)
		return
	}
	l.reg.SetLANAddresses(addrs)
}

// apply looks at the nodes that have come.
func (l *listening) apply(events []registry.Event) {
	come := make(map[uint64]*registry.Node)
	for _, e := range events {
		switch e.Kind {
		case registry.Up:
			come[e.Node.ID] = e.Node
		case registry.Down:
			delete(come, e.Node.ID)
			delete(l.closed, e.Node.ID)
		}
	}
	l.look(slices.Collect(maps.Values(come)))
}

// look finds out where nodes of this host listen that nobody has looked at.
func (l *listening) look(nodes []*registry.Node) {
	nodes = slices.DeleteFunc(nodes, func(n *registry.Node) bool { return n.Origin != registry.Local || n.Listens != nil })
	if len(nodes) > 0 && l.find(nodes) {
		l.pause = firstLook
		l.again.Reset(l.pause)
	}
}

// lookAgain looks at the nodes that did not listen.
func (l *listening) lookAgain() {
	nodes := slices.Collect(maps.Values(l.closed))
	if l.pause *= 2; len(nodes) > 0 && l.find(nodes) && l.pause <= lastLook {
		l.again.Reset(l.pause)
	}
}

// find tells the registry where nodes listen, and reports whether one of them doesn't. Where the
// kernel can't be asked, nodes are taken to listen everywhere.
func (l *listening) find(nodes []*registry.Node) (closed bool) {
	var ports []uint16
	for _, n := range nodes {
		ports = append(ports, n.Port)
	}
	found, err := systemd.FindListeners(ports)
	if err != nil && !l.said {
		l.said = true
		l.log.Warn("not known where nodes listen: all count as reachable", "err", err)
	}
	for _, n := range nodes {
		addrs := found[n.Port]
		if err != nil {
			addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		}
		delete(l.closed, n.ID)
		if len(addrs) == 0 {
			l.closed[n.ID] = n
			closed = true
		}
		l.reg.SetListens(n, addrs)
	}
	return closed
}
