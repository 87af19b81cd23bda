package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/goerlang/eclus/node/etf"
)

const (
	defaultTickTime   = 60 * time.Second
	defaultMaxMessage = 16 << 20
	ticksPerTime      = 4               // ticks sent while a TickTime passes, as a node does
	answerPause       = time.Second / 2 // after something was sent, until ticks are answered
	flushTime         = time.Second     // to send what is waiting when a Conn is closed
	outLen            = 64              // messages waiting to be sent, of callers and of the reader
	inLen             = 256             // messages that wait for a Handler
)

var (
	errBehind  = errors.New("too many messages wait for a handler")
	errNoReads = errors.New("node sends but does not read")
)

// Options are common to both sides of a connection. Zero fields stand for defaults.
type Options struct {
	// Creation tells this incarnation of our name from others. Default: a random one for each
	// connection.
	Creation uint32
	// TickTime is how long the peer may be silent, with a quarter more, until the connection
	// counts as broken. It should be the peer's net_ticktime. Default: 60 s.
	TickTime time.Duration
	// MaxMessage bounds a message from the peer, in bytes. Default: 16 MiB.
	MaxMessage int
	// Processes are those that a peer can send to and monitor, by registered name. The one with
	// the empty name stands for the Conn's own pid. It gets what is no answer to anything asked.
	// See [Handler].
	Processes map[etf.Atom]Handler
}

func (o Options) withDefaults() Options {
	if o.TickTime == 0 {
		o.TickTime = defaultTickTime
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = defaultMaxMessage
	}
	return o
}

// Handler handles what a peer has sent to a process. It gets one message of a connection at a
// time, in the order in which they came. If 256 messages wait for a slow Handler, the connection
// is closed.
type Handler func(*Conn, Message)

// Message is what came for a process.
type Message struct {
	To   etf.Atom // registered name; empty for the Conn's own pid
	From etf.Pid  // sender; zero: not told, which old nodes don't for what they send to a pid
	Term etf.Raw
}

// Conn is a connection with a node, after the handshake. Its methods may be called concurrently.
// It has one process, Self, that sends everything. Three goroutines serve it until Close, or
// until the peer is gone. None of them waits for a caller.
type Conn struct {
	conn    net.Conn
	us      self
	them    them
	pid     etf.Pid
	ctx     context.Context // ends with the connection, the cause being why
	fail    context.CancelCauseFunc
	account *account       // nil: it belongs to no Server
	ended   sync.WaitGroup // the goroutines that read and write
	idle    sync.WaitGroup // the one that calls handlers

	out     chan []byte  // whole messages of callers, to be sent
	answers chan []byte  // the same, of the reader
	in      chan Message // to be handled
	wrote   atomic.Int64 // when something was last sent, in Unix nanoseconds
	said    atomic.Bool  // a message was sent, ticks aside
	heard   atomic.Bool  // a message has come, ticks aside

	mu      sync.Mutex
	refs    uint64              // references made
	waiting map[etf.Ref]*waiter // by reference; nil once the connection has ended
	unlinks uint64              // links ended
	links   map[etf.Pid]*Link   // by the peer's process; nil once the connection has ended
}

func newConn(c net.Conn, us self, them them) *Conn {
	ctx, fail := context.WithCancelCause(context.Background())
	conn := &Conn{
		conn: c, us: us, them: them, ctx: ctx, fail: fail,
		pid:     etf.Pid{Node: etf.Atom(us.name), ID: 1, Creation: us.creation},
		out:     make(chan []byte, outLen),
		answers: make(chan []byte, outLen),
		in:      make(chan Message, inLen),
		waiting: map[etf.Ref]*waiter{},
		links:   map[etf.Pid]*Link{},
	}
	conn.wrote.Store(time.Now().UnixNano())
	return conn
}

// start starts what serves c, and returns c.
func (c *Conn) start() *Conn {
	c.ended.Go(c.writeAll)
	c.ended.Go(c.readAll)
	c.idle.Go(c.handleAll)
	return c
}

// PeerName returns the peer's full node name. It passes [CheckName].
func (c *Conn) PeerName() string { return c.them.name }

// PeerFlags returns what the peer can do.
func (c *Conn) PeerFlags() Flags { return c.them.flags }

// PeerCreation returns which incarnation of its name the peer is.
func (c *Conn) PeerCreation() uint32 { return c.them.creation }

// Self returns the pid of the process that sends everything.
func (c *Conn) Self() etf.Pid { return c.pid }

// Closed is closed when the connection has ended.
func (c *Conn) Closed() <-chan struct{} { return c.ctx.Done() }

// Err returns why the connection has ended: [net.ErrClosed] after Close, an [ErrSilent], or
// another error that broke it. It is nil while the connection lasts.
func (c *Conn) Err() error { return context.Cause(c.ctx) }

// Close ends the connection. Before, it waits at most 1 s for what was sent to be on its way. A
// Handler may call it, and it may be called more than once.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	c.ended.Wait()
	return nil
}

// handleAll passes messages to their handlers.
func (c *Conn) handleAll() {
	defer c.account.settle(c)
	for {
		select {
		case m := <-c.in:
			c.us.Processes[m.To](c, m)
			c.account.add(c, -len(m.Term))
		case <-c.ctx.Done():
			return
		}
	}
}

