package epmd

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
)

// Errors that a Client's caller decides by.
var (
	ErrNotRegistered = errors.New("not registered")
	ErrNoAnswer      = errors.New("closed without an answer")
)

// Client asks one epmd, which may have several addresses. Each request is a connection of its
// own. It ends with the context of the call. Several goroutines may use a Client.
//
// A Client tries the addresses in their order. It goes on to the next when one has failed or has
// taken 100 ms. Lookup and Names take the first answer. Other requests use the first connection
// alone. When no address works, the error is an [AddrErrors].
type Client struct {
	// MaxNames is how many bytes of an answer to NamesReq are read, for the epmd may be
	// anybody's. The default is 4 MiB.
	MaxNames int64

	addrs []netip.AddrPort
}

// NewClient returns a Client for the epmd at these addresses, the most likely first.
func NewClient(addrs ...netip.AddrPort) *Client { return &Client{addrs: addrs} }

// NewLocalClient returns a Client for this host's epmd at that port. It tries the loopback
// addresses of IPv4 and IPv6.
func NewLocalClient(port uint16) *Client {
	return NewClient(
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	)
}

// Ask sends req and returns the connection, to read the answer from. It ends with ctx.
func (c *Client) Ask(ctx context.Context, req Request) (net.Conn, error) {
	frame, err := AppendFrame(nil, req)
	if err != nil {
		return nil, err
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask epmd: %w", err)
	}
	return conn, nil
}

// connect returns a connection to the first address that takes one. It ends with ctx.
func (c *Client) connect(ctx context.Context) (boundConn, error) {
	first, err := FirstOf(ctx, c.addrs, func(trying context.Context, addr netip.AddrPort) (boundConn, error) {
		conn, err := dialTCP(trying, addr)
		if err != nil {
			return boundConn{}, err
		}
		return boundConn{conn, context.AfterFunc(ctx, func() { conn.Close() })}, nil
	}, func(spare boundConn) { spare.Close() })
	if err != nil {
		return boundConn{}, fmt.Errorf("ask epmd: %w", err)
	}
	return first, nil
}

// question asks at all addresses until read can read an answer. It returns the address as well.
func question[T any](ctx context.Context, c *Client, req Request, read func(io.Reader) (T, error)) (T, netip.AddrPort, error) {
	type answered struct {
		answer T
		at     netip.AddrPort
	}
	frame, err := AppendFrame(nil, req)
	if err != nil {
		return answered{}.answer, netip.AddrPort{}, err
	}
	first, err := FirstOf(ctx, c.addrs, func(ctx context.Context, addr netip.AddrPort) (answered, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return answered{}, err
		}
		bound := boundConn{conn, context.AfterFunc(ctx, func() { conn.Close() })}
		defer bound.Close()
		if _, err := conn.Write(frame); err != nil {
			return answered{}, err
		}
		answer, err := read(conn)
		if err != nil && ctx.Err() != nil { // that the connection was closed says nothing
			err = context.Cause(ctx)
		}
		return answered{answer, addr}, err
	}, func(answered) {})
	if err != nil {
		err = fmt.Errorf("ask epmd: %w", err)
	}
	return first.answer, first.at, err
}

// boundConn is a connection that is closed when its context ends.
type boundConn struct {
	net.Conn
	stop func() bool
}

func (c boundConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", addr.String())
}

// Registration is a node's registration with an epmd, which lasts until Close.
type Registration struct {
	Creation uint32
	conn     net.Conn
}

// Close unregisters the node.
func (r *Registration) Close() error { return r.conn.Close() }

// LocalAddr returns the address that the epmd sees the node register from.
func (r *Registration) LocalAddr() netip.AddrPort {
	return r.conn.LocalAddr().(*net.TCPAddr).AddrPort()
}

// Done blocks until the epmd ends the registration, or Close does.
func (r *Registration) Done() error {
	_, err := r.conn.Read(make([]byte, 1))
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Register registers a node. The error is ErrRefused if the epmd says no, as it does if the name
// is taken. The registration outlasts ctx.
func (c *Client) Register(ctx context.Context, req AliveReq) (*Registration, error) {
	conn, err := c.Ask(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("register %q: %w", req.Name, err)
	}
	resp, err := readAliveResp(conn)
	if err == nil && resp.Result != 0 {
		err = fmt.Errorf("result %d: %w", resp.Result, ErrRefused)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("register %q: %w", req.Name, err)
	}
	bound := conn.(boundConn)
	if !bound.stop() {
		bound.Conn.Close()
		return nil, fmt.Errorf("register %q: %w", req.Name, context.Cause(ctx))
	}
	return &Registration{resp.Creation, bound.Conn}, nil
}

func readAliveResp(r io.Reader) (AliveResp, error) {
	buf := make([]byte, 6)
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return AliveResp{}, noAnswer(err)
	}
	length, err := aliveRespLen(buf[0])
	if err != nil {
		return AliveResp{}, err
	}
	if _, err := io.ReadFull(r, buf[1:length]); err != nil {
		return AliveResp{}, noAnswer(err)
	}
	return ParseAliveResp(buf[:length])
}

