// Package peers knows the epmd of each host that runs Eclus, and has it followed. The registry is
// told which nodes the host has.
//
// A peer is such an epmd as it is seen on one link. It is announced, or has asked us, or its
// address is configured:
//
//	avahi -- Found, Gone --+         +- peer -- stream.Follower -- the other epmd
//	epmd --- Asked --------+- Peers -+- peer -- stream.Follower -- another one
//	flags -- Configure ----+         +- ...     with told.Nodes
//
// Peers decides whether two addresses are one epmd, and whose a host name is. Package stream tries
// a peer and reads its stream, with goroutines of its own. Package told enters its nodes.
//
// Methods of Peers may be called concurrently, and none blocks. Run blocks until its context ends.
package peers

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

// Limits.
const (
	maxFound      = 512  // peers that are announced or have asked us
	maxConfigured = 2048 // peers with a configured address
	maxTries      = 16   // connections that are being made at a time

	probesPerSecond = 100 // of keep-alive, by all streams together
)

// Asker asks epmds that give no stream, by NAMES_REQ. Its methods don't block.
type Asker interface {
	avahi.EPMDs // those that are announced, and whether they announce their nodes

	// Configured begins or ends asking the epmd at a configured address.
	Configured(addr netip.AddrPort, ask bool)
}

// Options are what Peers need.
type Options struct {
	Registry *registry.Registry
	Hello    func() epmd.PeerHello // what this epmd says of itself
	AskBack  bool                  // who asks us is asked back: -lan on or browse

	// Interfaces are those over which somebody is asked back. Empty: all.
	Interfaces []string

	Silent bool  // nobody learns who asks, nor asks back: nobody may, or is to
	Others Asker // nil: nobody
	// StreamsChanged is called when Streamed may say something else. It must not block.
	// nil: nobody wants to know.
	StreamsChanged func()
	// FindAgain is called with the name of an announced host that may have other addresses than
	// those that were found. It must not block. nil: nobody looks for them.
	FindAgain func(host string)
	Log       *slog.Logger

	Watch  stream.WatchFunc      // nil: over the network
	Link   LinkFunc              // nil: as the kernel says
	OnLink func(netip.Addr) bool // as in netif.Links; nil: as the kernel says
}

// Peers are all that are known. Make them with New.
type Peers struct {
	Options
	followers stream.Options
	tries     *throttle.Minute // of announced hosts
	links     netif.Links      // for the default of Link
	running   sync.WaitGroup

	mu         sync.Mutex
	ctx        context.Context // of Run; nil: it has not begun
	ended      bool            // it has ended: no peer is started any more
	all        map[*peer]struct{}
	places     map[avahi.Place]avahi.EPMD // that announce eclus=
	claims     map[avahi.Place]avahi.EPMD // all places
	announced  map[hostKey]*peer
	asked      map[addrKey]*peer
	configured map[netip.AddrPort]*peer
	streams    map[string]bool // see Streamed; nil: to be made anew
	live       int             // streams
	scale      int             // of keep-alive
	full       bool            // it was said that there are too many
}

// hostKey is an announced epmd.
type hostKey struct {
	link, host string
	port       uint16
}

// addrKey is an epmd that has asked us.
type addrKey struct {
	link string
	addr netip.AddrPort
}

// New returns Peers that connect to nobody before Run.
func New(o Options) *Peers {
	ps := &Peers{
		Options:    o,
		all:        make(map[*peer]struct{}),
		places:     make(map[avahi.Place]avahi.EPMD),
		claims:     make(map[avahi.Place]avahi.EPMD),
		announced:  make(map[hostKey]*peer),
		asked:      make(map[addrKey]*peer),
		configured: make(map[netip.AddrPort]*peer),
		scale:      1,
	}
	if ps.Watch == nil {
		ps.Watch = stream.Watch
	}
	if ps.Link == nil {
		ps.Link = kernelLink(&ps.links)
	}
	if ps.StreamsChanged == nil {
		ps.StreamsChanged = func() {}
	}
	if ps.FindAgain == nil {
		ps.FindAgain = func(string) {}
	}
	if ps.OnLink == nil {
		ps.OnLink = ps.links.OnLink
	}
	ps.tries = throttle.NewMinute(maxTriesAMinute)
	ps.followers = stream.Options{
		Watch: ps.Watch, Hello: ps.said, KeepAlive: ps.keepAliveNow, Nodes: told.NewAll(o.Registry, o.Log),
		Slots: make(chan struct{}, maxTries), Say: throttle.New(), Log: o.Log,
	}
	return ps
}

