package systemd

import (
	"os"
	"time"
)

// How much of systemd's time epmd takes. systemd reads its notify socket before it does anything
// else. Nodes that come and go without pause would keep it at that: systemctl would get no answer,
// and connections that have ended would pile up in the store. To drop one costs systemd more than
// to take one: from version 254 on it starts a process for each.
const (
	maxBusy   = time.Second / 2 // that systemd may be at our messages, after a rest
	maxRest   = 3 * time.Second // that it gets at most before the next message
	restShare = 3               // times as long as it was at our messages
	seldom    = time.Second     // messages further apart are not measured
	barrierIn = time.Minute     // in which systemd reads a barrier, or is taken to have done so
)

// pace gives systemd most of its time for others, once it has been at our messages for maxBusy. It
// sums up for how long it was, and takes off a part of how long it was not. The zero pace has had
// its rest.
type pace struct {
	busy    time.Duration // the sum, at the time at
	at      time.Time
	asked   bool      // systemd has yet to read a barrier
	message time.Time // the last one
}

// count brings the sum up to date.
func (p *pace) count(now time.Time) {
	passed := now.Sub(p.at)
	if !p.asked {
		passed = -passed / restShare
	}
	p.busy = min(max(0, p.busy+passed), maxBusy+maxRest/restShare)
	p.at = now
}

// wait returns how long the next message has to wait. If systemd has yet to read a barrier, that
// may become less.
func (p *pace) wait(now time.Time) time.Duration {
	p.count(now)
	switch {
	case p.busy < maxBusy:
		return 0
	case p.asked:
		return maxRest
	}
	return restShare * (p.busy - maxBusy + 1)
}

// tired returns the pace of a process that follows another, which may have had systemd busy.
func tired() pace { return pace{busy: maxBusy - 1, at: time.Now()} }

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
	s.wake()
}
