package systemd

import (
	"os"
	"time"
)

// How much of systemd's time epmd takes. systemd reads its notify socket before it does anything
// else. New nodes without pause would keep it at that: systemctl would get no answer. From release
// 254 on, connections that have ended would pile up in the store: systemd starts a process for each
// that it drops, which costs more than to take one.
const (
	seldom    = time.Second // messages further apart are not measured
	barrierIn = time.Minute // in which systemd reads a barrier, or is taken to have done so
	churnAt   = 64          // connections that have ended and may be in the store still
)

// rhythm says how much of systemd's time epmd takes.
type rhythm struct {
	busy  time.Duration // that systemd may be at our messages, after a rest
	share time.Duration // times as long as it was beyond that, it gets for others
	rest  time.Duration // that it gets at most before the next message
}

// most returns the sum that is followed by the longest rest.
func (r rhythm) most() time.Duration { return r.busy + r.rest/r.share }

var (
	calm  = rhythm{5 * time.Second, 1, time.Second}            // nodes come and stay
	churn = rhythm{500 * time.Millisecond, 3, 3 * time.Second} // they also go
)

// pace gives systemd time for others, once it has been at our messages for too long. It sums up for
// how long it was, and takes off a part of how long it was not. The zero pace has had its rest.
type pace struct {
	busy    time.Duration // the sum, at the time at
	at      time.Time
	forks   bool      // systemd starts a process for each connection that it drops
	churns  bool      // until it has had all its rest
	asked   bool      // systemd has yet to read a barrier
	message time.Time // the last one
}

// rhythm returns the one that counts now.
func (p *pace) rhythm() rhythm {
	if p.churns {
		return churn
	}
	return calm
}

// count brings the sum up to date.
func (p *pace) count(now time.Time) {
	r := p.rhythm()
	passed := max(0, now.Sub(p.at)) // the clock may have been set back since an earlier process
	if !p.asked {
		passed = -passed / r.share
	}
	p.busy = min(max(0, p.busy+passed), r.most())
	p.at = now
	p.churns = p.churns && p.busy > 0
}

// wait returns how long the next message has to wait, with so many ended connections in the store.
// If systemd has yet to read a barrier, that may become less.
func (p *pace) wait(now time.Time, ended int) time.Duration {
	p.count(now)
	if p.forks && ended >= churnAt {
		p.churns = true
		p.busy = min(p.busy, churn.most())
	}
	switch r := p.rhythm(); {
	case p.busy < r.busy:
		return 0
	case p.asked:
		return r.rest
	default:
		return min(r.share*(p.busy-r.busy+1), r.rest)
	}
}

// sent notes a message. It reports whether a barrier is to follow.
func (p *pace) sent(now time.Time) bool {
	follows := !p.asked && now.Sub(p.message) < seldom
	p.message = now
	return follows
}

// measure sends a barrier. systemd closes the descriptor that comes with it when it has dealt with
// all that was sent before: see sd_notify(3).
func (s *Store) measure() {
	r, w, err := os.Pipe()
	if err != nil {
		return // there will be descriptors again
	}
	s.pace.count(time.Now()) // until now it was not at our messages
	err = control(w, func(fd int) error {
		o, err := s.try("BARRIER=1", []int{fd})
		s.pace.asked = o == nothing && err == nil
		return err
	})
	w.Close()
	if err != nil || !s.pace.asked {
		r.Close()
		return
	}
	go s.awaitBarrier(r)
}

// awaitBarrier notes that systemd has dealt with all.
func (s *Store) awaitBarrier(r *os.File) {
	defer r.Close()
	r.SetReadDeadline(time.Now().Add(barrierIn))
	_, _ = r.Read(make([]byte, 1)) // how it ends makes no difference
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace.count(time.Now())
	s.pace.asked = false
	s.recordPace()
	s.wake()
}

// recordPace writes to the state how busy systemd is, for a process that follows.
func (s *Store) recordPace() {
	if s.pace.busy > 0 {
		s.record(record{Gone: true, Busy: s.pace.busy, Since: s.pace.at})
	}
}
