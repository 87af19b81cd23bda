// Package throttle keeps others from filling a log. The same thing is said once a minute.
package throttle

import (
	"sync"
	"time"
)

// Throttle remembers what was said of at most 1,024 things. When there are more, it forgets
// them all. Make one with New. May may be called concurrently.
type Throttle struct {
	mu     sync.Mutex
	things map[string]*said
}

type said struct {
	last     time.Time
	withheld int // since then
}

const (
	period    = time.Minute
	maxThings = 1024
)

// New returns a Throttle of which nothing was said.
func New() *Throttle { return &Throttle{things: make(map[string]*said)} }

// May reports whether something may be said of that thing now. If so, it also returns how often
// nothing could be said since the last time.
func (t *Throttle) May(thing string) (withheld int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := t.things[thing]
	if s != nil && now.Sub(s.last) < period {
		s.withheld++
		return 0, false
	}
	if s != nil {
		withheld = s.withheld
	} else if len(t.things) >= maxThings {
		clear(t.things)
	}
	t.things[thing] = &said{last: now}
	return withheld, true
}
