package epmd

import (
	"cmp"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// This file moves the bytes. A lookup is a connection that says one thing and is answered at once, a
// node one that then says nothing for weeks; neither is worth a goroutine. Listening sockets and one
// epoll descriptor are parked in Go's own poller, each with a goroutine that is called when there is
// something to do, so that an idle server has no thread awake and 20,000 nodes need no stack each.
//
// What is accepted is read at once: TCP_DEFER_ACCEPT holds a connection back until its request is
// there, so most are read, answered and closed in one go and never known to epoll. Those that stay or
// are slow to speak or to read are conns in a table.
//
// loop.mu is held for whatever happens to one connection, over system calls too: they are all on
// non-blocking sockets.

// Numbers of descriptors; see Config.Files.
const (
	reservedFiles   = 48 // for listeners, epoll, the log, all else that the process opens, and reservedStreams
	lookupFiles     = 16 // for connections that have not registered, when the rest is nodes
	maxWaiting      = 8192
	reservedStreams = 8        // answers to NodesReq and WatchReq that there is always room for
	maxUnsentBytes  = 64 << 20 // of answers that peers are slow to read
)

// loop is the part of a Server that has connections.
type loop struct {
	mu    sync.Mutex
	ctx   context.Context         // of Serve
	stop  context.CancelCauseFunc // ends Serve
	conns []*conn                 // by descriptor
	fresh *conn                   // the connection accepted last, to be used again unless it has stayed
	files int                     // limit on open files

	epoll      *os.File
	epfd       int
	generation uint32
	listeners  []*os.File

	withheld map[*registry.Registration][]byte // answers to registrations that are yet to be kept
	nodes    int                               // conns that hold a registration
	waiting  list.List                         // conns that don't, the oldest first
	held     int                               // bytes of answers in waiting
	timer    *time.Timer                       // calls expire; nil while no conn has a time limit

	streams      map[bool]int // running, by nodeStream.follow
	streamsEnded sync.WaitGroup

	refused    refusals
	complaints refusals
	scratch    [MaxRequest + 2]byte // what was read last
	out        []byte               // the answer made last

	namesAnswer  []byte
	namesVersion uint64
}

// conn is a connection that is in the table. It is small, for there is one for each node.
type conn struct {
	caller
	generation uint32                 // tells it from earlier ones with its descriptor
	reg        *registry.Registration // nil: in waiting
	wait       *wait                  // nil: registered
}

// wait is what is known of a connection that has not registered.
type wait struct {
	in     []byte // the part of its request that has come
	unsent []byte // the part of its answer that has not gone
	held   int    // bytes that unsent keeps in memory: those that have gone are part of them
	said   bool   // it was refused: nothing more is expected of it and it has no time limit
	active time.Time
	place  *list.Element
}

// open takes over the listeners. After an error nothing is left open.
func (s *Server) open(ctx context.Context, stop context.CancelCauseFunc, listeners []*net.TCPListener) error {
	s.ctx, s.stop = ctx, stop
	for _, l := range listeners {
		defer l.Close() // what is served is a copy
	}
	s.streams = make(map[bool]int)
	s.withheld = make(map[*registry.Registration][]byte)
	s.files = s.cfg.Files
	if s.files == 0 {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("limit on open files: %w", err)
		}
		s.files = int(min(limit.Cur, 1<<24))
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll descriptor: %w", err)
	}
	unix.SetNonblock(epfd, true) // makes os.NewFile give it to the poller
	s.epfd, s.epoll = epfd, os.NewFile(uintptr(epfd), "epoll")
	for _, l := range listeners {
		if err := s.takeOver(l); err != nil {
			s.close()
			return fmt.Errorf("listen on %v: %w", l.Addr(), err)
		}
	}
	s.mu.Lock() // against answerLate
	defer s.mu.Unlock()
	for _, r := range s.cfg.Restored {
		s.takeBack(r)
	}
	return nil
}

