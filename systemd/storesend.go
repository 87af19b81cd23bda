package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/places"
)

// perMessage is how many descriptors the kernel takes in one message (SCM_MAX_FD).
const perMessage = 253

const (
	flushTime   = 2 * time.Second       // that a process which ends waits for systemd
	tooManyTime = 50 * time.Millisecond // after ETOOMANYREFS, before the next try
	complaints  = 10 * time.Second      // between two of one kind
)

// obstacle is what keeps the Store from sending more.
type obstacle uint8

const (
	nothing     obstacle = iota // all is sent
	socketFull                  // systemd has to read first
	tooMany                     // the kernel has too many descriptors in flight (ETOOMANYREFS)
	storeFull                   // until systemd has dropped connections that have ended
	sizeUnknown                 // until it is known, for a moment
	pacing                      // systemd is to have time for others first
)

// send sends what can be sent now, each message by one. It returns the withheld answers that may
// go.
func (s *Store) send(one func() ([]func(), obstacle)) (answers []func()) {
	for {
		more, o := one()
		answers = append(answers, more...)
		if o != nothing || s.idle() {
			return answers
		}
	}
}

func (s *Store) idle() bool { return len(s.queue) == 0 && len(s.removals) == 0 }

// sendPaced sends one message, unless systemd is to have time for others first.
func (s *Store) sendPaced() (answers []func(), o obstacle) {
	if s.pace.wait(time.Now(), s.leaving) > 0 {
		return nil, pacing
	}
	return s.sendOne()
}

// sendOne sends one message if there is one to send. It returns the answers that may go then.
func (s *Store) sendOne() (answers []func(), o obstacle) {
	if len(s.removals) > 0 {
		if o, _ := s.try("FDSTOREREMOVE=1\nFDNAME="+s.removals[0], nil); o != nothing {
			return nil, o
		}
		s.removals = s.removals[1:]
		s.noteMessage()
		return nil, nothing
	}
	batch, o := s.batch()
	if len(batch) == 0 {
		return nil, o
	}
	fds := make([]int, len(batch))
	for i, c := range batch {
		fds[i] = int(c.fd)
	}
	o, err := s.try("FDSTORE=1\nFDNAME="+nodeName+"\nFDPOLL=1", fds)
	if o != nothing {
		return nil, o
	}
	s.queue = s.queue[len(batch):]
	if len(s.queue) == 0 {
		s.queue = nil
	}
	s.messages++
	s.noteMessage()
	for _, c := range batch {
		answers = append(answers, s.noteSent(c, err)...)
	}
	s.doubt()
	return answers, nothing
}

// noteMessage notes that a message was sent.
func (s *Store) noteMessage() {
	now := time.Now()
	switch {
	case s.pace.sent(now):
		s.measure()
	case s.pace.asked:
		s.pace.count(now)
		s.recordPace() // this process may end before systemd has read the barrier
	}
}

// batch returns the connections of the next message, as many as there is room for.
func (s *Store) batch() ([]*connection, obstacle) {
	if s.learning {
		return nil, sizeUnknown
	}
	room := perMessage
	if s.size != unknownSize {
		room = min(room, s.size-1-s.sent-s.leaving)
	}
	batch := s.queue[:0:0]
	for _, c := range s.queue[:min(perMessage, len(s.queue))] {
		if !c.sent {
			room--
		}
		if room < 0 {
			return batch, storeFull
		}
		batch = append(batch, c)
	}
	return batch, nothing
}

// noteSent notes that a connection was sent, or could not be. It returns the connection's answer.
func (s *Store) noteSent(c *connection, err error) []func() {
	c.queued = false
	c.message = s.messages
	if !c.sent {
		c.sent = true
		s.sent++
	}
	if err != nil {
		s.missing++ // until systemd has been asked
	}
	s.setLack(c, none)
	return c.answer()
}

