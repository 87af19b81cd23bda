package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	learnTime = 200 * time.Millisecond // that registrations wait for the store's size
	askTime   = 10 * time.Second       // that a question to the bus may take
	calmPause = 5 * time.Second        // after a message, before what it brought is counted
	lookTwice = time.Second            // before it is counted again: systemd drops ended ones soon
	busyPause = 50 * time.Millisecond  // between two counts while connections wait for room
	againTime = time.Minute            // before what systemd has not taken is sent once more
)

// toldSize returns FileDescriptorStoreMax= if systemd has passed it (FDSTORE=, from release 254
// on). It also returns whether systemd has to be asked.
func toldSize() (size int, ask bool) {
	size, err := strconv.Atoi(os.Getenv("FDSTORE"))
	if err != nil {
		return unknownSize, true
	}
	return size, false
}

// ask learns the size of the store. Then, until ctx ends, it counts what systemd has whenever that
// is in doubt.
func (s *Store) ask(ctx context.Context) {
	s.learn(ctx)
	s.learnLimit(ctx)
	missing := 0 // at the last count
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.doubts:
		}
		if !pause(ctx, s.pauseBefore(missing > 0)) {
			return
		}
		missing = s.survey(ctx, missing > 0)
	}
}

// learn asks systemd for the size of the store. Registrations wait for at most 200 ms.
func (s *Store) learn(ctx context.Context) {
	s.mu.Lock()
	learning := s.learning
	s.mu.Unlock()
	if !learning {
		return
	}
	timer := time.AfterFunc(learnTime, func() { s.learnt(unknownSize) })
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	size, err := askUnit[uint32](ctx, "FileDescriptorStoreMax")
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("size of the fd store unknown", "err", err)
		}
		s.learnt(unknownSize)
		return
	}
	s.learnt(int(size))
}

// learnLimit asks systemd how many files a new process may have open at first.
func (s *Store) learnLimit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	files, err := s.limit(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("LimitNOFILE= unknown, taken for what this process may open", "files", s.files, "err", err)
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = min(s.files, files)
	s.changed()
}

// openLimit returns how many files this process may have open. Go has raised the limit as far as it
// may.
func openLimit() (uint64, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return 0, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	return now.Cur, nil
}

// softLimit asks systemd for the soft LimitNOFILE= of this service.
func softLimit(ctx context.Context) (uint64, error) {
	return askUnit[uint64](ctx, "LimitNOFILESoft")
}

// learnt enters the size of the store. It lets in what waits, or puts it aside, in its order.
func (s *Store) learnt(size int) {
	s.mu.Lock()
	s.learning = false
	if size != unknownSize {
		s.size = size
	}
	waiting := s.queue
	s.queue = nil
	var answers []func()
	for _, c := range waiting {
		if c.sent {
			s.enqueue(c)
			continue
		}
		s.reserve(c, -1)
		c.queued = false
		s.admit(c)
		if !c.queued {
			answers = append(answers, c.answer()...)
		}
	}
	s.changed()
	s.wake()
	s.mu.Unlock()
	call(answers)
}

// pauseBefore returns how long to wait before systemd is asked.
func (s *Store) pauseBefore(again bool) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, o := s.batch(); o == storeFull {
		return busyPause
	}
	if again {
		return min(lookTwice, s.calm)
	}
	return s.calm
}

// survey asks systemd how many descriptors it has, and compares. It returns how many connections
// systemd lacks. They count if they were missing before.
func (s *Store) survey(ctx context.Context, before bool) (missing int) {
	s.mu.Lock()
	sent, ended, messages := s.sent, s.ended, s.messages
	s.mu.Unlock()
	n, err := s.count(ctx)
	if ctx.Err() != nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.wake()
	if err != nil {
		s.log.Debug("descriptors in the fd store not counted", "err", err)
		s.leaving = 0 // they have had the time to go
		return 0
	}
	const stateItself = 1
	ended = s.ended - ended
	s.leaving = max(0, n-stateItself-sent) + ended
	missing = max(0, sent-ended-(n-stateItself))
	switch {
	case missing == 0:
		s.counted = messages
		s.setMissing(0)
	case before:
		s.setMissing(missing)
		s.makeUp(n)
	default:
		s.doubt()
	}
	return missing
}