// noAnswer says ErrNoAnswer for a connection that ended where an answer was due.
func noAnswer(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return ErrNoAnswer
	}
	return err
}

// Lookup asks for the node of that alive name. The error is ErrNotRegistered if there is none.
func (c *Client) Lookup(ctx context.Context, name string) (PortResp, error) {
	resp, _, err := c.LookupAt(ctx, name)
	return resp, err
}

// LookupAt is Lookup, and also returns the address that answered. One of the addresses may lead
// to another host's epmd: all hosts with containers have a 172.17.0.1. So "not registered" counts
// only when no other address finds the node within 500 ms.
func (c *Client) LookupAt(ctx context.Context, name string) (PortResp, netip.AddrPort, error) {
	resp, at, err := question(ctx, c, PortReq{name}, readPortResp)
	if err != nil {
		err = fmt.Errorf("look up %q: %w", name, err)
	}
	if absent := (*AddrError)(nil); errors.Is(err, ErrNotRegistered) && errors.As(err, &absent) {
		at = absent.Addr
	}
	return resp, at, err
}

func readPortResp(r io.Reader) (PortResp, error) {
	answer, err := readAll(r, maxPortResp)
	if err != nil {
		return PortResp{}, err
	}
	resp, err := ParsePortResp(answer)
	if err == nil && resp.Result != 0 {
		err = ErrNotRegistered
	}
	return resp, err
}

// readAll reads an answer of at most limit bytes. An empty one is ErrNoAnswer.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(r, limit))
	if len(answer) == 0 && err == nil {
		err = io.EOF
	}
	return answer, noAnswer(err)
}

// Names asks which nodes are registered.
func (c *Client) Names(ctx context.Context) (Names, error) {
	limit := cmp.Or(c.MaxNames, maxNamesBytes)
	names, _, err := question(ctx, c, NamesReq{}, func(r io.Reader) (Names, error) { return readNames(r, limit) })
	return names, err
}

// Kill asks the epmd to end. The error is ErrRefused if nodes are registered, unless the epmd was
// started to tolerate that.
func (c *Client) Kill(ctx context.Context) error {
	return c.command(ctx, KillReq{}, "OK")
}

// Stop unregisters a node by force. The error is ErrNotRegistered if there is no such node. It is
// ErrNoAnswer if the epmd was not started to tolerate the request.
func (c *Client) Stop(ctx context.Context, name string) error {
	return c.command(ctx, StopReq{name}, "STOPPED")
}

func (c *Client) command(ctx context.Context, req Request, done string) error {
	conn, err := c.Ask(ctx, req)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := readAll(conn, 16)
	switch string(answer) {
	case "":
		return err
	case done:
		return nil
	case "NO":
		return ErrRefused
	case "NOEXIST", "NOEXISTSTOPPED":
		return ErrNotRegistered
	}
	return fmt.Errorf("epmd answered %q", answer)
}

// Lines is the answer to NodesReq or WatchReq, a line at a time.
type Lines struct {
	EPMDPort uint32
	conn     net.Conn
	scanner  *bufio.Scanner
}

// Nodes asks for all nodes that are known, one line each. The answer ends by itself.
func (c *Client) Nodes(ctx context.Context) (*Lines, error) { return c.lines(ctx, NodesReq{}) }

// Find asks for the nodes of a name, which is a full or an alive name. The answer ends by itself.
// An epmd of ours before version 0.3 answers with all nodes.
func (c *Client) Find(ctx context.Context, name string) (*Lines, error) {
	return c.lines(ctx, NodesReq{name})
}

// Watch asks for all nodes that are known, and for every change until ctx ends. A line of kind
// SnapshotEnd stands between the two.
func (c *Client) Watch(ctx context.Context) (*Lines, error) { return c.lines(ctx, WatchReq{}) }

func (c *Client) lines(ctx context.Context, req Request) (*Lines, error) {
	conn, err := c.Ask(ctx, req)
	if err != nil {
		return nil, err
	}
	l := &Lines{conn: conn, scanner: bufio.NewScanner(conn)}
	if err := binary.Read(conn, binary.BigEndian, &l.EPMDPort); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask epmd for nodes: %w", noAnswer(err))
	}
	return l, nil
}

// Next returns the next line; io.EOF after the last.
func (l *Lines) Next() (Line, error) {
	if l.scanner.Scan() {
		return ParseLine(l.scanner.Text())
	}
	if err := l.scanner.Err(); err != nil {
		return Line{}, fmt.Errorf("read nodes: %w", err)
	}
	return Line{}, io.EOF
}

// Close ends the answer.
func (l *Lines) Close() error { return l.conn.Close() }
