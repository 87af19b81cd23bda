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
	"net/netip"
	"slices"
	"sync"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/records"
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
	maxTries      = 16   // connections that are being made at a time, of each kind in stream.Slots
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
	Silent     bool // nobody learns who asks, nor asks back: nobody may, or is to
	Others     Asker
	// StreamsChanged is called when Streamed may say something else. It must not block.
	StreamsChanged func()
	// FindAgain is called with the name of an announced host that may have other addresses than
	// those that were found. It must not block.
	FindAgain func(host string)
	Log       *slog.Logger

	Watch  stream.WatchFunc      // nil: over the network
	OnLink func(netip.Addr) bool // as in netif.Links; nil: as the kernel says
	Owners Owners
	// Link is Between of netif.Links. nil: as the kernel says.
	Link func(local, other netip.Addr) (link string, onLink bool)
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
	records    records.Records // whether or not an epmd gives streams
	announced  map[hostKey]*peer
	asked      map[addrKey]*peer
	configured map[netip.AddrPort]*peer
	streams    map[string]bool // see Streamed; nil: to be made anew
	pace       stream.Pace
	full       bool                 // it was said that there are too many
	waiting    bool                 // one that is announced may have no place
	gaveWay    map[avahi.Place]bool // to another peer, without an answer
	over       bool                 // it was said that too many are configured
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
		records:    make(records.Records),
		gaveWay:    make(map[avahi.Place]bool),
		announced:  make(map[hostKey]*peer),
		asked:      make(map[addrKey]*peer),
		configured: make(map[netip.AddrPort]*peer),
	}
	if ps.Watch == nil {
		ps.Watch = stream.Watch
	}
	if ps.Link == nil {
		ps.Link = ps.links.Between
	}
	if ps.OnLink == nil {
		ps.OnLink = ps.links.OnLink
	}
	said := o.Hello
	if o.Silent {
		said = func() epmd.PeerHello { return epmd.PeerHello{} }
	}
	ps.tries = throttle.NewMinute(maxTriesAMinute)
	ps.followers = stream.Options{
		Watch: ps.Watch, Hello: said, KeepAlive: ps.keepAlive, Nodes: told.NewAll(o.Registry, o.Log),
		Slots: stream.NewSlots(maxTries), Say: throttle.New(), Once: throttle.NewMinute(1), Log: o.Log,
	}
	return ps
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
	ps.Others.Found(at, e)
	defer ps.StreamsChanged()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	was := ps.records[at]
	ps.records[at] = e
	ps.evictImpostors()
	if records.Gives(was) && !(records.Gives(e) && placeKey(was) == placeKey(e)) {
		ps.leave(at, was)
	}
	if records.Gives(e) {
		delete(ps.gaveWay, at)
		ps.announce(at, e)
		ps.streams = nil
	}
}

// Gone notes that nothing is announced in a place any more.
func (ps *Peers) Gone(at avahi.Place) {
	ps.Others.Gone(at)
	defer ps.StreamsChanged()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	was := ps.records[at]
	delete(ps.records, at)
	if records.Gives(was) {
		ps.leave(at, was)
	}
}

// placeKey returns the peer that a place is of.
func placeKey(e avahi.EPMD) hostKey { return hostKey{e.Interface, e.Host, e.Addrs[0].Port()} }

