package stream

import (
	"math"
	"time"

	"github.com/goerlang/eclus/epmd"
)

// probesPerSecond is how many probes of keep-alive all streams together send at most.
const probesPerSecond = 100

// Pace says when an epmd counts as silent: after 5 s, and later if there are more than 100 streams.
// The zero Pace has none. Its caller guards it.
//
// Two probes must get lost in a row, and the epmd must not be back at once (Recheck). The kernel's
// timers are up to 0.3 s late in all. So a host is unreachable within 6 s of its last packet. A
// third probe would make that more than 6 s, or more than a packet a second at rest.
type Pace struct{ streams int }

// Count counts n more streams. It reports whether keep-alive has changed by that.
func (p *Pace) Count(n int) bool {
	was := p.KeepAlive()
	p.streams += n
	return p.KeepAlive() != was
}

// KeepAlive returns what holds for each stream.
func (p *Pace) KeepAlive() epmd.KeepAlive {
	n := max(1, time.Duration(math.Ceil(float64(p.streams)/probesPerSecond)))
	return epmd.KeepAlive{Idle: 3 * n * time.Second, Interval: n * time.Second, Timeout: 5 * n * time.Second}
}