// said returns what peers learn of this epmd. If it is Silent, that is nothing.
func (ps *Peers) said() epmd.PeerHello {
	if ps.Silent {
		return epmd.PeerHello{}
	}
	return ps.Hello()
}

// Run keeps streams until ctx ends, then takes back what was told. It returns nil, and is called
// once.
func (ps *Peers) Run(ctx context.Context) error {
	ps.mu.Lock()
	ps.ctx = ctx
	for p := range ps.all {
		ps.start(p)
	}
	ps.mu.Unlock()
	<-ctx.Done()
	ps.mu.Lock()
	ps.ended = true
	ps.mu.Unlock()
	ps.running.Wait()
	ps.followers.Nodes.Close()
	return nil
}

// start begins to try a peer, if Run has begun and has not ended.
func (ps *Peers) start(p *peer) {
	if ps.ctx != nil && !ps.ended {
		ps.running.Go(func() { p.follower.Run(ps.ctx) })
	}
}

// Found notes what is announced in a place. Epmds without eclus= are others' to ask.
func (ps *Peers) Found(at avahi.Place, e avahi.EPMD) {
	if ps.Others != nil {
		ps.Others.Found(at, e)
	}
	ps.claim(at, e)
	if !e.Announces || len(e.Addrs) == 0 {
		ps.gone(at)
		return
	}
	defer ps.StreamsChanged()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	k := placeKey(e)
	if was, known := ps.places[at]; known && placeKey(was) != k {
		ps.leave(at, was)
	}
	ps.places[at] = e
	ps.announce(at, e)
	ps.streams = nil
}

// claim notes which host is announced in a place, whether or not it may give a stream.
func (ps *Peers) claim(at avahi.Place, e avahi.EPMD) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.claims[at] = e
	ps.evictImpostors()
}

// placeKey returns the peer that a place is of.
func placeKey(e avahi.EPMD) hostKey { return hostKey{e.Interface, e.Host, e.Addrs[0].Port()} }

// announce makes the epmd at a place known.
func (ps *Peers) announce(at avahi.Place, e avahi.EPMD) {
	k := placeKey(e)
	p := ps.announced[k]
	if p == nil {
		p = ps.adopt(k, e.Addrs)
	}
	if p == nil {
		if p = ps.admit(); p == nil {
			return
		}
	}
	p.host = k
	ps.announced[k] = p
	p.places[at] = e.Addrs
	p.poke(stream.KickSoon)
}

// adopt returns the peer of that host which is at one of the addresses and is not announced. Its
// stream has outlived an earlier announcement, or it has asked us.
func (ps *Peers) adopt(k hostKey, addrs []netip.AddrPort) *peer {
	for p := range ps.all {
		if len(p.places) == 0 && p.live != nil && p.live.link == k.link && p.live.Hello.Host == k.host && slices.Contains(addrs, p.live.Addr) {
			return p
		}
	}
	for _, a := range addrs {
		if p := ps.asked[addrKey{k.link, a}]; p != nil && p.host == k && ps.announced[k] == nil {
			return p
		}
	}
	return nil
}

// Gone notes that nothing is announced in a place any more.
func (ps *Peers) Gone(at avahi.Place) {
	if ps.Others != nil {
		ps.Others.Gone(at)
	}
	ps.mu.Lock()
	delete(ps.claims, at)
	ps.mu.Unlock()
	ps.gone(at)
}

func (ps *Peers) gone(at avahi.Place) {
	defer ps.StreamsChanged()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if e, known := ps.places[at]; known {
		delete(ps.places, at)
		ps.leave(at, e)
	}
}

// leave takes a place from the peer that was announced there.
func (ps *Peers) leave(at avahi.Place, e avahi.EPMD) {
	k := placeKey(e)
	p := ps.announced[k]
	if p == nil {
		return
	}
	if delete(p.places, at); len(p.places) == 0 {
		delete(ps.announced, k)
		ps.streams = nil
	}
	p.poke(stream.KickNot)
}

