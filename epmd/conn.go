package epmd

import "golang.org/x/sys/unix"

// conn is a connection. It is small, for there is one for each node.
type conn struct {
	caller
	generation uint32       // tells it from earlier ones of its descriptor; 0: not in the table
	reg        registration // nil: waiting, or new
	user       uint32       // whose it is, if it is registered
	wait       *waiter      // nil: registered, or new
}

// freshConn returns a conn for a new connection. It is the last one again unless that has stayed.
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
	e.watch(unix.EPOLL_CTL_ADD, c, unix.EPOLLIN)
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
	c.user = e.user(c.fd)
	e.registered++
	e.registeredBy[c.user]++
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
	if c.reg != nil {
		e.unregister(c, reason)
	}
	closeSocket(c.fd) // takes it out of epoll too
}

// unregister ends the registration of a connection that is about to be closed. If it is kept,
// closing our descriptor ends nothing.
func (e *engine) unregister(c *conn, reason string) {
	e.registered--
	if e.registeredBy[c.user]--; e.registeredBy[c.user] == 0 {
		delete(e.registeredBy, c.user)
	}
	delete(e.withheld, c.reg)
	if e.kept {
		e.watch(unix.EPOLL_CTL_DEL, c, 0)
		unix.Shutdown(c.fd, unix.SHUT_RDWR) // fails where the peer has gone, as it should
	}
	e.protocol.gone(c.reg, reason)
}

// watch tells epoll what to watch of c.
func (e *engine) watch(op int, c *conn, events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(c.fd), Pad: int32(c.generation)}
	if err := epollControl(e.epfd, op, c.fd, &ev); err != nil {
		e.log.Error("epoll", "err", err, "peer", c.peer)
	}
}

// poll handles what has happened to the connections in the table. It goes on until epoll has no
// more to tell. Go's poller watches the epoll descriptor edge-triggered. It calls again only for
// what happens after the last look. A FIN behind a request's end may have come before.
func (e *engine) poll(epfd int) error {
	var events [128]unix.EpollEvent
	for e.ctx.Err() == nil {
		n, err := epollWait(epfd, events[:])
		if n == 0 || err != nil {
			return err
		}
		for _, ev := range events[:n] {
			e.happened(int(ev.Fd), uint32(ev.Pad))
		}
	}
	return nil
}

// happened goes on with a connection. It may have been closed since epoll told of it.
func (e *engine) happened(fd int, generation uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.conns[fd]; c != nil && c.generation == generation {
		e.goOn(c)
	}
}

// goOn sends or reads on, whichever the connection waits for.
func (e *engine) goOn(c *conn) {
	if c.wait != nil && c.wait.unsent != nil {
		e.sendOn(c)
	} else {
		e.readOn(c)
	}
}