// takeBack makes a connection that was there before that of its node.
func (s *Server) takeBack(r Restored) {
	n := s.cfg.Registry.Node(r.Registration)
	if unanswered(r.FD) {
		out := AliveResp{Wide: n.High >= 6, Creation: n.Creation}.Append(nil)
		if s.keep(r.FD, r.Registration) {
			s.send(r.FD, out, false)
		} else {
			s.withheld[r.Registration] = out
		}
	}
	s.settle(&conn{caller: caller{r.FD, n.Peer(), true}}, r.Registration)
}

// unanswered reports whether nothing was ever sent on a connection: its process ended between keeping the
// registration and answering it.
func unanswered(fd int) bool {
	info, size, err := tcpInfo(fd)
	return err == nil && sentNothing(info, size)
}

// sentNothing reports whether the first size bytes of info say that nothing was sent. A kernel before Linux 4.19
// does not say. Its nodes count as answered, as all but one in a million are.
func sentNothing(info *unix.TCPInfo, size uintptr) bool {
	return size >= unsafe.Offsetof(info.Bytes_sent)+unsafe.Sizeof(info.Bytes_sent) && info.Bytes_sent == 0
}

func (s *Server) takeOver(l *net.TCPListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, f)
	return control(f, func(fd int) error {
		// Connections inherit it: the request is acknowledged by the answer, not by a packet of its own.
		// A multipath listener, which is what package net makes, does without.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// control calls op with f's descriptor.
func control(f *os.File, op func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var opErr error
	if err := raw.Control(func(fd uintptr) { opErr = op(int(fd)) }); err != nil {
		return err
	}
	return opErr
}

// run serves until ctx ends or a listener breaks.
func (s *Server) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		g.Go(func() error { return parked(ctx, l, s.accept) })
	}
	g.Go(func() error { return parked(ctx, s.epoll, s.poll) })
	g.Go(func() error {
		<-ctx.Done()
		for _, f := range append(s.listeners, s.epoll) {
			f.SetReadDeadline(time.Unix(1, 0)) // wakes whoever is parked
		}
		return nil
	})
	return g.Wait()
}

// parked calls ready whenever f has become readable, until ready returns an error, or f's deadline passes
// after the end of ctx.
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

// close ends all connections. Those of nodes that are kept are closed here alone.
func (s *Server) close() {
	s.mu.Lock()
	for _, l := range s.listeners {
		l.Close()
	}
	s.endWaiting()
	for _, c := range s.conns {
		switch {
		case c == nil:
		case s.cfg.Keeper != nil:
			closeSocket(c.fd)
		default:
			s.end(c, "epmd ends")
		}
	}
	s.mu.Unlock()
	s.streamsEnded.Wait()
}

// leave ends all connections that are not those of nodes, which are another's now, as the listeners are.
func (s *Server) leave() {
	s.mu.Lock()
	s.endWaiting()
	s.mu.Unlock()
	s.streamsEnded.Wait()
}

// endWaiting ends the connections that have not registered, and what watches over connections.
func (s *Server) endWaiting() {
	for e := s.waiting.Front(); e != nil; e = s.waiting.Front() {
		s.end(e.Value.(*conn), "")
	}
	clear(s.withheld) // whoever restores the registration sees that it has not been answered
	if s.timer != nil {
		s.timer.Stop()
	}
	s.epoll.Close()
}

// HandOver returns, after Serve has returned ErrHandOver, the sockets that listen and the registered nodes
// with their connections, in order of registration.
func (s *Server) HandOver() (listeners []*os.File, nodes []Restored) {
	for _, c := range s.conns {
		if c != nil {
			nodes = append(nodes, Restored{c.fd, c.reg})
		}
	}
	id := func(r Restored) uint64 { return s.cfg.Registry.Node(r.Registration).ID }
	slices.SortFunc(nodes, func(a, b Restored) int { return cmp.Compare(id(a), id(b)) })
	return s.listeners, nodes
}

