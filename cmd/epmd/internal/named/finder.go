// Package named finds the epmds that a person or a program names: by address, by a name in DNS, or
// as the default gateway.
//
// A [Finder] follows names and gateways as they change, and tells all addresses to those who
// connect there. It looks names up every 30 s, at most 16 at a time, and for at most 10 s each.
// A name that can't be looked up keeps the addresses that it had.
//
// Methods may be called concurrently, and none blocks. Run blocks until its context ends. It has a
// goroutine for each name.
package named

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/internal/netif"
)

// How names are looked up.
const (
	lookUpEvery = 30 * time.Second
	lookUpTime  = 10 * time.Second
	firstRetry  = time.Second // after a failure; each one doubles it
	atOnce      = 16
	maxNames    = MaxWhos // that are followed, of all places together
)

// LookupFunc returns the addresses of a host of one network, "ip4" or "ip6".
type LookupFunc func(ctx context.Context, network, name string) ([]netip.Addr, error)

// Options are what a Finder needs.
type Options struct {
	Port uint16 // of epmds that are named without one
	// Configure is told all addresses when they have changed: those that this host's owner has
	// named, and those that a program alone has written down. It must not block.
	Configure func(named, written []netip.AddrPort)
	Log       *slog.Logger

	Lookup   LookupFunc                     // nil: that of package net, without libc
	Gateways func() ([]netip.Addr, error)   // nil: as the kernel says
	Watch    func() (*netif.Watcher, error) // of default routes; nil: as the kernel says
}

// Finder finds all who are named. Make it with New.
type Finder struct {
	Options
	wake  chan struct{} // holds a token when Run has to look at gateways
	slots chan struct{} // of lookups
	names sync.WaitGroup

	mu       sync.Mutex
	ctx      context.Context // of Run; nil: it has not begun
	sets     map[string]set
	followed map[string]*name
	gateways []netip.Addr
	last     [2][]netip.AddrPort // what Configure was told
	full     bool                // it was said that there are too many names
}

// set is who is named in one place.
type set struct {
	whos    []Who
	written bool // by a program
}

// New returns a Finder that finds addresses alone before Run.
func New(o Options) *Finder {
	if o.Lookup == nil {
		// libc's resolver can't be told to stop.
		o.Lookup = (&net.Resolver{PreferGo: true}).LookupNetIP
	}
	if o.Gateways == nil {
		o.Gateways = netif.Gateways
	}
	if o.Watch == nil {
		o.Watch = netif.WatchRoutes
	}
	return &Finder{
		Options: o, wake: make(chan struct{}, 1), slots: make(chan struct{}, atOnce),
		sets: make(map[string]set), followed: make(map[string]*name),
	}
}

// Set replaces those who are named in one place, such as a flag or a file. written says that a
// program may have done so, rather than this host's owner.
func (f *Finder) Set(place string, written bool, whos []Who) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(f.sets[place].whos, whos) {
		return
	}
	if f.sets[place] = (set{slices.Clone(whos), written}); len(whos) == 0 {
		delete(f.sets, place)
	}
	f.follow()
	f.publish()
	f.poke()
}

// LinksChanged has all looked up at once. What was being looked up may have got no further.
func (f *Finder) LinksChanged() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.followed {
		n.poke()
	}
	f.poke()
}

// Run follows names and gateways until ctx ends. It returns nil, and is called once.
func (f *Finder) Run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	for _, n := range f.followed {
		f.begin(n)
	}
	f.mu.Unlock()
	defer f.names.Wait()
	var routes *netif.Watcher
	defer func() { routes.Close() }()
	for {
		if routes == nil && f.wantsGateways() {
			var err error
			if routes, err = f.Watch(); err != nil {
				f.Log.Warn("changes of the gateway are noticed with those of interfaces only", "err", err)
			}
		}
		f.readGateways()
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-routes.Changed():
		}
	}
}

// poke has Run look at gateways.
func (f *Finder) poke() {
	select {
	case f.wake <- struct{}{}:
	default: // the token is there already
	}
}

func (f *Finder) wantsGateways() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sets {
		if slices.ContainsFunc(s.whos, func(w Who) bool { return w.Gateway }) {
			return true
		}
	}
	return false
}

// readGateways asks the kernel, which keeps nobody waiting. If the kernel can't be asked, the
// gateways stay as they were.
func (f *Finder) readGateways() {
	if !f.wantsGateways() {
		return
	}
	gateways, err := f.Gateways()
	if err != nil {
		f.Log.Warn("gateway not found", "err", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gateways = gateways
	f.publish()
}

// follow begins to follow the names that are in the sets, and ends to follow others. f.mu is held.
func (f *Finder) follow() {
	wanted := make(map[string]bool)
	for _, place := range slices.Sorted(maps.Keys(f.sets)) {
		for _, w := range f.sets[place].whos {
			if w.Name != "" {
				wanted[w.Name] = true
			}
		}
	}
	for text, n := range f.followed {
		if !wanted[text] {
			n.end()
			delete(f.followed, text)
		}
	}
	f.full = f.full && len(wanted) > maxNames
	for text := range wanted {
		switch {
		case f.followed[text] != nil:
		case len(f.followed) < maxNames:
			n := newName(text)
			f.followed[text] = n
			f.begin(n)
		case !f.full:
			f.full = true
			f.Log.Warn("too many names of epmds: some are not looked up", "limit", maxNames)
		}
	}
}

// begin begins to look up a name, if Run has begun and has not ended. f.mu is held.
func (f *Finder) begin(n *name) {
	if f.ctx == nil || f.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	n.end = cancel
	f.names.Go(func() {
		defer cancel()
		f.keep(ctx, n)
	})
}

// publish tells all addresses, if they have changed. f.mu is held.
func (f *Finder) publish() {
	var lists [2][]netip.AddrPort // those of this host's owner lead
	seen := make(map[netip.AddrPort]bool)
	places := slices.Sorted(maps.Keys(f.sets))
	for i, written := range []bool{false, true} {
		for _, place := range places {
			s := f.sets[place]
			if s.written != written {
				continue
			}
			for _, w := range s.whos {
				for _, at := range f.addrs(w) {
					if !seen[at] {
						seen[at] = true
						lists[i] = append(lists[i], at)
					}
				}
			}
		}
	}
	if !slices.Equal(lists[0], f.last[0]) || !slices.Equal(lists[1], f.last[1]) {
		f.last = lists
		f.Configure(lists[0], lists[1])
	}
}

// addrs returns where those are who are named so, as far as that is known. f.mu is held.
func (f *Finder) addrs(w Who) []netip.AddrPort {
	addrs := []netip.Addr{w.Addr}
	switch n := f.followed[w.Name]; {
	case w.Gateway:
		addrs = f.gateways
	case w.Name == "":
	case n != nil:
		addrs = n.addrs()
	default:
		addrs = nil
	}
	var list []netip.AddrPort
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(a, cmp.Or(w.Port, f.Port)))
	}
	return list
}
