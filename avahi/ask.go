package avahi

import (
	"context"
	"net/netip"

	"github.com/goerlang/eclus/registry"
)

// epmdKey is an epmd on the LAN.
type epmdKey struct {
	host string
	port uint16
}

// epmd returns the epmd that the instance stands for.
func (it *item) epmd() epmdKey { return epmdKey{it.node.Host, it.node.Port} }

// ask has the epmd that an instance stands for asked for its nodes, now and from time to time, unless the epmd announces
// its nodes itself.
func (b *browsing) ask(it *item) {
	if b.link.opts.Names == nil || b.announcers[it.epmd()] > 0 {
		return
	}
	it.stop()
	if !b.admit(it) {
		b.after(it, askEvery, func() { b.ask(it) }) // there may be a place by then
		return
	}
	if it.asking {
		return
	}
	it.asking = true
	ctx, cancel := context.WithTimeout(b.ctx, askTimeout)
	addr := netip.AddrPortFrom(it.node.Addresses[0], it.node.Port)
	b.asks.Go(func() {
		defer cancel()
		names, err := b.link.opts.Names(ctx, addr)
		b.session.mail.post(func() error { b.answered(it, names, err); return nil })
	})
}

// admit tells whether the instance is one of the maxAsked whose epmds are asked, and makes it one if there is a place.
func (b *browsing) admit(it *item) bool {
	switch {
	case it.admitted:
	case b.admitted < maxAsked:
		it.admitted = true
		b.admitted++
	case !b.saidAsked:
		b.saidAsked = true
		b.link.log.Warn("too many epmds on the LAN: not all are asked for their nodes", "limit", maxAsked)
	}
	return it.admitted
}

// dismiss has the epmd no longer asked, takes back what it has told and gives back its place.
func (b *browsing) dismiss(it *item) {
	it.stop()
	b.untell(it)
	if it.admitted {
		it.admitted = false
		b.admitted--
	}
}

// answered takes note of what an epmd has told. One that didn't answer is believed for another time
// that its nodes are still there.
func (b *browsing) answered(it *item, names []NamedPort, err error) {
	it.asking = false
	if !it.admitted {
		return // dismissed meanwhile
	}
	b.after(it, askEvery, func() { b.ask(it) })
	if err == nil {
		it.askFails = 0
		b.tell(it, names)
		return
	}
	b.link.log.Debug("epmd on the LAN doesn't answer", "host", it.node.Host, "err", err)
	if it.askFails++; it.askFails > 1 {
		b.untell(it)
	}
}

// tell enters the nodes that an epmd has told of and takes back those it no longer tells of.
func (b *browsing) tell(it *item, names []NamedPort) {
	told := make(map[string]bool)
	for _, p := range names[:min(len(names), registry.MaxNeighboursPerHost)] {
		n, err := neighbourOfEpmd(it.node, p)
		if err != nil {
			b.reject("bad answer from an epmd on the LAN", it, it.node.Host, err)
			continue
		}
		told[p.Name] = true
		b.known.see(sightingKey{it.place, p.Name}, n)
	}
	for name := range it.told {
		if !told[name] {
			b.known.lose(sightingKey{it.place, name})
		}
	}
	it.told = told
}

// untell takes back all nodes that an epmd has told of.
func (b *browsing) untell(it *item) { b.tell(it, nil) }

// announcerCame and announcerWent count the instances of an epmd that announces its nodes itself, and so is not asked.
func (b *browsing) announcerCame(epmd epmdKey) {
	if b.announcers[epmd]++; b.announcers[epmd] > 1 {
		return
	}
	for _, it := range b.silent(epmd) {
		b.dismiss(it)
	}
}

func (b *browsing) announcerWent(epmd epmdKey) {
	if b.announcers[epmd]--; b.announcers[epmd] > 0 {
		return
	}
	delete(b.announcers, epmd)
	for _, it := range b.silent(epmd) {
		b.ask(it)
	}
}

// silent returns the instances that stand for an epmd and say nothing of its nodes.
func (b *browsing) silent(epmd epmdKey) []*item {
	var found []*item
	for _, it := range b.items {
		if it.resolved && it.kind == kindEpmd && it.epmd() == epmd {
			found = append(found, it)
		}
	}
	return found
}