// accept takes all connections that wait at a listening socket. Its error is that of a descriptor
// that is none.
func (s *Server) accept(listener int) error {
	time.Sleep(s.cfg.DelayAccept)
	for s.ctx.Err() == nil {
		fd, peer, err := acceptPeer(listener)
		switch err {
		case nil:
			s.admit(fd, peer)
		case unix.EAGAIN:
			return nil
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			if !s.makeRoom(err) {
				time.Sleep(acceptPause)
			}
		case unix.EBADF, unix.EINVAL, unix.ENOTSOCK:
			return fmt.Errorf("accept: %w", err)
		default: // the peer has gone, or the network to it has
		}
	}
	return nil
}

// acceptPause is how long accepting rests when the system has no room for another connection and none
// of ours can give way.
const acceptPause = 100 * time.Millisecond

// admit begins with a connection that was just accepted.
func (s *Server) admit(fd int, peer netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := caller{fd, peer, s.isLocal(fd, peer.Addr())}
	if !from.local && !s.cfg.Access.allows(peer.Addr(), s.links.contains) {
		s.refuse(from)
		return
	}
	c := s.fresh
	if c == nil || c.generation != 0 { // the last one has stayed
		c = new(conn)
		s.fresh = c
	}
	c.caller = from
	n, err := receive(fd, s.scratch[:])
	if err == unix.EAGAIN {
		s.await(c)
	} else if err != nil || n == 0 {
		closeSocket(fd)
	} else {
		s.received(c, s.scratch[:n])
	}
}

func (s *Server) isLocal(fd int, peer netip.Addr) bool {
	if peer.IsLoopback() {
		return true
	}
	local, err := localAddr(fd)
	return err == nil && isLocal(peer, local)
}

func (s *Server) refuse(from caller) {
	closeSocket(from.fd)
	if count := s.refused.add(from.peer.Addr(), time.Now()); count > 0 {
		s.log.Warn("peer refused", "peer", from.peer.Addr(), "connections", count, "allow", s.cfg.Access.String())
	}
}

// received goes on with a connection of which in has come, which may be the whole of scratch. c need
// not be in the table.
func (s *Server) received(c *conn, in []byte) {
	want := 2
	if len(in) >= 2 {
		length := int(binary.BigEndian.Uint16(in))
		want = 2 + length
		if length == 0 || length > MaxRequest || len(in) > want {
			s.complain(c.caller, "bad request", "announced", length, "received", len(in)-2)
			s.end(c, "")
			return
		}
	}
	if len(in) < want {
		s.keepPart(c, in)
		return
	}
	s.carryOut(c, s.handle(c.caller, in[2:]))
}

// keepPart keeps the part of a request until the rest comes.
func (s *Server) keepPart(c *conn, in []byte) {
	w := s.await(c)
	w.in = append(w.in[:0], in...)
	w.active = time.Now()
}

// carryOut does what an answer says.
func (s *Server) carryOut(c *conn, a answer) {
	switch {
	case a.verdict == stream:
		s.startStream(c, a.follow)
		return
	case a.later:
		s.settle(c, a.reg)
		s.withheld[a.reg] = append([]byte(nil), a.out...)
		return
	}
	// The last answer of a connection waits for close, which sends it together with the FIN. Only where all
	// that had come was read, though: otherwise close sends an RST, and what waited is lost.
	held := a.verdict == hangUp && c.generation == 0
	rest, err := s.send(c.fd, a.out, held)
	switch {
	case a.reg != nil:
		if err != nil || len(rest) > 0 {
			s.unregister(a.reg, "gone before the answer")
			s.end(c, "")
			return
		}
		s.settle(c, a.reg)
	case a.verdict == kill:
		s.end(c, "")
		s.stop(ErrKilled)
	case err != nil:
		s.end(c, "")
	case len(rest) > 0:
		s.keepRest(c, rest, a)
	case a.verdict == stay:
		w := s.await(c)
		w.in, w.said = nil, true
	default:
		s.end(c, "")
	}
}

