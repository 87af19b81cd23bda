package epmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The engine moves the bytes. It accepts connections, reads one request from each, sends the
// answer, and keeps open those that register. What a request means is the protocol's business.
//
// A lookup is a connection that says one thing and is answered at once. A node is one that says one
// thing, and then nothing for weeks. Neither is worth a goroutine. So each listening socket is
// parked in Go's own poller, and so is one epoll descriptor. Each has a goroutine that runs when
// something has happened. An idle server has no thread awake, and 20,000 nodes need no stack each.
//
// A connection that can't be closed at once is in one of these states:
//
//	            request  answer     epoll waits for  may be silent   counted as
//	part        a part   -          a byte           PacketTimeout   waiting
//	asked       whole    not made   a reset          PacketTimeout   waiting
//	unsent      whole    a part     room to send     PacketTimeout   waiting
//	refused     whole    sent       the end          for ever        waiting
//	withheld    whole    not sent   the end          for ever        registered
//	registered  whole    sent       the end          for ever        registered
//	stream      whole    written by a goroutine of its own           a stream
//
// When too many are waiting, the one that has waited for longest gives way. A registered one never
// does. Four words stand for four things that are not done yet, or not by us:
//
//	part      what has come of a request that is not whole
//	unsent    what is left of an answer that the peer has no room for
//	withheld  an answer that must not be sent before its registration is kept
//	kept      a connection that the Keeper has a copy of: closing ours does not end it
//
// engine.go begins and ends. accept.go takes new connections. receive.go reads requests. answer.go
// does what answers say, listing.go makes long ones, and send.go sends them. lane.go has users take
// turns at that. conn.go has the table, waiting.go those that wait.

// Numbers of descriptors; see Config.Files.
const (
	reservedFiles   = 48 // for listeners, epoll, the log and what else is open; and reservedStreams
	lookupFiles     = 16 // for connections that have not registered, when the rest is nodes
	maxWaiting      = 8192
	reservedStreams = 8        // streams that there is always room for
	maxUnsentBytes  = 32 << 20 // of answers that peers are slow to read
)

// protocol gives requests a meaning. The engine calls it with engine.mu held. It must not block.
type protocol interface {
	// admits reports whether a peer may ask at all. Others are closed at once.
	admits(from caller) bool
	// handle answers one whole request, which is valid until handle returns.
	handle(from caller, req []byte) answer
	// gone ends a registration. Its connection is closed afterwards.
	gone(reg registration, reason string)
}

// registration stands for a registered connection in the protocol: a pointer of its own.
type registration any

// caller is who asks.
type caller struct {
	fd    int
	peer  netip.AddrPort
	local bool // of this host
}

// engineConfig says how an engine behaves.
type engineConfig struct {
	log         *slog.Logger
	files       int           // bounds the connections; see Config.Files
	silence     time.Duration // how long a connection with a time limit may say nothing
	delayAccept time.Duration // before each new connection is looked at
	delayWrite  time.Duration // before each answer
	kept        bool          // registered connections are kept: they outlive the engine

	ownerOf func(netip.Addr) string // see Config.OwnerOf
}

// engine serves a protocol. Its lock is held for whatever happens to one connection. That
// includes system calls, none of which blocks.
type engine struct {
	engineConfig
	protocol protocol
	sockets  sockets

	mu        sync.Mutex
	ctx       context.Context // of run
	stop      context.CancelCauseFunc
	listeners []*os.File
	epoll     *os.File
	epfd      int

	conns        []*conn // by descriptor
	fresh        *conn   // see freshConn
	generation   uint32
	registered   int                          // conns that have a registration
	registeredBy map[uint32]int               // the same, by user, as far as that was asked
	unasked      int                          // of the others
	nextAsked    int                          // descriptor at which askUsers goes on
	userOf       func(fd int) (uint32, error) // nil: users are not told apart
	withheld     map[registration]withheld
	waiting      waiting
	streams      streams
	lane         lane // has a lock of its own, which comes after mu

	complaints refusals
	scratch    [MaxRequest + 2]byte // what was read last
}

// open takes over the listeners. After an error nothing is left open.
func (e *engine) open(ctx context.Context, stop context.CancelCauseFunc, listeners []*net.TCPListener) error {
	for _, l := range listeners {
		defer l.Close() // a copy is served
	}
	if err := e.prepare(ctx, stop); err != nil {
		return err
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll descriptor: %w", err)
	}
	unix.SetNonblock(epfd, true) // makes os.NewFile give it to the poller
	e.epfd, e.epoll = epfd, os.NewFile(uintptr(epfd), "epoll")
	for _, l := range listeners {
		if err := e.takeOver(l); err != nil {
			e.close("")
			return fmt.Errorf("listen on %v: %w", l.Addr(), err)
		}
	}
	return nil
}

// prepare makes what others may look at while the engine opens.
func (e *engine) prepare(ctx context.Context, stop context.CancelCauseFunc) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ctx, e.stop = ctx, stop
	e.streams.running = make(map[any]int)
	e.withheld = make(map[registration]withheld)
	e.registeredBy = make(map[uint32]int)
	return e.limitFiles()
}

// limitFiles takes the process's limit on open files if none is configured.
func (e *engine) limitFiles() error {
	if e.files != 0 {
		return nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit on open files: %w", err)
	}
	e.files = int(min(limit.Cur, 1<<24))
	return nil
}

// run serves until ctx ends or a listener breaks.
func (e *engine) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range e.listeners {
		g.Go(func() error { return parked(ctx, l, e.accept) })
	}
	g.Go(func() error { return parked(ctx, e.epoll, e.poll) })
	g.Go(func() error {
		<-ctx.Done()
		for _, f := range append(e.listeners, e.epoll) {
			f.SetReadDeadline(time.Unix(1, 0)) // wakes the goroutine that is parked on it
		}
		return nil
	})
	return g.Wait()
}

// parked calls ready whenever f has become readable. It returns when ready returns an error. It
// also returns when ctx has ended and f's deadline passes.
func parked(ctx context.Context, f *os.File, ready func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var broken error
	err = raw.Read(func(fd uintptr) bool {
		broken = ready(int(fd))
		return broken != nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, broken)
}

// close ends all connections. Kept ones are closed here alone: their registrations go on.
func (e *engine) close(reason string) {
	e.mu.Lock()
	for _, l := range e.listeners {
		l.Close()
	}
	e.endWaiting()
	for _, c := range e.conns {
		switch {
		case c == nil:
		case e.kept:
			closeSocket(c.fd)
		default:
			e.end(c, reason)
		}
	}
	e.mu.Unlock()
	e.streams.ended.Wait()
}

// leave ends all connections but the registered ones. Those are another's now, as the listeners
// are.
func (e *engine) leave() {
	e.mu.Lock()
	e.endWaiting()
	e.mu.Unlock()
	e.streams.ended.Wait()
}

// endWaiting ends the connections that wait, and what watches over connections. It drops withheld
// answers. Whoever restores such a registration sees that it has not been answered.
func (e *engine) endWaiting() {
	for c := e.waiting.oldest(); c != nil; c = e.waiting.oldest() {
		e.end(c, "")
	}
	clear(e.withheld)
	e.waiting.stopTimer()
	e.epoll.Close()
}

// complain logs what a peer did wrong, once a minute for each user or address. So nobody can fill
// the log.
func (e *engine) complain(from caller, msg string, args ...any) {
	if count := e.complaints.add(e.who(from), time.Now()); count > 0 {
		e.log.Warn(msg, append(args, "peer", from.peer, "times", count)...)
	}
}
