package peers

import (
	"net/netip"
	"slices"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/records"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/registry"
)

// peer is an epmd on a link. It is the Owner of its Follower.
type peer struct {
	ps       *Peers
	follower *stream.Follower

	// What follows is guarded by ps.mu.

	host     hostKey                          // announced, or as it says of itself when it asks us
	places   map[avahi.Place][]netip.AddrPort // where it is announced
	askedAt  addrKey                          // where it asked us from; zero: it has not
	askedBy  netip.Addr                       // our address that it asked
	address  netip.AddrPort                   // configured; not valid: it is not
	unnamed  bool                             // no longer, but it has a stream
	written  bool                             // so it is by a program alone
	named    bool                             // as its Follower knows
	kick     stream.Kick                      // set until the Follower has seen it
	evicted  bool                             // another peer has its host name now
	waitsFor *peer                            // when that has no stream any more, this is tried
	live     *live                            // nil: it has no stream
	owner    string                           // who gave its last stream; empty: it had none
	twins    bool                             // others that wait for it may be at the same epmd
	streamed bool                             // see Streamed
}

// poke has the Follower look at what has changed. ps.mu is held.
func (p *peer) poke(k stream.Kick) {
	p.kick = max(p.kick, k)
	p.follower.Wake()
}

// hasSource reports whether anything says that this epmd exists. ps.mu is held.
func (p *peer) hasSource() bool {
	return len(p.places) > 0 || p.askedAt != (addrKey{}) || p.address.IsValid()
}

// addrs returns all addresses, link-local ones last. ps.mu is held.
func (p *peer) addrs() []netip.AddrPort {
	var list []netip.AddrPort
	add := func(a netip.AddrPort) {
		if a.IsValid() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	for _, a := range records.Addrs(p.places) {
		add(a)
	}
	add(p.askedAt.addr)
	add(p.address)
	if p.twins {
		for q := range p.ps.all {
			if q.waitsFor == p { // configured, and the same epmd
				add(q.address)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b netip.AddrPort) int { return told.LastIfLinkLocal(a.Addr(), b.Addr()) })
	return list
}

// isNamed reports whether this host's owner has named all addresses that a peer has. A peer that is
// announced or asks us is named too, as long as that adds none. ps.mu is held.
func (p *peer) isNamed(addrs []netip.AddrPort) bool {
	return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.AddrPort) bool {
		is := p.ps.configured[a]
		return is == nil || is.unnamed || is.written
	})
}

// Facts returns what is known, and takes the kick.
func (p *peer) Facts() stream.Facts {
	p.ps.mu.Lock()
	defer p.ps.mu.Unlock()
	f := stream.Facts{
		Addrs: p.addrs(), Origin: registry.LAN, Sourced: p.hasSource(),
		Kick: p.kick, Evicted: p.evicted, Host: p.host.host,
	}
	f.Named = p.isNamed(f.Addrs)
	if f.Named || len(p.places) == 0 && p.askedAt == (addrKey{}) {
		f.Origin = registry.Peer
	}
	p.kick, p.evicted, p.named = stream.KickNot, false, f.Named
	return f
}

// Explain enters why the peer gives no stream. nil: it does, or none is wanted.
func (p *peer) Explain(why error) {
	var n registry.NoStream
	p.ps.mu.Lock()
	if addrs := p.addrs(); why != nil && len(addrs) > 0 {
		n = registry.NoStream{Host: p.host.host, EPMD: addrs[0], Why: why.Error()}
	}
	p.ps.mu.Unlock()
	p.ps.Registry.SetNoStream(p, n)
}

// maxTriesAMinute is how often an announced host is tried a minute, at all its addresses each
// time. A host that is away is tried about 35 times in its first minute.
const maxTriesAMinute = 90

// Tries returns the addresses that may be tried now. An announcement leads to addresses on a link
// of this host alone, and not too often. The configured address may be anywhere.
func (p *peer) Tries(addrs []netip.AddrPort) []netip.AddrPort {
	p.ps.mu.Lock()
	host, configured := p.host.host, p.address
	p.ps.mu.Unlock()
	may := host == "" || p.ps.tries.May(host)
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool {
		return a != configured && !(may && p.ps.OnLink(a.Addr()))
	})
}

// AskNames begins or ends to ask a configured peer by NAMES_REQ.
func (p *peer) AskNames(ask bool) {
	p.ps.mu.Lock()
	defer p.ps.mu.Unlock()
	if p.address.IsValid() {
		p.ps.Others.Configured(p.address, ask)
	}
}

// Moved has an announced peer's addresses looked for.
func (p *peer) Moved() {
	p.ps.mu.Lock()
	host, announced := p.host.host, len(p.places) > 0
	p.ps.mu.Unlock()
	if announced {
		p.ps.FindAgain(host)
	}
}

// Forget forgets that the peer has asked us.
func (p *peer) Forget() {
	p.ps.mu.Lock()
	defer p.ps.mu.Unlock()
	p.ps.unask(p)
	p.poke(stream.KickNot)
}