// answerLate answers a registration that was not to be answered before its connection was kept.
func (s *Server) answerLate(reg *registry.Registration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.withheld[reg]
	if out == nil {
		return // it has been answered, or has ended
	}
	delete(s.withheld, reg)
	c := s.conns[s.cfg.Registry.Node(reg).FD]
	if rest, err := s.send(c.fd, out, false); err != nil || len(rest) > 0 {
		s.end(c, "gone before the answer")
	}
}

// send writes an answer as far as the peer's window allows and returns the rest. If it is held, the
// kernel keeps what would fill no segment until close.
func (s *Server) send(fd int, out []byte, held bool) (rest []byte, err error) {
	time.Sleep(s.cfg.DelayWrite)
	flags := unix.MSG_NOSIGNAL
	if held {
		flags |= unix.MSG_MORE
	}
	for len(out) > 0 {
		n, err := transmit(fd, out, flags)
		if err == unix.EAGAIN {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = out[n:]
	}
	return nil, nil
}

// settle makes c the connection of a node.
func (s *Server) settle(c *conn, reg *registry.Registration) {
	s.enter(c)
	s.forgetWait(c)
	c.reg = reg
	s.nodes++
}

// roomToStay returns an error if another node would take the last descriptors.
func (s *Server) roomToStay() error {
	limit := max(s.files-reservedFiles-lookupFiles, s.files/2)
	if s.nodes+s.extraStreams() >= limit {
		return fmt.Errorf("%d nodes are registered, all that the limit of %d open files allows", s.nodes, s.files)
	}
	return nil
}

// enter puts c into the table unless it is there.
func (s *Server) enter(c *conn) {
	if c.generation != 0 {
		return
	}
	for len(s.conns) <= c.fd {
		s.conns = append(s.conns, nil)
	}
	s.conns[c.fd] = c
	s.generation = max(s.generation+1, 1)
	c.generation = s.generation
	s.interest(unix.EPOLL_CTL_ADD, c, unix.EPOLLIN)
}

// await puts c among the connections that wait unless it is there, and returns what is known of its
// waiting. The one that has waited for longest gives way if there are too many.
func (s *Server) await(c *conn) *wait {
	if c.wait != nil {
		return c.wait
	}
	s.enter(c)
	c.wait = &wait{active: time.Now()}
	c.wait.place = s.waiting.PushBack(c)
	for s.waiting.Len() > s.maxWaiting() {
		s.end(s.waiting.Front().Value.(*conn), "")
	}
	s.startTimer()
	return c.wait
}

// maxWaiting returns how many connections may wait: what nodes leave of the descriptors.
func (s *Server) maxWaiting() int {
	return max(lookupFiles, min(maxWaiting, s.files-reservedFiles-s.nodes-s.extraStreams()))
}

// extraStreams returns how many connections with goroutines of their own are not in the reserve.
func (s *Server) extraStreams() int {
	return max(0, s.streams[false]+s.streams[true]-reservedStreams)
}

// interest tells epoll what to watch of c.
func (s *Server) interest(op int, c *conn, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(c.fd), Pad: int32(c.generation)}
	if err := epollControl(s.epfd, op, c.fd, &ev); err != nil {
		s.log.Error("epoll", "err", err, "peer", c.peer)
	}
}

// keepRest keeps what is left of an answer until the peer reads on.
func (s *Server) keepRest(c *conn, rest []byte, a answer) {
	held := len(a.out)
	if !a.shared {
		rest = append([]byte(nil), rest...)
		held = len(rest)
	}
	w := s.await(c)
	w.in = nil
	w.unsent, w.held = rest, held
	w.active = time.Now()
	s.held += held
	s.interest(unix.EPOLL_CTL_MOD, c, unix.EPOLLOUT)
	for s.held > maxUnsentBytes && s.endOldestUnsent() {
	}
}

