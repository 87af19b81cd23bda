package peers

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
)

// live is the stream of a peer, which has said who it is.
type live struct {
	told.Who
	link   string
	stream stream.Stream
}

// Settle decides who is at the other end of a new stream, or of one that has a new host name. If it
// is welcome, the stream is the peer's.
//
// Two addresses are one epmd if both gave the same ID, and both were configured or are in the
// records of its host. Else they are two, and one of them has the host name: the one that is
// announced there or configured, else the first. The other gives no stream. Our own host name is
// nobody else's, unless the other was configured.
func (p *peer) Settle(w told.Who, s stream.Stream) stream.Verdict {
	ps := p.ps
	link, _ := ps.Link(w.Local, w.Addr.Addr())
	own := ps.Hello()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.drop(p)
	is := &live{w, link, s}
	switch {
	case w.Hello.ID == own.ID:
		return stream.Ourselves
	case !p.address.IsValid() && (w.Hello.Host == own.Host || !ps.mayBe(is)):
		return stream.Impostor
	}
	twin, rivals := ps.others(p, is)
	if twin != nil {
		p.waitsFor = twin
		return stream.Twin
	}
	for _, q := range rivals {
		if !ps.isVouched(q, q.live) && ps.isVouched(p, is) {
			continue
		}
		p.waitsFor = q
		if q.live.Hello.ID == w.Hello.ID {
			return stream.Twin
		}
		return stream.Impostor
	}
	for _, q := range rivals {
		q.evicted, q.waitsFor = true, p
		q.poke(stream.KickNot)
	}
	p.live, p.waitsFor = is, nil
	if ps.count(1); ps.scale > 1 {
		_ = s.SetKeepAlive(ps.keepAlive()) // it began with that of fewer streams
	}
	return stream.Welcome
}

// others returns the peer with another stream to the epmd of a new stream of p over the same link,
// or else those whose epmds have its host name.
func (ps *Peers) others(p *peer, is *live) (twin *peer, rivals []*peer) {
	for q := range ps.all {
		switch {
		case q == p || q.live == nil:
		case ps.isSame(p, is, q):
			if q.live.link == is.link {
				return q, nil
			}
		case ps.isRival(is, q.live):
			rivals = append(rivals, q)
		}
	}
	return nil, rivals
}

// isSame reports whether a new stream of p leads to the epmd of q.
func (ps *Peers) isSame(p *peer, is *live, q *peer) bool {
	if is.Hello.ID != q.live.Hello.ID || is.Hello.ID == (epmd.PeerID{}) {
		return false
	}
	host := is.Hello.Host
	return is.Addr == q.live.Addr ||
		p.address.IsValid() && q.address.IsValid() ||
		host == q.live.Hello.Host && ps.inRecords(host, is.Addr) && ps.inRecords(host, q.live.Addr)
}

// isRival reports whether two epmds claim one host name. A host may have several, at other ports.
func (ps *Peers) isRival(a, b *live) bool {
	host := a.Hello.Host
	return host == b.Hello.Host && (a.Addr.Port() == b.Addr.Port() ||
		a.Addr.Addr() != b.Addr.Addr() && !(ps.inRecords(host, a.Addr) && ps.inRecords(host, b.Addr)))
}

// mayBe reports whether an epmd that nobody has configured may have the host name that it says. It
// may not have that of an epmd that is announced elsewhere and gives no streams: nobody would
// contradict. Of two that give streams, Settle knows which is right.
func (ps *Peers) mayBe(is *live) bool {
	host, elsewhere := is.Hello.Host, false
	for _, e := range ps.claims {
		switch {
		case e.Announces, !strings.EqualFold(e.Host, host):
		case slices.ContainsFunc(e.Addrs, func(a netip.AddrPort) bool { return a.Addr() == is.Addr.Addr() }):
			return true
		default:
			elsewhere = true
		}
	}
	return !elsewhere
}

// evictImpostors ends the streams of those who have the name of a host that is announced elsewhere.
func (ps *Peers) evictImpostors() {
	for p := range ps.all {
		if p.live != nil && !p.address.IsValid() && !ps.mayBe(p.live) {
			p.evicted = true
			p.poke(stream.KickNot)
		}
	}
}

// isVouched reports whether the host name is the peer's by more than its own word.
func (ps *Peers) isVouched(p *peer, is *live) bool {
	return p.address.IsValid() || ps.inRecords(is.Hello.Host, is.Addr)
}

// inRecords reports whether an address is in the records that announce the epmd of a host.
func (ps *Peers) inRecords(host string, addr netip.AddrPort) bool {
	for _, e := range ps.places {
		if e.Host != host {
			continue
		}
		for _, a := range e.Addrs {
			if a == addr {
				return true
			}
		}
	}
	return false
}

// drop notes that a peer has no stream any more. Those that had to wait for it are tried. ps.mu is
// held.
func (ps *Peers) drop(p *peer) {
	if p.live == nil {
		return
	}
	p.live = nil
	ps.count(-1)
	for q := range ps.all {
		if q.waitsFor == p {
			q.waitsFor = nil
			q.poke(stream.KickNow)
		}
	}
}

// Lost notes that the peer has no stream any more.
func (p *peer) Lost() {
	p.ps.mu.Lock()
	defer p.ps.mu.Unlock()
	p.ps.drop(p)
}

// Streamed reports whether a host gives a stream. If so, nothing of it has to be resolved. It also
// does for its first 2 seconds, in which a stream may come. A stream that is lost counts while its
// nodes are kept. host is a label as in NAME@HOST.
func (ps *Peers) Streamed(host string) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.streams == nil {
		ps.streams = make(map[string]bool)
		for k, p := range ps.announced {
			if p.streamed && (p.live == nil || p.live.Hello.Host == k.host) {
				ps.streams[label(k.host)] = true
			}
		}
	}
	return ps.streams[label(host)]
}

// label returns the first label of a host name.
func label(host string) string {
	l, _, _ := strings.Cut(host, ".")
	return strings.ToLower(l)
}

// SetStreamed enters whether the peer gives a stream.
func (p *peer) SetStreamed(is bool) {
	ps := p.ps
	ps.mu.Lock()
	changed := p.streamed != is
	p.streamed = is
	if changed || is {
		ps.streams = nil
	}
	ps.mu.Unlock()
	if changed {
		ps.StreamsChanged()
	}
}
