package stream

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"time"
)

// When what happens.
const (
	Jitter     = 250 * time.Millisecond // at most, before an epmd is tried that was found
	SlotTime   = 250 * time.Millisecond // that a try counts as one of those at a time
	Patience   = 2 * time.Second        // that a host has to give a stream
	snapshotIn = time.Minute            // that an epmd has to tell of all its nodes

	firstRetry = 100 * time.Millisecond
	FastRetry  = 2 * time.Second  // between tries for the first minute, at most
	fastFor    = time.Minute      // after the first try
	slowRetry  = 30 * time.Second // between tries later, at most
	parkedFor  = time.Hour        // before an epmd is tried anew that gives no stream
	maxCloses  = 3                // in a row, after which that is so
	steadyFor  = 10 * time.Second // that a stream lasts until its end is a loss of its own

	Grace   = 5 * time.Second        // that a stream may be away before its nodes are unreachable
	Recheck = 400 * time.Millisecond // the same after silence: probes may have got lost
	Forgets = 10 * time.Minute       // after which an unreachable epmd's nodes are gone
)

// retry says when an epmd is tried again.
type retry struct {
	since time.Time // when the tries began
	last  time.Duration
}

// next returns how long after the beginning of the last try the next one begins.
func (r *retry) next(now time.Time) time.Duration {
	most := FastRetry
	if now.Sub(r.since) >= fastFor {
		most = slowRetry
	}
	// A quarter more is the most that comes of it.
	r.last = min(max(2*r.last, firstRetry), most*4/5)
	return r.last*3/4 + rand.N(r.last/2)
}

// timeout returns how long a try may take. Unanswered packets are sent again, the more slowly the
// longer a try lasts.
func (r *retry) timeout() time.Duration { return min(max(r.last, FastRetry), Grace) }

// isSilence reports whether a stream has failed because nothing came back.
func isSilence(err error) bool {
	for _, e := range []error{syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
