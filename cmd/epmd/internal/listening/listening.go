// Package listening finds out whether other hosts can reach the nodes of this one. It looks
// where each node listens, and which addresses this host has on a LAN.
//
// A Watcher asks the kernel by netlink and tells the registry. Run blocks until its context
// ends. All is done in its own goroutine; another one waits for changes of links.
package listening

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/registry"
)

// After a look at nodes that have come, the Watcher rests for lookPause, or for lookShare times as
// long as the look took if that is longer. While nodes keep coming, it looks at those older than
// minAge. So nodes that come and go without pause are not looked at. If that happens twice in a
// row, the pauses double, up to maxPause: a timer has the runtime watch over its threads, which
// delays answers.
const (
	lookPause = 10 * time.Millisecond
	maxPause  = 80 * time.Millisecond
	minAge    = 2 * time.Millisecond
	lookShare = 50
)

// A node may register before it listens. It is looked at again after firstLook. Then the pauses
// double, as long as they are not longer than lastLook.
const (
	firstLook = 250 * time.Millisecond
	lastLook  = 32 * time.Second
)

// Watcher keeps the registry informed of where each node of this host listens, and of the
// addresses that this host has on a LAN. Both decide whether other hosts can reach the node.
type Watcher struct {
	reg        *registry.Registry
	interfaces []string // as -interface has them
	log        *slog.Logger

	looked chan struct{}             // closed after the first look
	come   map[uint64]*registry.Node // that are to be looked at, by ID
	again  *time.Timer               // to the next look at nodes at whose ports nobody listens
	pause  time.Duration             // before that
	said   bool                      // that the kernel can't be asked
}

// Options are what a Watcher needs.
type Options struct {
	Registry   *registry.Registry
	Interfaces []string // those of the LAN; empty: those that lead to one
	Log        *slog.Logger
}

// New returns a Watcher that looks at nothing before Run.
func New(o Options) *Watcher {
	return &Watcher{
		reg: o.Registry, interfaces: o.Interfaces, log: o.Log,
		looked: make(chan struct{}), come: make(map[uint64]*registry.Node),
	}
}

// Looked is closed once Run has looked where the nodes listen that were there when it began.
func (w *Watcher) Looked() <-chan struct{} { return w.looked }

// Run returns nil when ctx has ended. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	links, err := netif.Watch()
	if err != nil {
		w.log.Warn("addresses that come and go are not noticed", "err", err)
	}
	defer links.Close()
	w.again = time.NewTimer(lastLook)
	defer w.again.Stop()
	w.readAddresses()
	changes := w.reg.SubscribeLocal().Lasting()
	defer changes.Close()
	w.take(changes.Take(), 0)
	close(w.looked)
	rested := time.NewTimer(0)
	defer rested.Stop()
	var pause time.Duration
	look := func(age time.Duration) {
		began := time.Now()
		if pause = min(2*pause, maxPause); w.take(changes.Take(), age) {
			pause = lookPause / 2 // the first time that it looks at none, this is lookPause
		}
		rested.Reset(max(lookPause, pause, lookShare*time.Since(began)))
	}
	var ready <-chan struct{} // nil: it rests
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-links.Changed():
			w.readAddresses()
		case <-w.again.C:
			w.lookAgain()
		case <-rested.C:
			if len(w.come) > 0 || len(changes.Ready()) > 0 {
				look(minAge)
			} else {
				ready = changes.Ready()
			}
		case <-ready:
			ready = nil
			look(0)
		}
	}
}

// readAddresses tells the registry the addresses that this host has now.
func (w *Watcher) readAddresses() {
	addrs, err := netif.LANAddresses(w.interfaces)
	if err != nil {
		w.log.Debug("addresses not read", "err", err)
		return
	}
	w.reg.SetLANAddresses(addrs)
}

// take looks at the nodes that have come and are of that age. It leaves the others for the next
// time. It reports whether it has looked at some.
func (w *Watcher) take(b registry.Batch, age time.Duration) bool {
	if b.Anew {
		clear(w.come)
		w.look(b.Nodes)
		return true
	}
	for _, e := range b.Events {
		switch e.Kind {
		case registry.Up:
			w.come[e.Node.ID] = e.Node
		case registry.Down:
			delete(w.come, e.Node.ID)
		}
	}
	old := w.takeOld(time.Now().Add(-age))
	w.look(old)
	return len(old) > 0
}

// takeOld takes the nodes out of come that had come by then.
func (w *Watcher) takeOld(then time.Time) (old []*registry.Node) {
	for id, n := range w.come {
		if !n.Since.After(then) {
			old = append(old, n)
			delete(w.come, id)
		}
	}
	return old
}

// look finds out where nodes of this host listen, if nobody has looked yet.
func (w *Watcher) look(nodes []*registry.Node) {
	nodes = slices.DeleteFunc(nodes, func(n *registry.Node) bool { return n.Listens != nil })
	if len(nodes) > 0 && w.find(nodes) {
		w.pause = firstLook
		w.again.Reset(w.pause)
	}
}

// lookAgain looks at the nodes that did not listen.
func (w *Watcher) lookAgain() {
	nodes := slices.DeleteFunc(w.reg.Local(), func(n *registry.Node) bool { return n.Listens == nil || len(n.Listens) > 0 })
	if w.pause *= 2; len(nodes) > 0 && w.find(nodes) && w.pause <= lastLook {
		w.again.Reset(w.pause)
	}
}

// find tells the registry where nodes listen. It reports whether one of them doesn't. If the
// kernel can't be asked, nodes count as listening everywhere.
func (w *Watcher) find(nodes []*registry.Node) (closed bool) {
	ports := make([]uint16, 0, len(nodes))
	for _, n := range nodes {
		ports = append(ports, n.Port)
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	found, err := owner.FindListeners(ports)
	if err != nil && !w.said {
		w.said = true
		w.log.Warn("not known where nodes listen: all count as reachable", "err", err)
	}
	for _, n := range nodes {
		addrs := found[n.Port]
		if err != nil {
			addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		}
		closed = closed || len(addrs) == 0
		w.reg.SetListens(n, addrs)
	}
	return closed
}
