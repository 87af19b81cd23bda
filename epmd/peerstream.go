package epmd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBadPeer marks what no epmd says to another. The stream is of no more use.
var ErrBadPeer = errors.New("no epmd says so")

// MaxPeerLine is how many bytes a line between epmds has at most, its newline included.
const MaxPeerLine = 4 << 10

// peerBuffer is how many bytes each stream reads at a time. There are many streams, and their lines
// are short.
const peerBuffer = 1 << 10

// maxIdleLines is how many lines in a row may say nothing to us.
const maxIdleLines = 1 << 16

// KeepAlive says when a peer that is silent counts as gone. The zero KeepAlive never does.
type KeepAlive struct {
	Idle     time.Duration // without traffic before the first probe; whole seconds
	Interval time.Duration // between probes; whole seconds
	Timeout  time.Duration // without any answer before the stream fails with ETIMEDOUT
}

// set sets the options of a TCP socket.
func (k KeepAlive) set(fd int) error {
	if k == (KeepAlive{}) {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
	}
	seconds := func(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(k.Idle)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(k.Interval)),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(k.Timeout.Milliseconds())),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
}

// PeerStream is what another host's epmd tells of its nodes: first all, then every change. One
// goroutine reads it. Close and SetKeepAlive may be called by others.
type PeerStream struct {
	// Hello is what the epmd says of itself. ID is zero if it does not tell. Its host may get
	// another name: Next sets Hello when it returns a line of kind PeerName.
	Hello PeerHello
	Addr  netip.AddrPort // that answered; a link-local address has its zone
	Local netip.Addr     // our end

	conn  *net.TCPConn
	lines *bufio.Reader
}

// WatchPeer asks another host's epmd for its nodes, and says who asks. It tries the addresses as
// Client does, until one has sent its first line. Then ctx no longer counts: the stream lasts
// until Close. A hello without an ID is not sent: the epmd does not learn who asks.
//
// The error is ErrNoAnswer for an epmd that closes before that: one of OTP, an Eclus without
// peers, or one whose -allow has no place for us. It is ErrBadPeer if something else answers.
func (c *Client) WatchPeer(ctx context.Context, hello PeerHello, alive KeepAlive) (*PeerStream, error) {
	req := WatchReq{&hello}
	if hello.ID == (PeerID{}) {
		req.Hello = nil
	}
	frame, err := AppendFrame(nil, req)
	if err != nil {
		return nil, err
	}
	s, err := FirstOf(ctx, c.addrs, func(ctx context.Context, addr netip.AddrPort) (*PeerStream, error) {
		return watchPeer(ctx, addr, frame, alive)
	}, func(spare *PeerStream) { spare.Close() })
	if err != nil {
		return nil, fmt.Errorf("watch peer: %w", err)
	}
	return s, nil
}

func watchPeer(ctx context.Context, addr netip.AddrPort, frame []byte, alive KeepAlive) (*PeerStream, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	s := newPeerStream(conn.(*net.TCPConn), addr)
	release := context.AfterFunc(ctx, func() { s.Close() })
	if err = s.SetKeepAlive(alive); err == nil {
		if _, err = s.conn.Write(frame); err == nil {
			err = s.begin()
		}
	}
	if !release() {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.Close()
		return nil, noAnswer(err)
	}
	return s, nil
}

func newPeerStream(conn *net.TCPConn, addr netip.AddrPort) *PeerStream {
	return &PeerStream{
		Addr:  addr,
		Local: conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(),
		conn:  conn, lines: bufio.NewReaderSize(conn, peerBuffer),
	}
}

// begin reads the answer up to its first line.
func (s *PeerStream) begin() error {
	var port uint32
	if err := binary.Read(s.lines, binary.BigEndian, &port); err != nil {
		return err
	}
	if port == 0 || port > math.MaxUint16 {
		return fmt.Errorf("%w: no epmd has port %d", ErrBadPeer, port)
	}
	l, err := s.read()
	if err != nil {
		return err
	}
	if l.Kind != PeerName {
		return fmt.Errorf("%w: first line of kind %q", ErrBadPeer, l.Kind)
	}
	s.Hello.Port = uint16(port)
	return s.greet(l)
}

// greet takes a line of kind PeerName.
func (s *PeerStream) greet(l Line) error {
	hello, err := readHello(l)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadPeer, err)
	}
	hello.Port = s.Hello.Port
	s.Hello = hello
	return nil
}

// Next returns the next line, which is of kind NodeKnown, NodeGone, SnapshotEnd or PeerName. It
// skips others, and lines about nodes of another host. Up to SnapshotEnd a later line replaces an
// earlier one of the same name, and NodeGone takes it back. [PeerNode] checks what a line says.
//
// The error is ErrBadPeer for what no epmd says. Others are the system's: io.EOF and ECONNRESET
// say that the peer has closed, ETIMEDOUT that it is silent. After an error there is no next line.
func (s *PeerStream) Next() (Line, error) {
	for range maxIdleLines {
		l, err := s.read()
		if err != nil {
			return Line{}, err
		}
		switch l.Kind {
		case PeerName:
			return l, s.greet(l)
		case SnapshotEnd:
			return l, nil
		case NodeKnown, NodeGone:
			if l.Get("host") == s.Hello.Host {
				return l, nil
			}
		}
	}
	return Line{}, fmt.Errorf("%w: %d lines that say nothing", ErrBadPeer, maxIdleLines)
}

// read returns the next line of any kind.
func (s *PeerStream) read() (Line, error) {
	text, err := s.readText()
	if err != nil {
		return Line{}, err // a line that breaks off says nothing
	}
	l, err := ParseLine(text)
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", ErrBadPeer, err)
	}
	return l, nil
}

// readText returns the next line with its newline. Few lines are longer than the buffer.
func (s *PeerStream) readText() (string, error) {
	part, err := s.lines.ReadSlice('\n')
	if err == nil {
		return string(part), nil
	}
	var line []byte
	for errors.Is(err, bufio.ErrBufferFull) && len(line) < MaxPeerLine {
		line = append(line, part...)
		part, err = s.lines.ReadSlice('\n')
	}
	if line = append(line, part...); len(line) > MaxPeerLine || len(line) == MaxPeerLine && err != nil {
		return "", fmt.Errorf("%w: line of more than %d bytes", ErrBadPeer, MaxPeerLine)
	}
	return string(line), err
}

// SetKeepAlive sets when the peer counts as gone.
func (s *PeerStream) SetKeepAlive(k KeepAlive) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	return controlRaw(raw, k.set)
}

// Close ends the stream. A Next that waits returns net.ErrClosed.
func (s *PeerStream) Close() error { return s.conn.Close() }