// Asked notes that an epmd watches us. If it is on-link, on one of the Interfaces, it is asked back
// at once.
func (ps *Peers) Asked(a epmd.PeerAsk) {
	from := a.From.Addr()
	link, onLink := ps.Link(a.Local, from)
	if !ps.AskBack || !onLink || a.Hello.ID == ps.Hello().ID || len(ps.Interfaces) > 0 && !slices.Contains(ps.Interfaces, link) {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	at := netip.AddrPortFrom(from, a.Hello.Port)
	host := hostKey{link, a.Hello.Host, a.Hello.Port}
	if p := ps.announced[host]; p != nil && (slices.Contains(p.addrs(), at) || p.isLive(a.Hello.ID)) {
		p.poke(stream.KickNow)
		return
	}
	k := addrKey{link, at}
	p := ps.asked[k]
	if p == nil {
		if p = ps.admit(); p == nil {
			return
		}
		p.askedAt, p.host = k, host
		ps.asked[k] = p
	}
	p.askedBy = a.Local
	p.poke(stream.KickNow)
}

// Configure makes known the epmds at these addresses, and no others by address.
func (ps *Peers) Configure(addrs ...netip.AddrPort) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(addrs) > maxConfigured {
		ps.Log.Error("too many epmds are configured", "limit", maxConfigured, "left out", len(addrs)-maxConfigured)
		addrs = addrs[:maxConfigured]
	}
	for a, p := range ps.configured {
		if !slices.Contains(addrs, a) {
			delete(ps.configured, a)
			p.address = netip.AddrPort{}
			if ps.Others != nil {
				ps.Others.Configured(a, false)
			}
			p.poke(stream.KickNot)
		}
	}
	for _, a := range addrs {
		if ps.configured[a] == nil {
			p := ps.add()
			p.address = a
			ps.configured[a] = p
			p.poke(stream.KickSoon)
		}
	}
}

// LinksChanged tries those at once to which there is no stream. It forgets who has asked over a
// link that is gone. A stream belongs to the link that has its address now.
func (ps *Peers) LinksChanged() {
	ps.links.Forget()
	links := make(map[netip.Addr]string) // of our addresses
	ps.mu.Lock()
	for p := range ps.all {
		if p.askedAt != (addrKey{}) {
			links[p.askedBy] = ""
		}
		if p.live != nil {
			links[p.live.Local] = ""
		}
	}
	ps.mu.Unlock()
	for local := range links {
		links[local], _ = ps.Link(local, netip.Addr{}) // which may ask the kernel
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for p := range ps.all {
		if link, asked := links[p.askedBy]; asked && link == "" {
			ps.unask(p)
		}
		if p.live != nil && links[p.live.Local] != "" {
			p.live.link = links[p.live.Local]
		}
		p.poke(stream.KickSoon)
	}
}

// admit adds a peer that was found, if there is a place for it. It returns nil if there is none.
func (ps *Peers) admit() *peer {
	if len(ps.all)-len(ps.configured) < maxFound {
		return ps.add()
	}
	if !ps.full {
		ps.full = true
		ps.Log.Warn("too many epmds on the LAN: some give no stream", "limit", maxFound)
	}
	return nil
}

func (ps *Peers) add() *peer {
	p := newPeer(ps)
	ps.all[p] = struct{}{}
	ps.start(p)
	return p
}

// Release forgets the peer if it has no source. It reports whether that is so.
func (p *peer) Release() bool {
	ps := p.ps
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.hasSource() {
		return false
	}
	delete(ps.all, p)
	ps.Registry.SetNoStream(p, registry.NoStream{})
	for at, e := range ps.places { // one may have waited for a place
		if len(ps.all)-len(ps.configured) < maxFound && ps.announced[placeKey(e)] == nil {
			ps.announce(at, e)
		}
	}
	return true
}

// unask forgets that a peer has asked us. ps.mu is held.
func (ps *Peers) unask(p *peer) {
	if p.askedAt != (addrKey{}) {
		delete(ps.asked, p.askedAt)
		p.askedAt, p.askedBy = addrKey{}, netip.Addr{}
	}
}

// keepAlive returns when a peer counts as silent. All streams together send at most 100 probes a
// second. ps.mu is held.
func (ps *Peers) keepAlive() epmd.KeepAlive {
	n := ps.scale
	return epmd.KeepAlive{Idle: seconds(3 * n), Interval: seconds(n), Timeout: seconds(6 * n)}
}

// keepAliveNow is keepAlive for a caller without ps.mu.
func (ps *Peers) keepAliveNow() epmd.KeepAlive {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.keepAlive()
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// count counts n more streams, and adapts keep-alive to their number. ps.mu is held.
func (ps *Peers) count(n int) {
	ps.live += n
	scale := max(1, int(math.Ceil(float64(ps.live)/probesPerSecond)))
	if scale == ps.scale {
		return
	}
	ps.scale = scale
	for p := range ps.all {
		if p.live == nil {
			continue
		}
		if err := p.live.stream.SetKeepAlive(ps.keepAlive()); err != nil {
			ps.Log.Debug("keep-alive of a stream not changed", "address", p.live.Addr, "err", err)
		}
	}
}
