package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"eclus/registry"
)

// Names of descriptors in the fd store (FDNAME=, at most 255 ASCII characters without ":"): a connection
// has that of its node's ID, so that the name says nothing that would have to be escaped.
const (
	nodePrefix = "node-"
	stateName  = "state"
)

// Store keeps the connections of registered nodes in systemd's file descriptor store, and beside them what
// is needed to rebuild the registry: they are there when the service is started again, however it ended. See
// sd_notify(3), FDSTORE=1, and systemd.service(5), FileDescriptorStoreMax=.
//
// Keep and Release never wait: what systemd's socket does not take at once is sent by Run, in order.
// systemd answers none of this; a store that is off or full drops descriptors in silence, see StoreSize.
type Store struct {
	reg  *registry.Registry
	log  *slog.Logger
	conn *net.UnixConn

	mu      sync.Mutex
	state   *state
	queue   []message     // what systemd has yet to take
	queued  chan struct{} // holds a token while queue may be not empty
	failing bool          // the last message failed, which is in the log
}

// message is a datagram to systemd.
type message struct {
	text string
	name string // FDNAME= of the descriptor it stores; empty: it stores none
	fd   int    // what is stored
	sent func() // called when systemd has it, without the lock held; may be nil
}

// OpenStore returns a Store for the service that this process is, or nil if it is none. The registry has been
// restored from inherited.
func OpenStore(reg *registry.Registry, inherited Inherited, log *slog.Logger) (*Store, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the service manager: %w", err)
	}
	s := &Store{reg: reg, log: log, conn: conn, queued: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openState(inherited.state); err != nil {
		conn.Close()
		return nil, err
	}
	for _, name := range inherited.superseded {
		s.send(message{text: remove(name)})
	}
	return s, nil
}

// openState continues the state that is stored, or begins one and stores it before anything else, so that
// however little systemd keeps, it keeps that.
func (s *Store) openState(stored *os.File) (err error) {
	if stored != nil {
		s.state, err = continueState(stored, s.reg)
		return err
	}
	if s.state, err = newState(s.reg); err != nil {
		return err
	}
	return control(s.state.file, func(fd int) error {
		s.send(message{text: "FDSTORE=1", name: stateName, fd: fd})
		return nil
	})
}

func nodeName(id uint64) string { return nodePrefix + strconv.FormatUint(id, 10) }
func remove(name string) string { return "FDSTOREREMOVE=1\nFDNAME=" + name }

// Keep stores the connection of a node that is being registered. It implements epmd.Keeper.
func (s *Store) Keep(fd int, n *registry.Node, kept func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(recordOf(n, false))
	return s.send(message{text: "FDSTORE=1", name: nodeName(n.ID), fd: fd, sent: kept})
}

// Release forgets the connection of a node that has gone or is to go. It implements epmd.Keeper.
func (s *Store) Release(n *registry.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record(recordOf(n, true))
	name := nodeName(n.ID)
	if i := slices.IndexFunc(s.queue, func(m message) bool { return m.name == name }); i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1) // its descriptor will be another's
		return
	}
	s.send(message{text: remove(name)})
}

// Update notes that more is known of a node, if it is still registered.
func (s *Store) Update(n *registry.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.reg.Lookup(n.Name); now == nil || now.ID != n.ID {
		return
	}
	s.record(recordOf(n, false))
}

// record writes to the state, and begins a new one when most of it is of the past.
func (s *Store) record(r record) {
	err := s.state.append(r)
	if err == nil && s.state.size > s.state.full {
		err = s.state.renew(s.reg)
	}
	if err != nil {
		s.log.Error("registration not kept", "node", r.Name, "err", err)
	}
}

// send sends a message at once if systemd takes it, after those that wait, and tells whether it did.
func (s *Store) send(m message) bool {
	if len(s.queue) == 0 && s.try(m) {
		return true
	}
	s.queue = append(s.queue, m)
	s.wake()
	return false
}

// wake has Run look at the queue.
func (s *Store) wake() {
	select {
	case s.queued <- struct{}{}:
	default: // the token is there already
	}
}

// try sends a message and tells whether it is done with, by success or by an error that will not pass.
func (s *Store) try(m message) bool {
	text, rights := m.text, []byte(nil)
	if m.name != "" {
		text += "\nFDNAME=" + m.name + "\nFDPOLL=0"
		rights = unix.UnixRights(m.fd)
	}
	err := control(s.conn, func(fd int) error {
		return unix.Sendmsg(fd, []byte(text), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) {
		return false
	}
	if err != nil && !s.failing && !errors.Is(err, net.ErrClosed) {
		s.log.Error("service manager not told", "message", strings.ReplaceAll(text, "\n", " "), "err", err)
	}
	s.failing = err != nil
	return true
}

// control calls op with the descriptor of c.
func control(c syscall.Conn, op func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = op(int(fd)) }); err != nil {
		return err
	}
	return opErr
}

// flush sends what waits for systemd, if that goes quickly.
func (s *Store) flush() {
	if s == nil {
		return
	}
	s.conn.SetWriteDeadline(time.Now().Add(flushTime))
	_ = s.drain() // what is not sent is as lost as if the process had been killed
	s.conn.SetWriteDeadline(time.Time{})
}

// flushTime is how long a process that is to be replaced waits for systemd.
const flushTime = 100 * time.Millisecond

// Run sends what waits for systemd until ctx ends. What can't be sent then is lost, as the process is.
func (s *Store) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.queued:
		}
		err := s.drain()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // that of flush, after which there may be another program or not
			s.wake()
		case err != nil && ctx.Err() == nil:
			return err
		}
	}
}

// drain waits for room in systemd's socket and sends, until nothing waits.
func (s *Store) drain() error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Write(func(uintptr) bool {
		for {
			sent, more := s.sendNext()
			if sent == nil {
				return !more
			}
			sent()
		}
	})
}

// sendNext sends what has waited for longest, and returns what is to be called then. If that is nil, nothing
// could be sent, and more tells whether anything waits.
func (s *Store) sendNext() (sent func(), more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		return nil, false
	}
	m := s.queue[0]
	if !s.try(m) {
		return nil, true
	}
	s.queue = s.queue[1:]
	if m.sent == nil {
		return func() {}, true
	}
	return m.sent, true
}
