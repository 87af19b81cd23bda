// Package identify asks each node of this host for its full name. A node that is none of OTP may
// serve a single connection. So the package also decides which to ask.
//
// An Identifier connects to the nodes' ports on this host by TCP. It asks up to 16 nodes at once,
// in goroutines of their own. Users share that: see package places. So a user whose nodes don't
// answer delays nobody else's. Ask does not block; Run blocks until its context ends.
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
	"github.com/goerlang/eclus/internal/places"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

const (
	identifyTime   = 10 * time.Second // for a node: its first TLS connection takes long
	identifyAtOnce = 16               // nodes asked at once, if the options don't say
	identifyCalm   = 3 * time.Second  // without a new node, then the free heap is given back
)

// Identifier asks each node that registers for its full name, once. It tells the registry. A node
// that is none of OTP may serve a single connection, or complain of a broken one. So only those are
// asked that may be of OTP: see mayAsk.
type Identifier struct {
	reg     *registry.Registry
	holders *holders.Finder
	prober  string               // asks under this name: a node never forgets one
	known   func(*registry.Node) // told of each node that was asked
	log     *slog.Logger
	atOnce  int           // nodes asked at once
	wake    chan struct{} // one in it when another node may be asked

	mu      sync.Mutex
	waiting map[uint32][]arrival // to be asked, by user, in their order
	arrived uint64               // counts arrivals
	asking  map[uint32]int       // nodes that are being asked, by user
	slots   int                  // sum of asking
	mute    map[holderName]struct{}
}

// arrival is a node that has come as the at-th. partly is set if there was no time to look for its
// holder everywhere.
type arrival struct {
	node   *registry.Node
	at     uint64
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
	Holders  *holders.Finder
	Host     string               // the first label of this host's name
	Known    func(*registry.Node) // told of each node that was asked
	AtOnce   int                  // nodes asked at once; 0: 16
	Log      *slog.Logger
}

// New returns an Identifier that asks nobody before Run.
func New(o Options) *Identifier {
	return &Identifier{
		reg:     o.Registry,
		holders: o.Holders,
		prober:  "eclus@" + o.Host,
		known:   o.Known,
		log:     o.Log,
		atOnce:  cmp.Or(o.AtOnce, identifyAtOnce),
		wake:    make(chan struct{}, 1),
		waiting: make(map[uint32][]arrival),
		asking:  make(map[uint32]int),
		mute:    make(map[holderName]struct{}),
	}
}

// Ask has a new node asked. partly says that there was no time to look for its holder everywhere.
// It does not block.
func (i *Identifier) Ask(n *registry.Node, partly bool) {
	if now := i.reg.Lookup(n.Name); now != nil && now.ID == n.ID {
		n = now // whose holder may be known by now
	}
	user := muteName(n).uid
	i.mu.Lock()
	i.arrived++
	i.waiting[user] = append(i.waiting[user], arrival{n, i.arrived, partly})
	i.mu.Unlock()
	i.more()
}

// more has Run look whether another node may be asked.
func (i *Identifier) more() {
	select {
	case i.wake <- struct{}{}:
	default: // it will look anyway
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
		for a, user, found := i.next(); found && ctx.Err() == nil; a, user, found = i.next() {
			asking.Go(func() {
				i.ask(ctx, a, user)
				i.done(user)
			})
		}
		calm.Reset(identifyCalm)
	}
}

// next takes the next node to be asked. That is one of the user who has fewest slots, of several
// users the node that came first. found is false if nobody may have another slot.
func (i *Identifier) next() (a arrival, user uint32, found bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for u, list := range i.waiting {
		order := cmp.Or(cmp.Compare(i.asking[u], i.asking[user]), cmp.Compare(list[0].at, a.at))
		if (!found || order < 0) && places.MayTake(i.slots, i.atOnce, func() int { return i.asking[u] }) {
			a, user, found = list[0], u, true
		}
	}
	if !found {
		return a, user, false
	}
	if i.waiting[user] = i.waiting[user][1:]; len(i.waiting[user]) == 0 {
		delete(i.waiting, user)
	}
	i.slots++
	i.asking[user]++
	return a, user, true
}

// done gives a slot back.
func (i *Identifier) done(user uint32) {
	i.mu.Lock()
	i.slots--
	if i.asking[user]--; i.asking[user] == 0 {
		delete(i.asking, user)
	}
	i.mu.Unlock()
	i.more()
}

// ask asks a node, unless it has gone or had better not be asked.
func (i *Identifier) ask(ctx context.Context, a arrival, user uint32) {
	ctx, cancel := context.WithTimeout(ctx, identifyTime)
	defer cancel()
	if a.partly {
		i.lookAgain(ctx, a, user)
	}
	if now := i.reg.Lookup(a.node.Name); now != nil && now.ID == a.node.ID && i.mayAsk(now) {
		i.identify(ctx, now)
	}
}

// lookAgain looks for the holder of a node everywhere. It does so at once for all nodes of the user
// that wait for that: it takes as long for one as for all.
func (i *Identifier) lookAgain(ctx context.Context, a arrival, user uint32) {
	others := i.takePartly(user)
	nodes := []*registry.Node{a.node}
	for k := range others {
		others[k].partly = false
		nodes = append(nodes, others[k].node)
	}
	i.holders.Set(ctx, nodes)
	if len(others) == 0 {
		return
	}
	i.mu.Lock()
	i.waiting[user] = append(others, i.waiting[user]...)
	i.mu.Unlock()
	i.more()
}

// takePartly takes out the nodes of a user that are to be looked at again before they are asked.
func (i *Identifier) takePartly(user uint32) (partly []arrival) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var rest []arrival
	for _, a := range i.waiting[user] {
		if a.partly {
			partly = append(partly, a)
		} else {
			rest = append(rest, a)
		}
	}
	if i.waiting[user] = rest; len(rest) == 0 {
		delete(i.waiting, user)
	}
	return partly
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
	if n.Holder == nil {
		return holderName{n.Name, places.Unknown}
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
	dist := registry.TCP
	if id.TLS {
		dist = registry.TLS
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
	return !isDialError(err) && !node.IsBusy(err)
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

// askAt asks a node at its addresses, until one answers in any way. One that is busy with another
// handshake under our name, as that of -ping, is asked again.
func (i *Identifier) askAt(ctx context.Context, n *registry.Node) (node.Identity, error) {
	var errs []error
	for addr := range likelyAddresses(n.Addresses) {
		id, err := node.WhileBusy(ctx, func() (node.Identity, error) {
			return node.Identify(ctx, netip.AddrPortFrom(addr, n.Port), i.prober)
		})
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
