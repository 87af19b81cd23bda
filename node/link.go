package node

import (
	"errors"
	"fmt"

	"github.com/goerlang/eclus/node/etf"
)

// ErrUnlinked says that the process at the other end of a link has ended the link.
var ErrUnlinked = errors.New("process has unlinked itself")

// Link is a link between a Conn's own process and one of the peer's. There is at most one between
// two processes. When the connection ends, by Close too, the peer's process gets an exit signal.
// Its reason is noconnection. It ends the process unless that traps exits.
type Link struct {
	conn *Conn
	pid  etf.Pid
	down chan Down
}

// Link links the Conn's process to pid, as link/1 does. If the two have a link, Link returns
// that.
func (c *Conn) Link(pid etf.Pid) (*Link, error) {
	l, known, err := c.linked(pid)
	if err != nil || known {
		return l, err
	}
	m, err := encodeMessage(etf.Tuple{opLink, c.pid, pid})
	if err := c.send(c.ctx, m, err); err != nil {
		c.endLink(pid, Down{Err: err})
		return nil, err
	}
	return l, nil
}

// linked returns the link to pid, which may be a new one.
func (c *Conn) linked(pid etf.Pid) (l *Link, known bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.links == nil {
		return nil, false, c.Err()
	}
	if l, known = c.links[pid]; !known {
		l = &Link{c, pid, make(chan Down, 1)}
		c.links[pid] = l
	}
	return l, known, nil
}

// endLink ends the link to pid, if there is one.
func (c *Conn) endLink(pid etf.Pid, d Down) {
	c.mu.Lock()
	l := c.links[pid]
	delete(c.links, pid)
	c.mu.Unlock()
	if l != nil {
		l.down <- d
	}
}

// Down returns a channel on which one Down comes, unless Unlink has been called before. It has
// room for it. Its Err is [ErrUnlinked] if the process has ended the link.
func (l *Link) Down() <-chan Down { return l.down }

// Unlink ends the link, as unlink/1 does. It may be called at any time.
func (l *Link) Unlink() error {
	c := l.conn
	c.mu.Lock()
	current := c.links[l.pid] == l
	if current {
		delete(c.links, l.pid)
		c.unlinks++
	}
	id := c.unlinks
	c.mu.Unlock()
	if !current {
		return nil
	}
	end := etf.Tuple{opUnlinkID, id, c.pid, l.pid}
	if c.them.flags&UnlinkID == 0 {
		end = etf.Tuple{opUnlink, c.pid, l.pid}
	}
	m, err := encodeMessage(end)
	return c.send(c.ctx, m, err)
}

// Exit sends a process an exit signal, as exit/2 does. The reason kill ends any process, and
// normal ends none. Another reason ends those that don't trap exits. reason is any value that
// [etf.Marshal] takes.
func (c *Conn) Exit(pid etf.Pid, reason any) error {
	m, err := encodeMessage(etf.Tuple{opExit2, c.pid, pid, reason})
	return c.send(c.ctx, m, err)
}

// gotLink is for {LINK, From, To}. The Conn's pid lasts as long as the connection, so a link that
// the peer makes needs nothing more.
func (c *Conn) gotLink(msg control) error {
	var m struct {
		_        struct{} `erl:",tuple"`
		Op       int
		From, To etf.Pid
	}
	if err := msg.unmarshal(&m); err != nil {
		return err
	}
	if m.To == c.pid {
		return nil
	}
	return c.reply(etf.Tuple{opExit, m.To, m.From, atomNoProc})
}

// gotOldUnlink is for {UNLINK, From, To}, of a node that does not have the flag UnlinkID.
func (c *Conn) gotOldUnlink(msg control) error {
	var m struct {
		_        struct{} `erl:",tuple"`
		Op       int
		From, To etf.Pid
	}
	err := msg.unmarshal(&m)
	if err == nil && m.To == c.pid {
		c.endLink(m.From, Down{Err: ErrUnlinked})
	}
	return err
}

// gotUnlink is for {UNLINK_ID, ID, From, To}, which wants an acknowledgement. Nobody waits for
// those to ours: an exit signal that crosses one finds no link any more.
func (c *Conn) gotUnlink(msg control) error {
	var m struct {
		_        struct{} `erl:",tuple"`
		Op       int
		ID       uint64
		From, To etf.Pid
	}
	if err := msg.unmarshal(&m); err != nil {
		return err
	}
	if m.To == c.pid {
		c.endLink(m.From, Down{Err: ErrUnlinked})
	}
	return c.reply(etf.Tuple{opUnlinkIDAck, m.ID, m.To, m.From})
}

// gotExit is for {EXIT, From, To, Reason}, and {EXIT_TT, From, To, Token, Reason}. A linked
// process has ended.
func (c *Conn) gotExit(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	size := 4
	if msg.op == opExitTT {
		size = 5
	}
	if len(t) != size {
		return fmt.Errorf("tuple of %d, want one of %d", len(t), size)
	}
	from, isPid := t[1].(etf.Pid)
	to, _ := t[2].(etf.Pid)
	if !isPid || to != c.pid {
		return nil // of an earlier connection
	}
	reason, err := etf.Append(nil, t[size-1])
	if err == nil {
		c.endLink(from, Down{Reason: reason})
	}
	return err
}

// gotPayloadExit is for {PAYLOAD_EXIT, From, To}, which may have a trace token. Its payload is
// the reason.
func (c *Conn) gotPayloadExit(msg control) error {
	var t etf.Tuple
	if err := msg.unmarshal(&t); err != nil {
		return err
	}
	if len(t) < 3 {
		return errTooShort
	}
	if msg.payload == nil {
		return errNoPayload
	}
	from, isPid := t[1].(etf.Pid)
	if to, _ := t[2].(etf.Pid); isPid && to == c.pid { // else of an earlier connection
		c.endLink(from, Down{Reason: msg.payload})
	}
	return nil
}
