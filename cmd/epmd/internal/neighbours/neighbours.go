// Package neighbours asks the epmds of other hosts which nodes they have, and tells the
// registry.
//
// Package avahi tells an Asker which epmds are announced. The Asker asks them by NAMES_REQ over
// TCP. It has a goroutine for each epmd that is being asked, at most 64. Found and Gone do not
// block. Run blocks until its context ends and no epmd is being asked any more.
package neighbours

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

// How epmds of hosts are asked that don't announce their nodes.
const (
	askEvery   = 30 * time.Second
	askTimeout = 5 * time.Second
	maxAsked   = 64  // announced epmds, which count anew for each interface and IP version
	maxName    = 255 // bytes of a full node name
)

// NamesFunc asks the epmd at an address which nodes it has.
type NamesFunc func(context.Context, netip.AddrPort) (epmd.Names, error)

// Asker asks each announced epmd whose host does not announce its nodes. It asks at once, then
// every 30 s for as long as the epmd is announced.
type Asker struct {
	source *registry.Source
	names  NamesFunc
	onLink func(netip.Addr) bool
	log    *slog.Logger
	say    *throttle.Throttle

	mu         sync.Mutex
	ctx        context.Context // of Run; nil: it has not begun
	asking     sync.WaitGroup
	found      map[avahi.Place]*found
	announcers map[key]int // places of each epmd that announces its nodes itself
	admitted   int
	said       bool // that there are too many
}

// key is what makes an epmd on the LAN.
type key struct {
	host string
	port uint16
}

func keyOf(e avahi.EPMD) key { return key{e.Host, e.Addrs[0].Port()} }

// found is an epmd in one place.
type found struct {
	at       avahi.Place
	epmd     avahi.EPMD
	timer    *time.Timer         // to the next time that it is asked, or nil
	told     map[string]struct{} // alive names that it has told
	admitted bool                // it has one of the maxAsked places; only while it is to be asked
	asking   bool
	fails    int // in a row
}

// notAnnounced is the interface of the places of epmds that are configured.
const notAnnounced = -2

func (f *found) isConfigured() bool { return f.at.Interface == notAnnounced }

func (f *found) key() key { return keyOf(f.epmd) }

// told names a node that an epmd has told of.
type told struct {
	at   avahi.Place
	name string
}

// Options are what an Asker needs.
type Options struct {
	Registry *registry.Registry
	Names    NamesFunc             // nil: over the network
	OnLink   func(netip.Addr) bool // as in netif.Links; nil: as the kernel says
	Log      *slog.Logger
}

// New returns an Asker that asks nobody before Run.
func New(o Options) *Asker {
	a := &Asker{
		source:     o.Registry.NewSource(registry.Announced),
		names:      o.Names,
		onLink:     o.OnLink,
		log:        o.Log,
		say:        throttle.New(),
		found:      make(map[avahi.Place]*found),
		announcers: make(map[key]int),
	}
	if a.names == nil {
		a.names = func(ctx context.Context, addr netip.AddrPort) (epmd.Names, error) {
			return reach.Client(addr).Names(ctx)
		}
	}
	if a.onLink == nil {
		a.onLink = new(netif.Links).OnLink
	}
	return a
}

// errOffLink is why an epmd is not asked that was announced on another link.
var errOffLink = errors.New("its address is not on a link of this host")

// Run asks until ctx ends, then takes back what was told. It returns nil, and is called once.
func (a *Asker) Run(ctx context.Context) error {
	a.mu.Lock()
	a.ctx = ctx
	for _, f := range a.found {
		a.ask(f)
	}
	a.mu.Unlock()
	<-ctx.Done()
	a.mu.Lock()
	for _, f := range a.found {
		f.stop()
	}
	a.mu.Unlock() // whoever has the lock from now on finds that ctx has ended
	a.asking.Wait()
	a.source.Close()
	return nil
}

// Found notes what is announced in a place.
func (a *Asker) Found(at avahi.Place, e avahi.EPMD) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.found[at]
	if f != nil && (f.epmd.Announces != e.Announces || f.key() != keyOf(e)) {
		a.drop(f)
		f = nil
	}
	if f == nil {
		f = &found{at: at, epmd: e}
		a.found[at] = f
		if e.Announces {
			a.announcerCame(f.key())
		}
	}
	f.epmd = e
	a.ask(f)
}

// Configured begins or ends asking the epmd at an address. It is asked as announced ones are. Its
// nodes have origin Peer, and its host has no name but the address.
func (a *Asker) Configured(addr netip.AddrPort, ask bool) {
	at := avahi.Place{Interface: notAnnounced, Label: addr.String()}
	if !ask {
		a.Gone(at)
		return
	}
	a.Found(at, avahi.EPMD{Host: addr.Addr().String(), Addrs: []netip.AddrPort{addr}})
}

// Gone notes that nothing is announced in a place any more.
func (a *Asker) Gone(at avahi.Place) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.found[at]; f != nil {
		a.drop(f)
	}
}

func (a *Asker) drop(f *found) {
	delete(a.found, f.at)
	if f.epmd.Announces {
		a.announcerWent(f.key())
	} else {
		a.dismiss(f)
	}
}

