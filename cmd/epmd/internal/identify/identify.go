// Package identify asks each node of this host for its full name. A node that is none of OTP may
// serve a single connection. So the package also decides which to ask.
//
// An Identifier connects to the nodes' ports on this host by TCP. It asks up to eight nodes at
// once, in goroutines of their own. Ask does not block; Run blocks until its context ends.
package identify

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/holders"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

const (
	identifyTime   = 10 * time.Second // for a node: its first TLS connection takes long
	identifyAtOnce = 8                // nodes asked at once, if the options don't say
	identifyCalm   = 3 * time.Second  // without a new node, then the free heap is given back
)

// Identifier asks each node that registers for its full name, once. It tells the registry. A node
// that is none of OTP may serve a single connection, or complain of a broken one. So only those are
// asked that may be of OTP: see mayAsk.
type Identifier struct {
	reg    *registry.Registry
	prober string               // asks under this name: a node never forgets one
	known  func(*registry.Node) // told of each node that was asked
	log    *slog.Logger
	slots  chan struct{} // one in it for each node that is being asked
	wake   chan struct{} // one in it when there is more in waiting

	mu      sync.Mutex
	waiting []arrival // to be asked
	mute    map[holderName]struct{}
}

// arrival is a node that has come. partly is set if there was no time to look for its holder
// everywhere.
type arrival struct {
	node   *registry.Node
	partly bool
}

// holderName is an alive name and the user who has registered it.
type holderName struct {
	name string
	uid  uint32
}

// maxMute is how many names are remembered whose nodes did not answer.
const maxMute = 1024

// Options are what an Identifier needs.
type Options struct {
	Registry *registry.Registry
	Host     string               // the first label of this host's name
	Known    func(*registry.Node) // told of each node that was asked
	AtOnce   int                  // nodes asked at once; 0: 8
	Log      *slog.Logger
}

// New returns an Identifier that asks nobody before Run.
func New(o Options) *Identifier {
	return &Identifier{
		reg:    o.Registry,
		prober: "eclus@" + o.Host,
		known:  o.Known,
		log:    o.Log,
		slots:  make(chan struct{}, cmp.Or(o.AtOnce, identifyAtOnce)),
		wake:   make(chan struct{}, 1),
		mute:   make(map[holderName]struct{}),
	}
}

// Ask has a new node asked. partly says that there was no time to look for its holder everywhere.
// It does not block.
func (i *Identifier) Ask(n *registry.Node, partly bool) {
	i.mu.Lock()
	i.waiting = append(i.waiting, arrival{n, partly})
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default: // it will find these too
	}
}

// Run returns nil when ctx has ended and all questions have. It is called once.
func (i *Identifier) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	calm := time.AfterFunc(identifyCalm, debug.FreeOSMemory)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-i.wake:
		}
		i.mu.Lock()
		arrived := i.waiting
		i.waiting = nil
		i.mu.Unlock()
		for _, a := range arrived {
			i.start(ctx, &asking, a)
		}
		calm.Reset(identifyCalm)
	}
}

// start asks a node as soon as there is a slot.
func (i *Identifier) start(ctx context.Context, asking *sync.WaitGroup, a arrival) {
	select {
	case <-ctx.Done():
		return
	case i.slots <- struct{}{}:
	}
	asking.Go(func() {
		defer func() { <-i.slots }()
		asking, cancel := context.WithTimeout(ctx, identifyTime)
		defer cancel()
		if a.partly {
			holders.Set(asking, i.reg, []*registry.Node{a.node}, i.log)
		}
		if now := i.reg.Lookup(a.node.Name); now != nil && now.ID == a.node.ID && i.mayAsk(now) {
			i.identify(asking, now)
		}
	})
}

// mayAsk reports whether a node is to be asked for its name. Nodes of OTP register as normal ones,
// hidden nodes too. Other nodes do so too. The process tells of some, an earlier question of
// others: this node or one of the same name and user did not answer.
func (i *Identifier) mayAsk(n *registry.Node) bool {
	switch h := n.Holder; {
	case n.Sure, n.Mute, n.Told != registry.Normal:
		return false
	case h == nil:
		return !i.isMute(n)
	case h.PID != 0:
		return !h.Foreign
	default:
		return !h.Foreign && !i.isMute(n)
	}
}

// muteName is what is remembered of a node that does not answer.
func muteName(n *registry.Node) holderName {
	const nobody = 1<<32 - 1
	if n.Holder == nil {
		return holderName{n.Name, nobody}
	}
	return holderName{n.Name, n.Holder.UID}
}

func (i *Identifier) isMute(n *registry.Node) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, mute := i.mute[muteName(n)]
	return mute
}

// identify asks a node. One that does not answer keeps the name that epmd made for it.
func (i *Identifier) identify(ctx context.Context, n *registry.Node) {
	id, err := i.askAt(ctx, n)
	if err != nil {
		i.log.Debug("node not identified", "name", n.Name, "port", n.Port, "err", err)
		if !errors.Is(err, context.Canceled) && cutShort(err) { // canceled: epmd ends
			i.setMute(n)
		}
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

// cutShort reports whether a question that failed has reached something that is better not asked
// again. That is not so if nobody was there, or if the node was busy.
func cutShort(err error) bool {
	var refused *node.StatusError
	if errors.As(err, &refused) {
		return refused.Code == node.NotAllowed // which the node has logged
	}
	return !isDialError(err)
}

func isDialError(err error) bool {
	var opErr *net.OpError
	return errors.As(err, &opErr) && opErr.Op == "dial"
}

// setMute remembers that a node did not tell its name.
func (i *Identifier) setMute(n *registry.Node) {
	i.mu.Lock()
	if len(i.mute) == maxMute {
		for other := range i.mute {
			delete(i.mute, other)
			break
		}
	}
	i.mute[muteName(n)] = struct{}{}
	i.mu.Unlock()
	if now := i.reg.SetMute(n); now != nil {
		i.known(now)
	}
}

// askAt asks a node at its addresses, until one answers in any way.
func (i *Identifier) askAt(ctx context.Context, n *registry.Node) (node.Identity, error) {
	var errs []error
	for addr := range likelyAddresses(n.Addresses) {
		id, err := node.Identify(ctx, netip.AddrPortFrom(addr, n.Port), i.prober)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
		if !isDialError(err) {
			break
		}
	}
	return node.Identity{}, errors.Join(errs...)
}

// likelyAddresses yields the addresses at which a node of this host may listen. First comes where
// it registered from, then loopback, then all that the host has.
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

// ownAddresses returns the addresses of this host's interfaces. There are none if they can't be
// read.
func ownAddresses() []netip.Addr {
	prefixes, _ := netif.Prefixes()
	var addrs []netip.Addr
	for _, p := range prefixes {
		addrs = append(addrs, p.Addr())
	}
	return addrs
}
