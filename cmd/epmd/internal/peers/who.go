package peers

import (
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/records"
	"github.com/goerlang/eclus/cmd/epmd/internal/stream"
	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/registry"
)

// live is the stream of a peer, which has said who it is.
type live struct {
	told.Who
	link   string
	stream stream.Stream
}

// claim returns what an epmd says on a stream, and what is known of its address now. ps.mu is held.
func (ps *Peers) claim(w told.Who) records.Claim {
	at := ps.configured[w.Addr]
	return records.Claim{Who: w, Configured: at != nil && !at.unnamed, Trusted: at != nil && !at.written}
}

// Settle decides who is at the other end of a new stream, or of one that has a new host name. If it
// is welcome, the stream is the peer's.
//
// Two addresses are one epmd if both gave the same ID, and both were configured or are in the
// records of its host. Else they are two, and one of them has the host name: the one that is
// announced there or configured, else the first. The other gives no stream. Our own host name is
// nobody else's, unless the other was configured. Whoever has half of all streams gives no more.
func (p *peer) Settle(w told.Who, s stream.Stream) stream.Verdict {
	ps := p.ps
	link, onLink := ps.Link(w.Local, w.Addr.Addr())
	own, owner := ps.Hello(), ps.Owners.Now(w.Addr.Addr(), onLink)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.drop(p)
	claim := ps.claim(w)
	switch {
	case w.Hello.ID == own.ID:
		return stream.Ourselves
	case w.Hello.Host == own.Host && !claim.Configured, !ps.records.MayBe(claim):
		return stream.Impostor
	}
	twin, rivals := ps.others(p, link, claim)
	if twin != nil {
		return p.isTwinOf(twin)
	}
	for _, q := range rivals {
		if !ps.records.Vouched(ps.claim(q.live.Who)) && ps.records.Vouched(claim) {
			continue
		}
		if q.live.Hello.ID == w.Hello.ID {
			return p.isTwinOf(q)
		}
		p.waitsFor = q
		return stream.Impostor
	}
	if !claim.Configured && !ps.mayStream(p, owner) {
		return stream.Greedy
	}
	for _, q := range rivals {
		q.evicted, q.waitsFor = true, p
		q.poke(stream.KickNot)
	}
	p.live, p.waitsFor, p.owner = &live{w, link, s}, nil, owner
	ps.count(1)
	_ = s.SetKeepAlive(ps.pace.KeepAlive()) // it began with that of fewer streams
	return stream.Welcome
}

// isTwinOf notes that a peer is at the other end of another's stream. That one learns of an address
// more.
func (p *peer) isTwinOf(q *peer) stream.Verdict {
	p.waitsFor = q
	q.twins = true
	q.poke(stream.KickNot)
	return stream.Twin
}

// others returns the peer with another stream to the epmd of a new stream of p over the same link,
// or else those whose epmds have its host name.
func (ps *Peers) others(p *peer, link string, is records.Claim) (twin *peer, rivals []*peer) {
	for q := range ps.all {
		if q == p || q.live == nil {
			continue
		}
		switch its := ps.claim(q.live.Who); {
		case ps.records.AreSame(is, its):
			if q.live.link == link {
				return q, nil
			}
		case ps.records.AreRivals(is, its):
			rivals = append(rivals, q)
		}
	}
	return nil, rivals
}

// evictImpostors ends the streams of those who have the name of a host that is announced elsewhere.
func (ps *Peers) evictImpostors() {
	for p := range ps.all {
		if p.live != nil && !ps.records.MayBe(ps.claim(p.live.Who)) {
			p.evicted = true
			p.poke(stream.KickNot)
		}
	}
}

// drop notes that a peer has no stream any more. Those that had to wait for it are tried. ps.mu is
// held.
func (ps *Peers) drop(p *peer) {
	if p.live == nil {
		return
	}
	p.live, p.twins = nil, false
	ps.count(-1)
	if p.unnamed {
		ps.unconfigure(p.address, p)
	}
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
				ps.streams[strings.ToLower(registry.HostLabel(k.host))] = true
			}
		}
	}
	return ps.streams[strings.ToLower(registry.HostLabel(host))]
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
	if changed && !is {
		ps.admitWaiting()
	}
	ps.mu.Unlock()
	if changed {
		ps.StreamsChanged()
	}
}
