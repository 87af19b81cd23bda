package peers

import (
	"net/netip"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/internal/places"
)

// Places of peers that were found are shared by who answers there: one MAC address where the kernel
// knows it, else one IP address. One attacker can have any number of those on a link.
//
// A peer with a stream keeps its place. But one who has half of all streams gets no more; see
// package places. If all places are taken, a new peer takes that of another without a stream: of
// one who has more, or which has not answered and never gave a stream.

// Owners know whose an address is, as netif.MACs do.
type Owners interface {
	Of(netip.Addr) string                    // as was read last
	Now(addr netip.Addr, onLink bool) string // for who has just talked to it; it may ask the kernel
}

// owner returns whose share a peer is of: who has given a stream, else who should answer. ps.mu is
// held.
func (ps *Peers) owner(p *peer) string {
	if p.owner != "" {
		return p.owner
	}
	if addrs := p.addrs(); len(addrs) > 0 {
		return ps.Owners.Of(addrs[0].Addr())
	}
	return ""
}

// isFound reports whether a peer has a place of those that were found. ps.mu is held.
func (p *peer) isFound() bool {
	return !p.address.IsValid() && (p.hasSource() || p.live != nil)
}

// counted returns how many peers are so. ps.mu is held.
func (ps *Peers) counted(is func(*peer) bool) (n int) {
	for p := range ps.all {
		if is(p) {
			n++
		}
	}
	return n
}

// shares returns how many places each owner has, and who has which. ps.mu is held.
func (ps *Peers) shares() (shares map[string]int, owners map[*peer]string) {
	shares, owners = make(map[string]int), make(map[*peer]string)
	for p := range ps.all {
		if p.isFound() {
			owners[p] = ps.owner(p)
			shares[owners[p]]++
		}
	}
	return shares, owners
}

// mayStream reports whether somebody may give another stream. ps.mu is held.
func (ps *Peers) mayStream(p *peer, owner string) bool {
	others := func(q *peer) bool { return q != p && q.isFound() && q.live != nil }
	return places.MayTake(ps.counted(others), maxFound, func() int {
		return ps.counted(func(q *peer) bool { return others(q) && q.owner == owner })
	})
}

// admit adds a peer that was found at an address, if there is a place for it. It returns nil if
// there is none. asks says that it has asked us. ps.mu is held.
func (ps *Peers) admit(addr netip.Addr, asks bool) *peer {
	if ps.counted((*peer).isFound) < maxFound {
		return ps.add()
	}
	if p := ps.dispensable(ps.Owners.Of(addr), asks); p != nil {
		ps.dismiss(p)
		return ps.add()
	}
	ps.waiting = true
	if !ps.full {
		ps.full = true
		ps.Log.Warn("too many epmds on the LAN: some give no stream", "limit", maxFound)
	}
	return nil
}

// dispensable returns the peer that gives way to a new one, or nil. It is of whoever has most, and
// rather one that has not answered. To one that has asked us, one that is only announced gives way
// before it had time to answer.
func (ps *Peers) dispensable(newcomer string, asks bool) *peer {
	shares, owners := ps.shares()
	mine := shares[newcomer]
	var best *peer
	for p, owner := range owners {
		his := shares[owner]
		failed := p.owner == "" && (!p.streamed || asks && p.askedAt == addrKey{})
		if p.live != nil || his <= mine+1 && !(failed && his >= mine) {
			continue
		}
		if best == nil || his > shares[owners[best]] || his == shares[owners[best]] && failed && best.streamed {
			best = p
		}
	}
	return best
}

// dismiss takes from a peer all that says that it exists, so that its Follower ends.
func (ps *Peers) dismiss(p *peer) {
	if ps.announced[p.host] == p {
		delete(ps.announced, p.host)
		ps.streams = nil
	}
	for at := range p.places {
		ps.gaveWay[at] = true
	}
	clear(p.places)
	ps.unask(p)
	p.poke(stream.KickNot)
}

// admitWaiting gives places to those that are announced and have none, as far as there are any. Who
// has least comes first. ps.mu is held.
func (ps *Peers) admitWaiting() {
	for ps.waiting {
		at, is := ps.mostPatient()
		if !is {
			ps.waiting = len(ps.gaveWay) > 0
			return
		}
		if !ps.announce(at, ps.records[at]) {
			return
		}
	}
}

// mostPatient returns the place that waits and is of whoever has least. What has given way waits
// until there is room. ps.mu is held.
func (ps *Peers) mostPatient() (at avahi.Place, is bool) {
	shares, _ := ps.shares()
	least, isRoom := 0, ps.counted((*peer).isFound) < maxFound
	for place, e := range ps.records.Giving() {
		if ps.announced[placeKey(e)] != nil || ps.gaveWay[place] && !isRoom {
			continue
		}
		if his := shares[ps.Owners.Of(e.Addrs[0].Addr())]; !is || his < least {
			at, is, least = place, true, his
		}
	}
	return at, is
}