func (s *Store) setMissing(n int) {
	if s.missing != n {
		s.missing = n
		s.changed()
	}
}

// makeUp deals with connections that were sent and are not among the n descriptors in the store.
// Nobody knows which they are, but they came after the last good count. If the store is full,
// makeUp puts them aside, the newest first. Otherwise it sends all in doubt again, once a minute:
// systemd recognizes those that it has.
func (s *Store) makeUp(n int) {
	var doubtful []*connection
	for _, c := range s.connections {
		if c.sent && !c.queued && (c.message > s.counted || s.counted == 0) {
			doubtful = append(doubtful, c)
		}
	}
	slices.SortFunc(doubtful, func(a, b *connection) int { return cmp.Compare(b.id, a.id) })
	switch {
	case len(doubtful) == 0 && s.counted > 0:
		s.counted = 0 // what was there has gone
		s.doubt()
	case s.size != unknownSize && n >= s.size:
		for _, c := range doubtful[:min(s.missing, len(doubtful))] {
			s.reserve(c, -1)
			c.sent = false
			s.sent--
			s.setLack(c, noRoom)
			s.setUnfit(c.uid, append(s.unfit[c.uid], c))
		}
		s.setMissing(0)
	case time.Since(s.again) > againTime:
		s.again = time.Now()
		for _, c := range slices.Backward(doubtful) {
			s.enqueue(c)
		}
	default:
		time.AfterFunc(againTime, s.doubt)
	}
}

// storeCount returns how many descriptors systemd has in the store, once systemd has read all that
// it was sent.
func storeCount(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if err := barrier(ctx); err != nil {
		return 0, err
	}
	n, err := askUnit[uint32](ctx, "NFileDescriptorStore")
	return int(n), err
}

// barrier waits until systemd has read what it was sent. It sends a descriptor with BARRIER=1,
// which systemd closes then (sd_notify_barrier(3)).
func barrier(ctx context.Context) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer r.Close()
	defer w.Close()
	deadline, _ := ctx.Deadline()
	conn.SetWriteDeadline(deadline)
	r.SetReadDeadline(deadline)
	defer context.AfterFunc(ctx, func() {
		conn.SetWriteDeadline(time.Unix(1, 0))
		r.SetReadDeadline(time.Unix(1, 0))
	})()
	err = control(w, func(fd int) error {
		_, _, err := conn.WriteMsgUnix([]byte("BARRIER=1"), unix.UnixRights(fd), nil)
		return err
	})
	w.Close()
	if err == nil {
		if _, err = r.Read(make([]byte, 1)); errors.Is(err, io.EOF) {
			return nil
		}
	}
	return fmt.Errorf("wait for the service manager: %w", err)
}

// askUnit asks systemd over D-Bus for a numeric property of the service that this process is.
//
// Package dbus of go-systemd opens two connections and subscribes to all jobs before it asks
// anything.
func askUnit[N uint32 | uint64](ctx context.Context, property string) (n N, err error) {
	connect := dbus.ConnectSystemBus
	if strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "/run/user/") {
		connect = dbus.ConnectSessionBus
	}
	conn, err := connect(dbus.WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("ask systemd for %s: %w", property, err)
	}
	defer conn.Close()
	const systemd1 = "org.freedesktop.systemd1"
	var unit dbus.ObjectPath
	err = conn.Object(systemd1, "/org/freedesktop/systemd1").
		CallWithContext(ctx, systemd1+".Manager.GetUnitByPID", dbus.FlagNoAutoStart, uint32(os.Getpid())).Store(&unit)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for the unit of this process: %w", err)
	}
	err = conn.Object(systemd1, unit).
		CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart, systemd1+".Service", property).Store(&n)
	if err != nil {
		return 0, fmt.Errorf("ask systemd for %s: %w", property, err)
	}
	return n, nil
}