// ask has an epmd asked, now and from time to time. It does nothing if the host announces its
// nodes itself.
func (a *Asker) ask(f *found) {
	if !a.running() || f.epmd.Announces || a.announcers[f.key()] > 0 {
		return
	}
	f.stop()
	if !a.admit(f) {
		a.askLater(f) // there may be a place by then
		return
	}
	if f.asking {
		return
	}
	f.asking = true
	addr := f.epmd.Addrs[0]
	a.asking.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, askTimeout)
		defer cancel()
		var names epmd.Names
		err := errOffLink
		if f.isConfigured() || a.onLink(addr.Addr()) {
			names, err = a.names(ctx, addr)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.answered(f, names.Nodes, err)
	})
}

// running reports whether Run has begun and its context has not ended.
func (a *Asker) running() bool { return a.ctx != nil && a.ctx.Err() == nil }

// askLater sets the epmd's timer.
func (a *Asker) askLater(f *found) {
	if !a.running() {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(askEvery, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if f.timer == t {
			f.timer = nil
			a.ask(f)
		}
	})
	f.timer = t
}

func (f *found) stop() {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
}

// admit reports whether the epmd is one of the maxAsked. If there is a place, it makes it one.
func (a *Asker) admit(f *found) bool {
	switch {
	case f.admitted:
	case f.isConfigured():
		f.admitted = true
	case a.admitted < maxAsked:
		f.admitted = true
		a.admitted++
	case !a.said:
		a.said = true
		a.log.Warn("too many epmds on the LAN: not all are asked for their nodes", "limit", maxAsked)
	}
	return f.admitted
}

// dismiss has the epmd no longer asked. It takes back what the epmd has told, and its place.
func (a *Asker) dismiss(f *found) {
	f.stop()
	a.tell(f, nil)
	if f.admitted && !f.isConfigured() {
		a.admitted--
	}
	f.admitted = false
}

// answered notes what an epmd has told. One that did not answer is believed once more to have
// its nodes.
func (a *Asker) answered(f *found, names []epmd.NamedPort, err error) {
	f.asking = false
	if !f.admitted {
		return // dismissed meanwhile
	}
	a.askLater(f)
	if err == nil {
		f.fails = 0
		a.tell(f, names)
		return
	}
	a.log.Debug("epmd on the LAN doesn't answer", "host", f.epmd.Host, "err", err)
	if f.fails++; f.fails > 1 {
		a.tell(f, nil)
	}
}

// tell enters the nodes that an epmd has told of. It takes back those that the epmd tells of no
// longer.
func (a *Asker) tell(f *found, names []epmd.NamedPort) {
	if len(names) > registry.MaxNeighboursPerHost {
		names = names[:registry.MaxNeighboursPerHost]
		a.warn("LAN nodes left out", f, "cut", registry.ErrTooManyOfHost)
	}
	now := make(map[string]struct{})
	for _, p := range names {
		n, err := nodeOf(f.epmd, p)
		if err != nil {
			a.warn("bad answer from an epmd on the LAN", f, f.epmd.Host, err)
			continue
		}
		if f.isConfigured() {
			n.Origin = registry.Peer
		}
		now[p.Name] = struct{}{}
		if err := a.source.See(told{f.at, p.Name}, n); err != nil {
			a.warn("LAN node left out", f, "limit", err)
		}
	}
	for name := range f.told {
		if _, still := now[name]; !still {
			a.source.Lose(told{f.at, name})
		}
	}
	f.told = now
}

// warn logs something about an epmd, once a minute for each thing.
func (a *Asker) warn(what string, f *found, thing string, reason error) {
	if withheld, ok := a.say.May(thing); ok {
		a.log.Warn(what, "instance", f.at.Label, "host", f.epmd.Host, "err", reason, "withheld", withheld)
	}
}

// nodeOf checks what an epmd has told of a node. It returns the node.
func nodeOf(e avahi.EPMD, p epmd.NamedPort) (registry.Node, error) {
	n := registry.Node{
		Node:      p.Name + "@" + e.Host,
		Name:      p.Name,
		Host:      e.Host,
		Port:      p.Port,
		EPMDPort:  e.Addrs[0].Port(),
		Addresses: []netip.Addr{e.Addrs[0].Addr()},
		Type:      registry.Normal,
		Origin:    registry.LAN,
		Via:       registry.ViaEPMD,
	}
	switch {
	case !registry.ValidName(p.Name):
		return n, fmt.Errorf("alive name %q", p.Name)
	case len(n.Node) > maxName:
		return n, fmt.Errorf("node name %q", n.Node)
	case p.Port == 0:
		return n, errors.New("port 0")
	}
	return n, nil
}

// announcerCame and announcerWent count the places of an epmd whose host announces its nodes
// itself. Such an epmd is not asked.
func (a *Asker) announcerCame(k key) {
	if a.announcers[k]++; a.announcers[k] > 1 {
		return
	}
	for _, f := range a.silent(k) {
		a.dismiss(f)
	}
}

func (a *Asker) announcerWent(k key) {
	if a.announcers[k]--; a.announcers[k] > 0 {
		return
	}
	delete(a.announcers, k)
	for _, f := range a.silent(k) {
		a.ask(f)
	}
}

// silent returns the places of an epmd that say nothing of its nodes.
func (a *Asker) silent(k key) []*found {
	var list []*found
	for _, f := range a.found {
		if !f.epmd.Announces && f.key() == k {
			list = append(list, f)
		}
	}
	return list
}