// endOldestUnsent ends the connection that has been slow to read for longest.
func (s *Server) endOldestUnsent() bool {
	for e := s.waiting.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); c.wait.unsent != nil {
			s.end(c, "")
			return true
		}
	}
	return false
}

// makeRoom ends the connection that has waited for longest, if there is one, after an error that says
// that there is no room for another.
func (s *Server) makeRoom(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.waiting.Front()
	if oldest == nil {
		s.complain(caller{}, "no room for another connection", "err", err)
		return false
	}
	s.end(oldest.Value.(*conn), "")
	return true
}

// end closes a connection, which need not be in the table, and unregisters its node for that reason.
func (s *Server) end(c *conn, reason string) {
	s.remove(c)
	if c.reg != nil {
		s.nodes--
		delete(s.withheld, c.reg)
		s.endKept(c)
		s.unregister(c.reg, reason)
		c.reg = nil
	}
	closeSocket(c.fd) // takes it out of epoll too
}

// endKept does for a connection that somebody else may have a descriptor of what closing ours does not.
func (s *Server) endKept(c *conn) {
	if s.cfg.Keeper == nil {
		return
	}
	s.interest(unix.EPOLL_CTL_DEL, c, 0)
	unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails where the peer has gone, as it should
}

// remove takes c out of the table if it is there.
func (s *Server) remove(c *conn) {
	s.forgetWait(c)
	if c.fd < len(s.conns) && s.conns[c.fd] == c {
		s.conns[c.fd] = nil
	}
}

func (s *Server) forgetWait(c *conn) {
	if c.wait == nil {
		return
	}
	s.waiting.Remove(c.wait.place)
	s.held -= c.wait.held
	c.wait = nil
}

// lookAt deals with what has happened to the registered connection with that descriptor and epoll has
// yet to tell of.
func (s *Server) lookAt(fd int) {
	if fd < len(s.conns) && s.conns[fd] != nil && s.conns[fd].reg != nil {
		s.readOn(s.conns[fd])
	}
}

// drop ends the connection that n is registered over, if it is one of this server.
func (s *Server) drop(n *registry.Node, reason string) {
	fd := int(n.FD)
	if fd < 0 || fd >= len(s.conns) {
		return
	}
	if c := s.conns[fd]; c != nil && c.reg != nil && s.cfg.Registry.Node(c.reg).ID == n.ID {
		s.end(c, reason)
	}
}

// poll handles what has happened to the connections in the table, until epoll has nothing more to
// tell. Go's poller watches the epoll descriptor edge-triggered: it calls again for what happens after
// the last look, but never for what was left unread before, such as the FIN behind a request's end.
func (s *Server) poll(epfd int) error {
	var events [128]unix.EpollEvent
	for s.ctx.Err() == nil {
		n, err := epollWait(epfd, events[:])
		if n == 0 || err != nil {
			return err
		}
		for _, ev := range events[:n] {
			s.happened(int(ev.Fd), uint32(ev.Pad))
		}
	}
	return nil
}

// happened goes on with the connection of that descriptor and generation, unless it has been closed
// since epoll told of it.
func (s *Server) happened(fd int, generation uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[fd]
	if c == nil || c.generation != generation {
		return
	}
	s.goOn(c)
}

// goOn sends or reads on, whichever the connection waits for.
func (s *Server) goOn(c *conn) {
	if c.wait != nil && c.wait.unsent != nil {
		s.sendOn(c)
	} else {
		s.readOn(c)
	}
}

func (s *Server) sendOn(c *conn) {
	rest, err := s.send(c.fd, c.wait.unsent, false)
	if err != nil || len(rest) == 0 {
		s.end(c, "")
		return
	}
	if len(rest) < len(c.wait.unsent) {
		c.wait.active = time.Now()
	}
	c.wait.unsent = rest
}

