package epmd

import "golang.org/x/sys/unix"

// conn is a connection. It is small, for there is one for each node.
type conn struct {
	caller
	generation uint32       // tells it from earlier ones of its descriptor; 0: not in the table
	user       uint32       // whose it is, if that was asked
	asked      bool         // it was, as it is registered
	unwatched  bool         // epoll has no room for it: it must be ended
	reg        registration // nil: waiting, or new
	wait       *waiter      // nil: registered, or new
}

// freshConn returns a conn for a new connection. It is the last one again unless that has stayed,
// or that of the registration that ended last.
func (e *engine) freshConn() *conn {
	if e.fresh == nil || e.fresh.generation != 0 {
		e.fresh = new(conn)
	}
	return e.fresh
}

// enter puts c into the table unless it is there.
func (e *engine) enter(c *conn) {
	if c.generation != 0 {
		return
	}
	for len(e.conns) <= c.fd {
		e.conns = append(e.conns, nil)
	}
	e.conns[c.fd] = c
	e.generation = max(e.generation+1, 1)
	c.generation = e.generation
	c.unwatched = !e.watch(unix.EPOLL_CTL_ADD, c, unix.EPOLLIN)
}

// noRoomInEpoll is why a connection is ended that epoll does not watch. The kernel bounds what a
// user may have watched: /proc/sys/fs/epoll/max_user_watches.
const noRoomInEpoll = "the kernel has no room to watch it"

// endUnwatched ends a connection that epoll does not watch, unless it has ended. Its end would not
// be noticed. It reports whether it has done so.
func (e *engine) endUnwatched(c *conn) bool {
	if !c.unwatched || e.conns[c.fd] != c {
		return false
	}
	e.end(c, noRoomInEpoll)
	return true
}

// remove takes c out of the table if it is there.
func (e *engine) remove(c *conn) {
	e.endWait(c)
	if c.fd < len(e.conns) && e.conns[c.fd] == c {
		e.conns[c.fd] = nil
	}
}

// settle makes c a registered connection.
func (e *engine) settle(c *conn, reg registration) {
	e.enter(c)
	e.endWait(c)
	c.reg = reg
	e.registered++
	e.unasked++
	e.askSome()
}

// registeredAt returns the registered connection with that descriptor, or nil.
func (e *engine) registeredAt(fd int) *conn {
	if fd < 0 || fd >= len(e.conns) || e.conns[fd] == nil || e.conns[fd].reg == nil {
		return nil
	}
	return e.conns[fd]
}

// end closes a connection and ends its registration for that reason.
func (e *engine) end(c *conn, reason string) {
	e.remove(c)
	fd := c.fd
	if c.reg != nil {
		e.unregister(c, reason)
		*c = conn{}
		e.fresh = c
	}
	closeSocket(fd) // takes it out of epoll too
}

// unregister ends the registration of a connection that is about to be closed. If it is kept,
// closing our descriptor ends nothing.
func (e *engine) unregister(c *conn, reason string) {
	e.registered--
	if !c.asked {
		e.unasked--
	} else if e.registeredBy[c.user]--; e.registeredBy[c.user] == 0 {
		delete(e.registeredBy, c.user)
	}
	delete(e.withheld, c.reg)
	if e.kept {
		e.watch(unix.EPOLL_CTL_DEL, c, 0)
		unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails where the peer has gone, as it should
	}
	e.protocol.gone(c.reg, reason)
}

// watch tells epoll what to watch of c. It reports whether epoll does so.
func (e *engine) watch(op int, c *conn, events uint32) bool {
	ev := unix.EpollEvent{Events: events, Fd: int32(c.fd), Pad: int32(c.generation)}
	err := e.sockets.epollControl(e.epfd, op, c.fd, &ev)
	if err != nil {
		e.complain(c.caller, "connection can't be watched", "err", err)
	}
	return err == nil
}

// watchOn has epoll watch something else of c. It ends c if epoll does not. It reports whether c
// goes on.
func (e *engine) watchOn(c *conn, events uint32) bool {
	if e.watch(unix.EPOLL_CTL_MOD, c, events) {
		return true
	}
	e.end(c, "")
	return false
}

// poll handles what has happened to the connections in the table. It goes on until epoll can have
// no more to tell. Go's poller watches the epoll descriptor edge-triggered. It calls again only for
// what happens after the last look. A FIN behind a request's end may have come before. So epoll is
// asked again unless each connection that it told of has ended.
func (e *engine) poll(epfd int) error {
	var events [128]unix.EpollEvent
	for more := true; more && e.ctx.Err() == nil; {
		n, err := e.sockets.epollWait(epfd, events[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		more = n == len(events)
		for _, ev := range events[:n] {
			if e.happened(int(ev.Fd), uint32(ev.Pad), ev.Events) {
				more = true
			}
		}
	}
	return nil
}

// happened goes on with a connection. It may have been closed since epoll told of it. happened
// reports whether it is there now.
func (e *engine) happened(fd int, generation, events uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.conns[fd]
	switch {
	case c == nil || c.generation != generation:
		return false
	case c.wait == nil || c.wait.unsent == nil:
		e.readOn(c)
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
		e.end(c, "")
	case e.watchOn(c, 0):
		e.sendInLane(c)
	}
	return e.conns[fd] == c
}

// goOn sends or reads on, whichever the connection waits for.
func (e *engine) goOn(c *conn) {
	if c.wait != nil && c.wait.unsent != nil {
		e.sendOn(c)
	} else {
		e.readOn(c)
	}
}
