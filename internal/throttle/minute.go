package throttle

import (
	"sync"
	"time"
)

// Minute bounds what others can have done, to so many times a minute for each of them. It counts
// for at most 4,096 of them a minute, and then refuses whoever is not among them. Make one with
// NewMinute. May may be called concurrently.
type Minute struct {
	most int

	mu    sync.Mutex
	since time.Time
	times map[string]int
}

const maxCounted = 4096

// NewMinute returns a Minute in which nothing was done.
func NewMinute(most int) *Minute { return &Minute{most: most, times: make(map[string]int)} }

// May reports whether something may be done once more for the sake of who, and counts it.
func (m *Minute) May(who string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.since) >= time.Minute {
		m.since = now
		clear(m.times)
	}
	n, known := m.times[who]
	if n >= m.most || !known && len(m.times) >= maxCounted {
		return false
	}
	m.times[who] = n + 1
	return true
}