// try sends a message unless something is in the way. It returns an error only if trying again is
// no use.
func (s *Store) try(text string, fds []int) (obstacle, error) {
	var rights []byte
	if fds != nil {
		rights = unix.UnixRights(fds...)
	}
	err := control(s.conn, func(fd int) error {
		return unix.Sendmsg(fd, []byte(text), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
		return socketFull, nil
	case errors.Is(err, unix.ETOOMANYREFS):
		return tooMany, nil
	case err != nil && !s.failing && !errors.Is(err, net.ErrClosed):
		s.log.Error("service manager not told", "message", strings.ReplaceAll(text, "\n", " "), "err", err)
	}
	s.failing = err != nil
	return nothing, err
}

// Flush sends what waits for systemd, for at most 2 s. Nodes that still wait after that get no
// answer from this process. It implements epmd.Keeper; s may be nil.
func (s *Store) Flush() {
	if s == nil {
		return
	}
	s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.queue {
		c.answer() // is not to be sent
	}
}

func (s *Store) flush() {
	for deadline := time.Now().Add(flushTime); ; {
		answers, o, idle := s.locked(s.sendOne)
		call(answers)
		left := time.Until(deadline)
		switch {
		case idle || left <= 0:
			return
		case o == socketFull:
			_ = control(s.conn, func(fd int) error {
				_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds())+1)
				return err
			})
		case o == sizeUnknown:
			s.learnt(unknownSize)
		case o != nothing:
			time.Sleep(min(left, tooManyTime))
		}
	}
}

// locked calls send with the lock held, and reports whether nothing is left to send.
func (s *Store) locked(send func() ([]func(), obstacle)) (answers []func(), o obstacle, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answers, o = send()
	return answers, o, s.idle()
}

// Run sends what waits for systemd, and asks systemd what it has, until ctx ends. Flush is called
// after that. s may be nil.
func (s *Store) Run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { s.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.ask(ctx); return nil })
	g.Go(func() error { return s.run(ctx) })
	return g.Wait()
}

func (s *Store) run(ctx context.Context) error {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.queued:
		case <-retry:
		}
		o, err := s.drain()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.promote()
		s.complain()
		rest := s.pace.wait(time.Now(), s.leaving)
		s.mu.Unlock()
		switch o {
		case pacing:
			retry = time.After(rest)
		case tooMany:
			retry = time.After(tooManyTime)
		case storeFull:
			s.doubt()
		}
	}
}

// drain waits for room in systemd's socket and sends. It returns when nothing waits or something
// else is in the way.
func (s *Store) drain() (o obstacle, err error) {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return nothing, err
	}
	err = raw.Write(func(uintptr) bool {
		for {
			var answers []func()
			var idle bool
			answers, o, idle = s.locked(s.sendPaced)
			call(answers)
			if o != nothing || idle {
				return o != socketFull
			}
		}
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return o, err
}

// complain logs what is not kept, when the reason has changed or the last entry is 10 s old.
func (s *Store) complain() {
	text, nodes := s.shortage()
	kind := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
	if len(s.beyond) > 0 {
		user, _ := places.Greediest(s.beyond)
		kind += fmt.Sprint(user)
	}
	if kind == s.said || kind != "" && s.said != "" && time.Since(s.saidAt) < complaints {
		return
	}
	if text == "" {
		s.log.Info("all registrations are kept again")
	} else {
		s.log.Warn("registrations not kept: they end with this process", "nodes", nodes, "reason", text)
	}
	s.said, s.saidAt = kind, time.Now()
}

// Shortage returns what is not kept, "" if nothing, and how many nodes can be kept. A negative
// number means as many as there are. s may be nil.
func (s *Store) Shortage() (text string, bound int) {
	if s == nil {
		return "", -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, _ = s.shortage()
	if s.size == unknownSize {
		return text, -1
	}
	return text, s.places()
}

func (s *Store) shortage() (text string, nodes int) {
	var reasons []string
	add := func(count int, reason string) {
		if count > 0 {
			nodes += count
			reasons = append(reasons, fmt.Sprintf("%d of them are not kept: %s", count, reason))
		}
	}
	if s.size == 0 {
		return "registrations end with this process: FileDescriptorStoreMax= is 0", len(s.connections)
	}
	add(s.shortages[noRoom], fmt.Sprintf("FileDescriptorStoreMax= is %d", s.size))
	if len(s.beyond) > 0 {
		add(s.shortages[userFull]+s.shortages[forOthers], s.whoHasMost())
	}
	add(s.shortages[noNames], "LISTEN_FDNAMES holds no more")
	add(s.shortages[noFiles], fmt.Sprintf("LimitNOFILE= is %d, and systemd needs two files for each", s.files))
	add(s.shortages[late], "systemd has not taken them yet")
	add(s.missing, "systemd has not taken them")
	return strings.Join(reasons, "; "), nodes
}

// whoHasMost says who has no place for another connection: of several users the one with most
// that are not kept.
func (s *Store) whoHasMost() string {
	user, _ := places.Greediest(s.beyond)
	text := fmt.Sprintf("%s has %d of %d places", places.UserName(user), s.users[user], s.places())
	if others := len(s.beyond) - 1; others > 0 {
		text += fmt.Sprintf(", and %d more have their share", others)
	}
	return text
}
