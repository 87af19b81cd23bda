package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"eclus/node"
	"eclus/registry"
)

const (
	identifySettle = 100 * time.Millisecond // a node gone within this time is not asked; what is announced waits for 150 ms
	identifyTime   = 10 * time.Second       // all that a node is given: the first TLS connection of its life takes long
	identifyAtOnce = 8                      // nodes asked at once
	identifyCalm   = 3 * time.Second        // after so long without a new node, memory is given back
)

// identifier asks each node that registers for its full name, once, and tells the registry.
type identifier struct {
	reg    *registry.Registry
	prober string               // the name it asks under: always the same, for a node never forgets one
	known  func(*registry.Node) // told of each node that has said who it is
	log    *slog.Logger
	slots  chan struct{} // one in it for each node that is being asked
}

func newIdentifier(reg *registry.Registry, host string, known func(*registry.Node), log *slog.Logger) *identifier {
	return &identifier{
		reg:    reg,
		prober: "eclus@" + host,
		known:  known,
		log:    log,
		slots:  make(chan struct{}, identifyAtOnce),
	}
}

// run returns when ctx has ended and no node is being asked any more.
func (i *identifier) run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	nodes, changes := i.reg.Subscribe()
	defer func() { changes.Close() }()
	calm := time.AfterFunc(identifyCalm, i.giveBack)
	defer calm.Stop()
	for ctx.Err() == nil {
		for _, n := range nodes {
			i.start(ctx, &asking, n)
		}
		calm.Reset(identifyCalm)
		var err error
		if nodes, err = registered(ctx, changes); errors.Is(err, registry.ErrBehind) {
			nodes, changes = i.reg.Subscribe()
			nodes = slices.DeleteFunc(nodes, func(n *registry.Node) bool { return n.Sure })
		}
	}
}

// giveBack gives back what it took to ask.
func (i *identifier) giveBack() {
	if err := giveBack(); err != nil {
		i.log.Debug("memory not given back", "err", err)
	}
}

// registered waits for nodes to register and returns those that are still there a little later: one
// wake-up and one glance for however many come together.
func registered(ctx context.Context, changes *registry.Subscription) ([]*registry.Node, error) {
	first, err := changes.Next(ctx)
	if err != nil {
		return nil, err
	}
	pause(ctx, identifySettle)
	more, err := changes.Take()
	if err != nil {
		return nil, err
	}
	there := make(map[uint64]*registry.Node)
	for _, e := range slices.Concat(first, more) {
		switch {
		case e.Node.Origin != registry.Local:
		case e.Kind == registry.Up:
			there[e.Node.ID] = e.Node
		case e.Kind == registry.Down:
			delete(there, e.Node.ID)
		}
	}
	return slices.Collect(maps.Values(there)), nil
}

// start begins to ask a node as soon as there is a slot for it.
func (i *identifier) start(ctx context.Context, asking *sync.WaitGroup, n *registry.Node) {
	if n.Origin != registry.Local || n.Sure || n.Type == registry.Hidden {
		return // OTP registers its hidden nodes as normal; what does not may take a single connection at a time
	}
	select {
	case <-ctx.Done():
		return
	case i.slots <- struct{}{}:
	}
	asking.Go(func() {
		defer func() { <-i.slots }()
		i.identify(ctx, n)
	})
}

// identify asks a node if it is still there. A node that can't be asked, or does not tell, keeps the name
// that was put together for it.
func (i *identifier) identify(ctx context.Context, n *registry.Node) {
	if now := i.reg.Lookup(n.Name); now == nil || now.ID != n.ID {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, identifyTime)
	defer cancel()
	id, err := i.ask(ctx, n)
	if err != nil {
		i.log.Debug("node not identified", "node", n.Name, "port", n.Port, "err", err)
		return
	}
	dist := "tcp"
	if id.TLS {
		dist = "tls"
	}
	err = i.reg.Identify(n, registry.Identity{Node: id.Name, Dist: dist, Hidden: id.Hidden, Creation: id.Creation})
	if err != nil {
		i.log.Warn("node not identified", "err", err)
		return
	}
	if now := i.reg.Lookup(n.Name); now != nil && now.ID == n.ID {
		i.known(now)
	}
}

// ask asks a node at the addresses where it can be, until one answers in any way.
func (i *identifier) ask(ctx context.Context, n *registry.Node) (node.Identity, error) {
	var errs []error
	for addr := range likelyAddresses(n.Addresses) {
		id, err := node.Identify(ctx, netip.AddrPortFrom(addr, n.Port), i.prober)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
		if opErr := (*net.OpError)(nil); !errors.As(err, &opErr) || opErr.Op != "dial" {
			break
		}
	}
	return node.Identity{}, errors.Join(errs...)
}

// likelyAddresses yields the addresses at which a node of this host may listen: where it registered
// from, loopback, then all that the host has.
func likelyAddresses(from []netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		tried := make(map[netip.Addr]bool)
		try := func(addr netip.Addr) bool {
			fresh := !tried[addr]
			tried[addr] = true
			return !fresh || yield(addr)
		}
		for _, addr := range append(slices.Clone(from), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()) {
			if !try(addr) {
				return
			}
		}
		for _, addr := range ownAddresses() {
			if !try(addr) {
				return
			}
		}
	}
}

// ownAddresses returns the addresses of this host's interfaces; none if they can't be read.
func ownAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if prefix, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return addrs
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
