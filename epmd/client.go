package epmd

import (
	"bufio"
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

// Client asks the epmd at one address. It holds nothing but that address: each request is a connection
// of its own, as the protocol has it, made and ended within the context it is given. It may be used by
// several goroutines.
type Client struct {
	addrs []string
}

// NewClient returns a Client for the epmd at addr.
func NewClient(addr netip.AddrPort) *Client {
	return &Client{addrs: []string{addr.String()}}
}

// NewLocalClient returns a Client for the epmd of this host at that port, which is looked for at the
// loopback addresses of IPv4 and IPv6.
func NewLocalClient(port uint16) *Client {
	return &Client{addrs: []string{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String(),
		netip.AddrPortFrom(netip.IPv6Loopback(), port).String(),
	}}
}

// Ask sends req and returns the connection, from which the answer can be read. It ends with ctx.
func (c *Client) Ask(ctx context.Context, req Request) (net.Conn, error) {
	frame, err := AppendFrame(nil, req)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask epmd: %w", err)
	}
	return conn, nil
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

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	var errs []error
	for _, addr := range c.addrs {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			return boundConn{conn, context.AfterFunc(ctx, func() { conn.Close() })}, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("connect to epmd: %w", errs[0])
}

// Registration is a node's registration with an epmd, which lasts until Close.
type Registration struct {
	Creation uint32
	conn     net.Conn
}

// Close unregisters the node.
func (r *Registration) Close() error { return r.conn.Close() }

// Done blocks until the epmd ends the registration, or Close does.
func (r *Registration) Done() error {
	_, err := r.conn.Read(make([]byte, 1))
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Register registers a node. The error is ErrRefused if the epmd says no, for instance because the
// name is taken. The registration outlasts ctx.
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
	answer, err := c.answer(ctx, PortReq{name}, maxPortResp)
	if err != nil {
		return PortResp{}, fmt.Errorf("look up %q: %w", name, err)
	}
	resp, err := ParsePortResp(answer)
	if err == nil && resp.Result != 0 {
		err = ErrNotRegistered
	}
	if err != nil {
		return PortResp{}, fmt.Errorf("look up %q: %w", name, err)
	}
	return resp, nil
}

// answer returns all that an epmd answers to req, at most limit bytes.
func (c *Client) answer(ctx context.Context, req Request, limit int64) ([]byte, error) {
	conn, err := c.Ask(ctx, req)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer, err := io.ReadAll(io.LimitReader(conn, limit))
	if len(answer) == 0 && err == nil {
		err = io.EOF
	}
	return answer, noAnswer(err)
}

// Names asks which nodes are registered.
func (c *Client) Names(ctx context.Context) (Names, error) {
	conn, err := c.Ask(ctx, NamesReq{})
	if err != nil {
		return Names{}, err
	}
	defer conn.Close()
	return ReadNames(conn)
}

// Kill asks the epmd to end. The error is ErrRefused if nodes are registered and it was not started
// to tolerate that.
func (c *Client) Kill(ctx context.Context) error {
	return c.command(ctx, KillReq{}, "OK")
}

// Stop unregisters a node by force. The error is ErrNoAnswer if the epmd was not started to tolerate
// that, and ErrNotRegistered if there is no such node.
func (c *Client) Stop(ctx context.Context, name string) error {
	return c.command(ctx, StopReq{name}, "STOPPED")
}

func (c *Client) command(ctx context.Context, req Request, done string) error {
	answer, err := c.answer(ctx, req, 16)
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

// Watch asks for all nodes that are known, then, after a line of kind SnapshotEnd, for every change
// until ctx ends.
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
