package avahi

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/goerlang/eclus/registry"
)

// maxAmends is how many nodes that found no place in the registry are tried again when one goes.
const maxAmends = 16

// neighbours keeps the registry's neighbours as the merger has them. It outlives sessions, so that
// neighbours don't go only because avahi-daemon was restarted. Its methods may be called concurrently.
type neighbours struct {
	reg *registry.Registry
	log *slog.Logger
	say *throttle

	mu      sync.Mutex
	merger  *merger
	refused map[registry.NeighbourKey]registry.Node // for which the registry has no place
	timer   *time.Timer                             // to the next expire, or nil
}

func newNeighbours(reg *registry.Registry, log *slog.Logger) *neighbours {
	return &neighbours{
		reg: reg, log: log, say: newThrottle(),
		merger: newMerger(), refused: make(map[registry.NeighbourKey]registry.Node),
	}
}

func (k *neighbours) see(key sightingKey, n registry.Node) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.apply(k.merger.see(key, n))
}

func (k *neighbours) lose(key sightingKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.apply(k.merger.lose(key))
}

// relink sets what the order of addresses depends on.
func (k *neighbours) relink(prefixes []netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.apply(k.merger.relink(prefixes))
}

// doubt makes all that has been seen count only until the time is over, unless it is seen again. Called
// again, it sets the time anew.
func (k *neighbours) doubt(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stop()
	k.merger.renew()
	k.timer = time.AfterFunc(d, k.expire)
}

func (k *neighbours) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.apply(k.merger.expire())
}

// close removes all neighbours.
func (k *neighbours) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stop()
	k.merger.renew()
	k.apply(k.merger.expire())
}

func (k *neighbours) stop() {
	if k.timer != nil {
		k.timer.Stop()
	}
}

func (k *neighbours) apply(changes []change) {
	for _, c := range changes {
		if !c.gone {
			k.set(c.node)
			continue
		}
		delete(k.refused, c.node.NeighbourKey())
		k.reg.RemoveNeighbour(c.node.NeighbourKey())
		k.amend()
	}
}

// set enters a node into the registry, or remembers that there is no place for it.
func (k *neighbours) set(n registry.Node) {
	err := k.reg.SetNeighbour(n)
	if err == nil {
		delete(k.refused, n.NeighbourKey())
		return
	}
	k.refused[n.NeighbourKey()] = n
	if withheld, ok := k.say.may("limit"); ok {
		k.log.Warn("LAN node left out", "err", err, "withheld", withheld)
	}
}

// amend tries again some of the nodes for which there was no place.
func (k *neighbours) amend() {
	tries := 0
	for _, n := range k.refused {
		if tries++; tries > maxAmends {
			return
		}
		k.set(n)
	}
}

// throttle keeps what is said of the same thing to once a minute. It remembers at most maxThrottled
// things, and forgets them all when there are more. Its methods may be called concurrently.
type throttle struct {
	mu     sync.Mutex
	things map[string]*said
}

type said struct {
	last     time.Time
	withheld int // since then
}

const (
	throttlePeriod = time.Minute
	maxThrottled   = 1024
)

func newThrottle() *throttle { return &throttle{things: make(map[string]*said)} }

// may tells whether something is to be said of that thing now, and if so how often it was not to be since the last time.
func (t *throttle) may(thing string) (withheld int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := t.things[thing]
	if s != nil && now.Sub(s.last) < throttlePeriod {
		s.withheld++
		return 0, false
	}
	if s != nil {
		withheld = s.withheld
	} else if len(t.things) >= maxThrottled {
		clear(t.things)
	}
	t.things[thing] = &said{last: now}
	return withheld, true
}