// announce makes the epmd at a place known. It reports whether there is a place for a peer.
func (ps *Peers) announce(at avahi.Place, e avahi.EPMD) bool {
	k := placeKey(e)
	p := ps.announced[k]
	if p == nil {
		p = ps.adopt(k, e.Addrs)
	}
	if p == nil {
		if p = ps.admit(e.Addrs[0].Addr(), false); p == nil {
			return false
		}
	}
	p.host = k
	ps.announced[k] = p
	p.places[at] = e.Addrs
	p.poke(stream.KickSoon)
	return true
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

// leave takes a place from the peer that was announced there.
func (ps *Peers) leave(at avahi.Place, e avahi.EPMD) {
	delete(ps.gaveWay, at)
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
	if p := ps.announced[host]; p != nil && (slices.Contains(p.addrs(), at) || p.live != nil && p.live.Hello.ID == a.Hello.ID) {
		p.poke(stream.KickNow)
		return
	}
	k := addrKey{link, at}
	p := ps.asked[k]
	if p == nil {
		if p = ps.admit(from, true); p == nil {
			return
		}
		p.askedAt, p.host = k, host
		ps.asked[k] = p
	}
	p.askedBy = a.Local
	p.poke(stream.KickNow)
}

// Configure makes known the epmds at these addresses, and no others by address. This host's owner
// has named them, or a program alone has written them down. Its word on whose a host name is counts
// for less. An epmd that nobody names any more stays until its stream ends or its place is needed.
// If there are too many, those that are known stay.
func (ps *Peers) Configure(named, written []netip.AddrPort) {
	wanted := make(map[netip.AddrPort]bool, len(named)+len(written)) // true: written alone
	for _, a := range written {
		wanted[a] = true
	}
	for _, a := range named {
		wanted[a] = false
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for a, p := range ps.configured {
		isWritten, still := wanted[a]
		p.unnamed, p.written = !still && p.live != nil, isWritten
		if !still && !p.unnamed {
			ps.unconfigure(a, p)
		}
	}
	over := 0
	for _, a := range slices.Concat(named, written) {
		switch {
		case ps.configured[a] != nil:
		case len(ps.configured) >= maxConfigured && !ps.endUnnamed():
			over++
		default:
			p := ps.add()
			p.address, p.written = a, wanted[a]
			ps.configured[a] = p
			p.poke(stream.KickSoon)
		}
	}
	if over > 0 && !ps.over {
		ps.Log.Error("too many epmds are configured", "limit", maxConfigured, "left out", over)
	}
	ps.over = over > 0
	for p := range ps.all {
		if p.isNamed(p.addrs()) != p.named {
			p.poke(stream.KickNot)
		}
	}
}

// endUnnamed ends the stream of an epmd that is no longer named. It reports whether there is one.
func (ps *Peers) endUnnamed() bool {
	for a, p := range ps.configured {
		if p.unnamed {
			ps.Log.Warn("too many epmds: one that is no longer named is left", "limit", maxConfigured, "address", a)
			_ = p.live.stream.Close()
			ps.unconfigure(a, p)
			return true
		}
	}
	return false
}

// unconfigure makes an address known no longer. ps.mu is held.
func (ps *Peers) unconfigure(a netip.AddrPort, p *peer) {
	delete(ps.configured, a)
	p.address, p.unnamed = netip.AddrPort{}, false
	ps.Others.Configured(a, false)
	if p.waitsFor != nil {
		p.waitsFor.poke(stream.KickNot) // it had this address too
	}
	p.poke(stream.KickNot)
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

// add adds a peer that is neither announced nor configured yet. ps.mu is held.
func (ps *Peers) add() *peer {
	p := &peer{ps: ps, places: make(map[avahi.Place][]netip.AddrPort), streamed: true}
	p.follower = stream.New(&ps.followers, p)
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
	ps.admitWaiting()
	return true
}

// unask forgets that a peer has asked us. ps.mu is held.
func (ps *Peers) unask(p *peer) {
	delete(ps.asked, p.askedAt)
	p.askedAt, p.askedBy = addrKey{}, netip.Addr{}
}

// keepAlive returns when a peer counts as silent.
func (ps *Peers) keepAlive() epmd.KeepAlive {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.pace.KeepAlive()
}

// count counts n more streams, and adapts keep-alive to their number. ps.mu is held.
func (ps *Peers) count(n int) {
	if !ps.pace.Count(n) {
		return
	}
	for p := range ps.all {
		if p.live != nil {
			_ = p.live.stream.SetKeepAlive(ps.pace.KeepAlive()) // a stream that ends has none
		}
	}
}