// readOn reads what has come on a connection in the table. No more is read than belongs to the request
// once its length is known; before, as much as there can be.
func (s *Server) readOn(c *conn) {
	buf := s.scratch[:]
	got := 0
	if c.wait != nil {
		got = copy(buf, c.wait.in)
		if got >= 2 {
			buf = buf[:2+binary.BigEndian.Uint16(buf)]
		}
	}
	n, err := receive(c.fd, buf[got:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != nil:
		s.end(c, err.Error())
	case n == 0:
		s.end(c, "connection closed")
	case c.reg != nil:
		s.end(c, "sent more than its registration")
	case c.wait.said:
		s.end(c, "")
	default:
		s.received(c, buf[:got+n])
	}
}

// silence returns how long a connection may say nothing. OTP's epmd compares whole seconds and closes
// once they exceed the time-out, up to a second after it is over. Ours gives everybody that second.
func (s *Server) silence() time.Duration { return s.cfg.PacketTimeout + time.Second }

// startTimer sees to it that expire is called as long as connections wait.
func (s *Server) startTimer() {
	if s.timer == nil {
		s.timer = time.AfterFunc(s.silence(), s.expire)
	}
}

// expire ends the connections that have said nothing for too long. It looks through all that wait, but
// at most once a second.
func (s *Server) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	now := time.Now()
	for _, c := range s.overdue(now) {
		if s.conns[c.fd] != c {
			continue
		}
		s.goOn(c) // the peer may have spoken in time while this process was stopped
		if s.conns[c.fd] == c && s.due(c, now) <= 0 {
			s.log.Debug("connection timed out", "peer", c.peer)
			s.end(c, "")
		}
	}
	s.timer = nil
	if next := s.nextDue(now); next != never {
		s.timer = time.AfterFunc(max(next, time.Second), s.expire)
	}
}

// never is when a connection without a time limit is due.
const never = time.Duration(math.MaxInt64)

// due returns for how long c may still say nothing.
func (s *Server) due(c *conn, now time.Time) time.Duration {
	if c.wait == nil || c.wait.said {
		return never
	}
	return c.wait.active.Add(s.silence()).Sub(now)
}

// overdue returns the connections that have said nothing for too long.
func (s *Server) overdue(now time.Time) []*conn {
	var all []*conn
	for e := s.waiting.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); s.due(c, now) <= 0 {
			all = append(all, c)
		}
	}
	return all
}

// nextDue returns how long it takes until the next connection is due.
func (s *Server) nextDue(now time.Time) time.Duration {
	next := never
	for e := s.waiting.Front(); e != nil; e = e.Next() {
		next = min(next, s.due(e.Value.(*conn), now))
	}
	return next
}

// startStream hands a connection over to a goroutine of its own.
func (s *Server) startStream(c *conn, follow bool) {
	full := s.roomToStay() != nil && s.streams[false]+s.streams[true] >= reservedStreams
	if s.ctx.Err() != nil || s.streams[follow] >= maxStreams || full {
		s.complain(c.caller, "subscriber refused: too many", "subscribers", s.streams[follow])
		s.end(c, "")
		return
	}
	if c.wait != nil {
		s.interest(unix.EPOLL_CTL_DEL, c, 0)
	}
	s.remove(c)
	s.streams[follow]++
	ns := &nodeStream{
		registry:    s.cfg.Registry,
		port:        s.cfg.Port,
		lanOff:      s.cfg.LANOff,
		unpublished: s.cfg.Unpublished,
		follow:      follow,
		conn:        os.NewFile(uintptr(c.fd), "subscriber"),
		peer:        c.peer,
		log:         s.log,
	}
	s.streamsEnded.Go(func() {
		ns.run(s.ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams[follow]--
	})
}
