// Package vouch resolves the hosts in full names of neighbours, for the registry to see whether
// they are the neighbours' own.
//
// A node b@db.example.com that hostb.local announces is called so by right if db.example.com has an
// address of hostb.local. The resolver says so: DNS or /etc/hosts. Names in .local are left alone,
// as whoever announces the node could answer for them too.
//
// Run blocks until its context ends. It asks at most 8 names at a time, and 30 a minute for each
// host that announces nodes.
package vouch

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

const (
	atOnce    = 8
	aMinute   = 30 // names for the sake of one host
	maxHosts  = 4096
	askTime   = 5 * time.Second
	askAgain  = 5 * time.Minute  // for what was found
	askAnew   = time.Minute      // for what was not
	askLater  = 10 * time.Second // when a host has had its share
	maxLength = 253              // bytes of a name in DNS
)

// LookupFunc returns the addresses of a host.
type LookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// Options are what a Resolver needs.
type Options struct {
	Registry *registry.Registry
	Lookup   LookupFunc // nil: that of package net
	Log      *slog.Logger
}

// Resolver resolves hosts. Make it with New.
type Resolver struct {
	Options
	hosts   map[string]*host
	of      map[uint64]string // host in the full name of each node, by its ID
	minute  *throttle.Minute
	answers chan answer
	slots   chan struct{}
	asking  sync.WaitGroup
}

// host is one that occurs in full names.
type host struct {
	nodes map[uint64]struct{} // by ID
	payer string              // one of those who announce them
	due   time.Time           // zero: it is being asked
}

type answer struct {
	host  string
	addrs []netip.Addr
}

// New returns a Resolver that asks nothing before Run.
func New(o Options) *Resolver {
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &Resolver{
		Options: o,
		hosts:   make(map[string]*host), of: make(map[uint64]string),
		minute: throttle.NewMinute(aMinute), answers: make(chan answer), slots: make(chan struct{}, atOnce),
	}
}

// Run returns nil when ctx has ended. It is called once.
func (r *Resolver) Run(ctx context.Context) error {
	defer r.asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := r.Registry.SubscribeNeighbours()
	defer changes.Close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes.Ready():
			r.take(changes.Take())
		case a := <-r.answers:
			r.answered(a)
		case <-timer.C:
		}
		r.askDue(ctx)
		timer.Reset(r.next())
	}
}

// take takes note of what has become of neighbours.
func (r *Resolver) take(b registry.Batch) {
	if b.Anew {
		r.of = make(map[uint64]string)
		for _, h := range r.hosts {
			clear(h.nodes)
		}
	}
	for _, n := range b.Nodes {
		r.changed(n, false)
	}
	for _, e := range b.Events {
		r.changed(e.Node, e.Kind == registry.Down)
	}
	for name, h := range r.hosts {
		if len(h.nodes) == 0 && !h.due.IsZero() {
			delete(r.hosts, name)
			r.Registry.SetResolved(name, nil)
		}
	}
}

// changed takes note of a neighbour.
func (r *Resolver) changed(n *registry.Node, gone bool) {
	if was, known := r.of[n.ID]; known {
		delete(r.of, n.ID)
		delete(r.hosts[was].nodes, n.ID)
	}
	name := hostOf(n)
	if gone || name == "" {
		return
	}
	h := r.hosts[name]
	if h == nil {
		if len(r.hosts) >= maxHosts {
			return
		}
		h = &host{nodes: make(map[uint64]struct{}), payer: n.Host, due: time.Now()}
		r.hosts[name] = h
	}
	h.nodes[n.ID] = struct{}{}
	r.of[n.ID] = name
}

// hostOf returns the host in a neighbour's full name if the resolver has to say whether it is the
// neighbour's own, or "".
func hostOf(n *registry.Node) string {
	_, name, _ := strings.Cut(n.Node, "@")
	name = strings.ToLower(name)
	_, notIP := netip.ParseAddr(name)
	if notIP == nil || len(name) > maxLength || strings.HasSuffix(name, ".local") ||
		strings.EqualFold(name, n.Host) || strings.EqualFold(name, registry.HostLabel(n.Host)) {
		return ""
	}
	return name
}

// askDue begins to ask what is due, as far as there are slots.
func (r *Resolver) askDue(ctx context.Context) {
	now := time.Now()
	for name, h := range r.hosts {
		if h.due.IsZero() || h.due.After(now) {
			continue
		}
		if len(r.slots) == cap(r.slots) {
			return
		}
		if !r.minute.May(h.payer) {
			h.due = now.Add(askLater)
			continue
		}
		r.slots <- struct{}{}
		h.due = time.Time{}
		r.asking.Go(func() { r.ask(ctx, name) })
	}
}

func (r *Resolver) ask(ctx context.Context, name string) {
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	addrs, err := r.Lookup(limited, name)
	if err != nil {
		r.Log.Debug("host in a node's name not resolved", "host", name, "err", err)
	}
	select {
	case <-ctx.Done():
	case r.answers <- answer{name, addrs}:
	}
}

// answered enters what was resolved.
func (r *Resolver) answered(a answer) {
	<-r.slots
	h := r.hosts[a.host]
	if h.due = time.Now().Add(askAgain); len(a.addrs) == 0 {
		h.due = time.Now().Add(askAnew)
	}
	if len(h.nodes) == 0 {
		delete(r.hosts, a.host)
		a.addrs = nil
	}
	r.Registry.SetResolved(a.host, a.addrs)
}

// next returns how long nothing is due.
func (r *Resolver) next() time.Duration {
	wait := askAgain
	if len(r.slots) == cap(r.slots) {
		return wait // an answer comes first
	}
	for _, h := range r.hosts {
		if !h.due.IsZero() {
			wait = min(wait, time.Until(h.due))
		}
	}
	return max(wait, 0)
}
