package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"eclus/registry"
)

// Names of descriptors in the fd store (FDNAME=, at most 255 ASCII characters without ":"): a connection
// has that of its node's ID, so that the name says nothing that would have to be escaped; a state has its
// generation's.
const (
	nodePrefix  = "node-"
	statePrefix = "state-"
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

	mu         sync.Mutex
	state      *state
	generation uint64
	queue      []message     // what systemd has yet to take
	queued     chan struct{} // holds a token while queue may be not empty
}

// message is a datagram to systemd.
type message struct {
	text string
	name string   // FDNAME= of the descriptor it stores; empty: it stores none
	file *os.File // what is stored, if that is ours to close
	fd   int      // what is stored
	sent func()   // called when systemd has it, without the lock held; may be nil
}

// OpenStore returns a Store for the service that this process is, or nil if it is none. The registry has been
// restored from inherited, of which the states are superseded and removed.
func OpenStore(reg *registry.Registry, inherited Inherited, log *slog.Logger) (*Store, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to the service manager: %w", err)
	}
	s := &Store{reg: reg, log: log, conn: conn, generation: inherited.generation, queued: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.renew(); err != nil {
		conn.Close()
		return nil, err
	}
	for _, name := range inherited.superseded {
		s.send(message{text: remove(name)})
	}
	return s, nil
}

// renew stores a new state and removes the one before.
func (s *Store) renew() error {
	state, err := newState(s.reg)
	if err != nil {
		return err
	}
	old := s.state
	s.state = state
	s.generation++
	fd, err := duplicate(state.file)
	if err != nil {
		return err
	}
	s.send(message{text: "FDSTORE=1", name: stateName(s.generation), file: fd, fd: int(fd.Fd())})
	if old != nil {
		s.send(message{text: remove(stateName(s.generation - 1))})
		old.file.Close()
	}
	return nil
}

func stateName(generation uint64) string { return statePrefix + strconv.FormatUint(generation, 10) }
func nodeName(id uint64) string          { return nodePrefix + strconv.FormatUint(id, 10) }
func remove(name string) string          { return "FDSTOREREMOVE=1\nFDNAME=" + name }

// duplicate returns another descriptor of f, which is there as long as it takes to send it.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

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
	for i, m := range s.queue {
		if m.name == name { // its descriptor will be another's
			s.queue[i] = message{}
			return
		}
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

// lastGeneration returns the generation of the state that is stored, or 0 without a store.
func (s *Store) lastGeneration() uint64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// record writes to the state, and begins a new one when most of it is of the past.
func (s *Store) record(r record) {
	err := s.state.append(r)
	if err == nil && s.state.size > s.state.full {
		err = s.renew()
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
	select {
	case s.queued <- struct{}{}:
	default: // the token is there already
	}
	return false
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
	if err != nil {
		s.log.Error("service manager not told", "message", strings.ReplaceAll(text, "\n", " "), "err", err)
	}
	if m.file != nil {
		m.file.Close()
	}
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
		if err := s.drain(); err != nil && ctx.Err() == nil {
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
	if m.text != "" && !s.try(m) {
		return nil, true
	}
	s.queue = s.queue[1:]
	if m.sent == nil {
		return func() {}, true
	}
	return m.sent, true
}
