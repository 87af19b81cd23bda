package told

import (
	"sync"

	"github.com/goerlang/eclus/internal/places"
)

// quota are places that all epmds share by whose they are; see package places.
type quota struct {
	most int

	mu    sync.Mutex
	taken int
	his   map[string]int // of whoever answers at an address
}

func newQuota(most int) *quota { return &quota{most: most, his: make(map[string]int)} }

// take reports whether somebody gets another place.
func (q *quota) take(who string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !places.MayTake(q.taken, q.most, func() int { return q.his[who] }) {
		return false
	}
	q.add(who, 1)
	return true
}

// force takes a place that there must be.
func (q *quota) force(who string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(who, 1)
}

// give gives n places back.
func (q *quota) give(who string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(who, -n)
}

func (q *quota) add(who string, n int) {
	q.taken += n
	if q.his[who] += n; q.his[who] == 0 {
		delete(q.his, who)
	}
}