// writeAll sends messages until the connection has ended. It ticks while there are none.
func (c *Conn) writeAll() {
	defer c.conn.Close()
	defer context.AfterFunc(c.ctx, func() { c.conn.SetWriteDeadline(time.Now().Add(flushTime)) })()
	every := c.us.TickTime / ticksPerTime
	tick := time.NewTimer(every)
	defer tick.Stop()
	for {
		var m []byte
		select {
		case m = <-c.answers:
		case m = <-c.out:
		case <-tick.C:
			m = make([]byte, messageLenSize)
			c.account.add(c, len(m))
		case <-c.ctx.Done():
			c.flush()
			return
		}
		if len(m) > messageLenSize {
			c.said.Store(true)
		}
		err := c.write(m)
		c.account.add(c, -len(m))
		if err != nil {
			c.fail(fmt.Errorf("send to node: %w", c.lost(err)))
			return
		}
		tick.Reset(every)
	}
}

func (c *Conn) write(m []byte) error {
	c.conn.SetWriteDeadline(time.Now().Add(c.us.TickTime))
	if c.ctx.Err() != nil { // the deadline that the end has set may have just been lost
		c.conn.SetWriteDeadline(time.Now().Add(flushTime))
	}
	_, err := c.conn.Write(m)
	c.wrote.Store(time.Now().UnixNano())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w and takes nothing for %v", ErrSilent, c.us.TickTime)
	}
	return err
}

// flush sends what waits to be sent.
func (c *Conn) flush() {
	c.conn.SetWriteDeadline(time.Now().Add(flushTime))
	for {
		select {
		case m := <-c.out:
			if _, err := c.conn.Write(m); err != nil {
				return
			}
		default:
			return
		}
	}
}

// readAll reads messages until the connection has ended. It then ends all waiting.
func (c *Conn) readAll() {
	defer c.release()
	r := bufio.NewReader(watchedReader{c})
	for {
		m, err := readMessage(r, c.us.MaxMessage)
		if err == nil {
			err = c.receive(m)
		}
		if err != nil {
			c.fail(fmt.Errorf("receive from node: %w", c.lost(err)))
			return
		}
	}
}

// lost makes an ErrFirstMessage of the end of a connection if one message has gone and none has
// come.
func (c *Conn) lost(err error) error {
	if (isClosed(err) || errors.Is(err, syscall.EPIPE)) && c.said.Load() && !c.heard.Load() {
		return fmt.Errorf("%w: %w", ErrFirstMessage, err)
	}
	return err
}

// watchedReader reads from a connection. It fails when the peer is silent for too long.
type watchedReader struct{ c *Conn }

func (r watchedReader) Read(b []byte) (int, error) {
	allowed := r.c.us.TickTime + r.c.us.TickTime/ticksPerTime
	r.c.conn.SetReadDeadline(time.Now().Add(allowed))
	n, err := r.c.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w for %v", ErrSilent, allowed)
	}
	return n, err
}

const messageLenSize = 4

// readMessage reads one message of at most most bytes, without its length. It takes memory as
// bytes come. A tick has none.
func readMessage(r io.Reader, most int) ([]byte, error) {
	var head [messageLenSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > int64(most) {
		return nil, fmt.Errorf("message of %d bytes, at most %d", size, most)
	}
	var b bytes.Buffer
	n, err := io.CopyN(&b, r, size)
	if err == io.EOF && n < size {
		err = io.ErrUnexpectedEOF
	}
	return b.Bytes(), err
}

// receive acts on a message, or answers a tick. Two sides that answered each other's answers
// would never stop. So it does not answer a tick shortly after something was sent.
func (c *Conn) receive(m []byte) error {
	if len(m) > 0 {
		c.heard.Store(true)
		return c.dispatch(m)
	}
	if time.Since(time.Unix(0, c.wrote.Load())) < answerPause {
		return nil
	}
	return c.answer(make([]byte, messageLenSize))
}

// answer sends a message of the reader. It ends the connection if the peer makes us answer and
// does not read.
func (c *Conn) answer(m []byte) error {
	c.account.add(c, len(m))
	select {
	case c.answers <- m:
		return nil
	default:
		return errNoReads
	}
}

// send queues m to be sent. If too much is queued, it waits for at most as long as ctx lasts.
func (c *Conn) send(ctx context.Context, m []byte, err error) error {
	if err != nil {
		return err
	}
	if c.ctx.Err() != nil {
		return c.Err()
	}
	c.account.add(c, len(m))
	select {
	case c.out <- m:
		return nil
	case <-ctx.Done():
		c.account.add(c, -len(m))
		return context.Cause(ctx)
	case <-c.ctx.Done():
		return c.Err()
	}
}

// Send sends msg to a process. msg is any value that [etf.Marshal] takes. Send waits for the peer
// only if many messages do. As in Erlang, nobody tells whether the message has arrived.
func (c *Conn) Send(to etf.Pid, msg any) error {
	m, err := encodeMessage(etf.Tuple{opSend, etf.Atom(""), to}, msg)
	return c.send(c.ctx, m, err)
}

// SendName is Send for a registered name at the peer. A name that the peer does not know yet
// costs it an atom for good.
func (c *Conn) SendName(name etf.Atom, msg any) error {
	m, err := encodeMessage(etf.Tuple{opRegSend, c.pid, etf.Atom(""), name}, msg)
	return c.send(c.ctx, m, err)
}
