package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"eclus/registry"
	"eclus/systemd"
)

// An entry about a node waits at most for both times at their longest, and for the entries before it to be
// done with: half a second in all.
const (
	eventSettle    = 100 * time.Millisecond // a node gone within this time has no holder looked for
	maxEventSettle = 200 * time.Millisecond // the same where looking takes long
	maxHolderTime  = 150 * time.Millisecond // that looking may take
)

// events finds out which process is behind each node that registers, tells the registry, and writes to the log
// who comes and goes. Entries at level Info have these texts and keys, of which those in brackets may be missing:
//
//	node up, node down              [node] name port peer [pid] [uid] [unit], the last three if they were found out
//	neighbour up, neighbour down    [node] name host port [peer]
//	node named, neighbour named     the same, with node, once that is known or has changed
//
// node is the full name that the node itself has told, and name the alive name. The peer of a node is its end of the
// connection by which it registered, that of a neighbour its address.
type events struct {
	reg     *registry.Registry
	log     *slog.Logger
	known   []*registry.Node // at the beginning
	changes *registry.Subscription
	named   map[uint64]string // full name by ID of each node in the log or known at the beginning; "": not known yet
	took    time.Duration     // to find the last holders

	// arrived is told of each node of this host that has come, with its holder if that was found; partly says
	// that there was no time to look at everything.
	arrived func(n *registry.Node, partly bool)
}

// newEvents returns what writes of every change from now on. Nodes that are there already, which is to say
// restored, are not written of when they are found.
func newEvents(reg *registry.Registry, arrived func(*registry.Node, bool), log *slog.Logger) *events {
	e := &events{reg: reg, log: log, arrived: arrived, named: make(map[uint64]string)}
	e.known, e.changes = reg.Subscribe()
	for _, n := range e.known {
		e.named[n.ID] = fullName(n)
	}
	return e
}

// run returns when ctx has ended and what had happened before is in the log. It is called once.
func (e *events) run(ctx context.Context) {
	defer func() { e.changes.Close() }()
	e.findHolders(ctx, e.known)
	e.known = nil
	for {
		batch, err := e.next(ctx)
		if errors.Is(err, registry.ErrBehind) {
			batch = e.catchUp()
		} else if err != nil {
			return
		}
		e.findHolders(ctx, arrived(batch))
		e.write(batch)
	}
}

// fullName returns the full name that a node has told, or "".
func fullName(n *registry.Node) string {
	if !n.Sure {
		return ""
	}
	return n.Node
}

// next waits for nodes to come, to go or to tell their names, and returns that with all else that happens a little later: one
// wake-up and one look at the processes for however many come together. What had happened when ctx ended is still
// returned.
func (e *events) next(ctx context.Context) ([]registry.Event, error) {
	batch, err := e.changes.Next(ctx)
	if err != nil || !slices.ContainsFunc(batch, e.isNews) {
		return nil, err
	}
	pause(ctx, min(max(eventSettle, 4*e.took), maxEventSettle))
	more, _ := e.changes.Take() // its error is there again the next time
	return append(batch, more...), nil
}

// isNews reports whether something has come, has gone, or has a full name that is not in the log.
func (e *events) isNews(ev registry.Event) bool {
	name := fullName(ev.Node)
	return ev.Kind != registry.Changed || name != "" && name != e.named[ev.Node.ID]
}

// catchUp begins anew where more has happened than was kept. It returns the nodes that have come since and those
// that have told their names.
func (e *events) catchUp() []registry.Event {
	e.log.Warn("changes of nodes not logged: too many at once")
	nodes, changes := e.reg.Subscribe()
	e.changes = changes
	var batch []registry.Event
	named := make(map[uint64]string)
	for _, n := range nodes {
		ev := registry.Event{Kind: registry.Changed, Node: n}
		if name, found := e.named[n.ID]; found {
			named[n.ID] = name
		} else {
			ev.Kind = registry.Up
		}
		if e.isNews(ev) {
			batch = append(batch, ev)
		}
	}
	e.named = named
	slices.SortFunc(batch, func(a, b registry.Event) int { return cmp.Compare(a.Node.ID, b.Node.ID) })
	return batch
}

// arrived returns the nodes that have come and not gone again.
func arrived(batch []registry.Event) []*registry.Node {
	gone := make(map[uint64]bool)
	for _, ev := range batch {
		if ev.Kind == registry.Down {
			gone[ev.Node.ID] = true
		}
	}
	var nodes []*registry.Node
	for _, ev := range batch {
		if ev.Kind == registry.Up && !gone[ev.Node.ID] {
			nodes = append(nodes, ev.Node)
		}
	}
	return nodes
}

// findHolders finds the processes behind those nodes that are of this host, and tells the registry.
func (e *events) findHolders(ctx context.Context, nodes []*registry.Node) {
	begin := time.Now()
	looking, cancel := context.WithTimeout(ctx, maxHolderTime)
	defer cancel()
	if setHolders(looking, e.reg, nodes, e.log) {
		e.took = time.Since(begin)
	}
	for _, n := range nodes {
		if n.Origin == registry.Local {
			e.arrived(n, looking.Err() != nil)
		}
	}
}

// setHolders finds the processes behind those nodes that are of this host, and tells the registry. It reports
// whether it has looked.
func setHolders(ctx context.Context, reg *registry.Registry, nodes []*registry.Node, log *slog.Logger) bool {
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

// write writes what has happened to the log. Of what was known of a node meanwhile, the last counts.
func (e *events) write(batch []registry.Event) {
	last := make(map[uint64]*registry.Node)
	for _, ev := range batch {
		if ev.Kind != registry.Down {
			last[ev.Node.ID] = ev.Node
		}
	}
	for _, ev := range batch {
		if ev.Kind != registry.Down {
			ev.Node = last[ev.Node.ID]
		}
		if e.isNews(ev) {
			e.writeOne(ev)
		}
	}
}

// writeOne writes one event, and remembers what the log says of its node.
func (e *events) writeOne(ev registry.Event) {
	n := ev.Node
	if now := e.reg.Lookup(n.Name); now != nil && now.ID == n.ID {
		n = now // with its holder
	}
	if ev.Kind == registry.Down {
		delete(e.named, n.ID)
	} else {
		e.named[n.ID] = fullName(n)
	}
	if n.Origin == registry.LAN {
		e.log.Info(neighbourTexts[ev.Kind], neighbourAttrs(n)...)
	} else {
		e.log.Info(nodeTexts[ev.Kind], nodeAttrs(n)...)
	}
}

var (
	nodeTexts      = map[registry.EventKind]string{registry.Up: "node up", registry.Changed: "node named", registry.Down: "node down"}
	neighbourTexts = map[registry.EventKind]string{registry.Up: "neighbour up", registry.Changed: "neighbour named", registry.Down: "neighbour down"}
)

func nodeAttrs(n *registry.Node) []any {
	args := []any{n.LogNames(), "port", n.Port, "peer", n.Peer()}
	if h := n.Holder; h != nil {
		if h.PID != 0 {
			args = append(args, "pid", h.PID)
		}
		args = append(args, "uid", h.UID)
		if h.Unit != "" {
			args = append(args, "unit", h.Unit)
		}
	}
	return args
}

func neighbourAttrs(n *registry.Node) []any {
	args := []any{n.LogNames(), "host", n.Host, "port", n.Port}
	if len(n.Addresses) > 0 {
		args = append(args, "peer", n.Addresses[0])
	}
	return args
}
