package epmd

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// Numbers that say how much long answers may take of the processors.
const (
	laneBurst = 100 * time.Millisecond // after a rest
	laneSlice = 500 * time.Microsecond // about: between two rests
	laneMost  = 10 * time.Millisecond  // that a job counts: others had the processors meanwhile
	laneShare = 8                      // beyond that: one part in so many of all processors' time
)

// lane is where long answers are made and sent. One goroutine does it, a piece at a time. Users
// take turns, one piece each. Once they have used up a burst, the lane rests between pieces. So a
// flood of such requests leaves the processors to lookups, and to whoever else runs here. A flooder
// waits for his answers meanwhile. The zero lane is ready for use.
type lane struct {
	mu    sync.Mutex
	jobs  map[any][]func() // by whose they are, the oldest first; none is empty
	order []any            // of jobs, the one whose turn is next first
	busy  bool             // a goroutine does them
	spent budget           // for that goroutine
}

// add has a job done when its turn has come. The first one calls begin, which is to call work in
// another goroutine.
func (l *lane) add(of any, job func(), begin func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jobs == nil {
		l.jobs = make(map[any][]func())
	}
	if l.jobs[of] == nil {
		l.order = append(l.order, of)
	}
	l.jobs[of] = append(l.jobs[of], job)
	if !l.busy {
		l.busy = true
		begin()
	}
}

// next takes the job whose turn it is. It returns nil if there is none.
func (l *lane) next() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == 0 {
		l.busy, l.order = false, nil
		return nil
	}
	of := l.order[0]
	l.order = l.order[1:]
	list := l.jobs[of]
	if len(list) > 1 {
		l.jobs[of] = list[1:]
		l.order = append(l.order, of)
	} else {
		delete(l.jobs, of)
	}
	return list[0]
}

// work does all jobs. When ctx has ended it no longer rests.
func (l *lane) work(ctx context.Context) {
	for job := l.next(); job != nil; job = l.next() {
		began := time.Now()
		job()
		if rest := l.spent.spend(began, time.Now()); rest > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(rest):
			}
		}
	}
}

// budget is how much time may be spent. It is time that passes. Where others want the processors
// too, more of it passes for the same work.
type budget struct {
	left time.Duration // negative: too much was spent
	at   time.Time     // when that was so
}

// spend spends the time from began to ended. It returns how long to rest then.
func (b *budget) spend(began, ended time.Time) (rest time.Duration) {
	each := laneShare / time.Duration(min(laneShare, runtime.GOMAXPROCS(0)))
	earned := min(time.Minute, ended.Sub(b.at)) / each
	b.left = min(laneBurst, b.left+earned) - min(laneMost, ended.Sub(began))
	b.at = ended
	if b.left > -laneSlice {
		return 0
	}
	return -b.left * each
}
