package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	identifyTime  = 5 * time.Second // all of it; a node itself gives a handshake 7 s
	maxFrame      = 4096            // of a handshake message: a name and room for later additions
	maxFromPeer   = 128 << 10       // of one connection: certificates are most of it
	plainLenSize  = 2
	secureLenSize = 4
	tlsAlert      = 0x1503 // what a TLS node's complaint about a plain message begins with
)

// ErrTLS is the error of a node that speaks TLS, but not with a client that has no certificate.
var ErrTLS = errors.New("TLS handshake not completed")

// ErrHungUp is the error of a node that closes the connection instead of answering the prober's
// name.
var ErrHungUp = errors.New("connection closed without an answer")

// errCrossed is the error of a node that closes the connection after it has accepted the prober's
// name. OTP does so if another handshake under that name ends at that moment.
var errCrossed = errors.New("connection closed in the middle of the handshake")

// StatusError is the error of a node that did not accept the prober's name.
type StatusError struct {
	Code StatusCode // NotOK, Alive and NotAllowed are the ones OTP sends
}

// Error names the status, quoted: the node may have sent anything.
func (e *StatusError) Error() string {
	return fmt.Sprintf("node answered with status %q", e.Code)
}

// Identity is what a node says of itself.
type Identity struct {
	Name     string // full node name; passes CheckName
	Flags    Flags  // what it can do
	Creation uint32 // which incarnation it is; 0 before OTP 23
	Hidden   bool   // a hidden node (-hidden, C and Java nodes): Published is not among Flags
	TLS      bool   // distribution over TLS (-proto_dist inet_tls)
}

// Identify asks the node that listens at addr, its distribution port, for its full name. It needs
// no cookie: the accepting side tells its name before the connecting side proves anything.
//
// prober is the full node name to ask under. Use one fixed name for a host: each different one
// costs the node an atom for good. Use one that no node has: a node asked under its own name logs
// an error. Two handshakes under one name get in each other's way ([IsBusy]). So ask a node once
// at a time. It forgets a handshake within some milliseconds.
//
// First Identify greets with a TLS ClientHello. To a plain node its first bytes announce a
// handshake message, and it is made exactly as long as that. So a plain node finds a whole
// message that it does not know, and closes the connection in silence. Identify then asks it over
// a second one. A TLS node answers in its own time. The first TLS connection of its life takes it
// well over 100 ms, so silence does not tell what a node is.
//
// Identify never gets past the challenge, so nothing comes up or goes down in the node. OTP logs
// what it logs of any such connection. These are progress reports of its TLS processes, at level
// info. If net_kernel:allow/1 restricts the node, there is an error for a prober that is not
// allowed. A TLS node may ask for a client's certificate. Where that is mandatory, to decline
// would be logged. So Identify leaves at once, without a word, and does not learn the name.
//
// Identify takes at most 5 s, or until ctx ends. An Identity that comes with an error has TLS set
// if the node speaks TLS, and nothing else. The error is [ErrTLS] if a TLS handshake was not
// completed. It is a [*StatusError] if the node did not accept the prober. It is ctx's if ctx has
// ended. Else it is of the connection, or of an answer that no node would give.
//
// A C or Java node may accept one connection at a time. It may take a handshake that breaks off
// for an error of its own. It registers with EPMD as hidden, which a node of OTP never does.
func Identify(ctx context.Context, addr netip.AddrPort, prober string) (Identity, error) {
	if err := CheckName(prober); err != nil {
		return Identity{}, fmt.Errorf("identify node at %v: prober: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, identifyTime)
	defer cancel()
	id, err := identifyTLS(ctx, addr, prober)
	if errors.Is(err, errPlain) {
		id, err = identifyPlain(ctx, addr, prober)
		// It took the first connection just now.
		if opErr := (*net.OpError)(nil); errors.As(err, &opErr) && opErr.Op == "dial" {
			err = fmt.Errorf("%w: then %v", ErrHungUp, err)
		}
	}
	if err == nil {
		return id, nil
	}
	if cause := context.Cause(ctx); cause != nil { // the connection only says that it was closed
		err = cause
	}
	return Identity{TLS: id.TLS}, fmt.Errorf("identify node at %v: %w", addr, err)
}

func identifyPlain(ctx context.Context, addr netip.AddrPort, prober string) (Identity, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return Identity{}, err
	}
	defer c.Close()
	return ask(frames{c, plainLenSize}, prober)
}

// ask goes through the handshake as far as the challenge.
func ask(f frames, prober string) (Identity, error) {
	if err := f.write(SendName{Flags: probing, Name: prober}.Append(nil)); err != nil {
		return Identity{}, fmt.Errorf("send name: %w", err)
	}
	if err := readStatus(f); err != nil {
		return Identity{}, err
	}
	m, err := readChallenge(f)
	if err != nil {
		return Identity{}, err
	}
	return Identity{Name: m.Name, Flags: m.Flags, Creation: m.Creation, Hidden: m.Flags&Published == 0}, nil
}

// readChallenge reads what the accepting node says of itself and checks its name.
func readChallenge(f frames) (Challenge, error) {
	b, err := f.read()
	if isClosed(err) {
		return Challenge{}, fmt.Errorf("%w: read challenge: %w", errCrossed, err)
	}
	if err != nil {
		return Challenge{}, fmt.Errorf("read challenge: %w", err)
	}
	m, err := ParseChallenge(b)
	if err != nil {
		return Challenge{}, err
	}
	return m, CheckName(m.Name)
}

// readStatus reads the answer to the prober's name. nil says that the challenge comes next.
func readStatus(f frames) error {
	b, err := f.read()
	if isClosed(err) {
		return fmt.Errorf("%w: read status: %w", ErrHungUp, err)
	}
	if err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	s, err := ParseStatus(b)
	if err != nil {
		return err
	}
	switch s.Code {
	case OK, OKSimultaneous:
		return nil
	case Alive: // the connection the node has is not ours to replace
		err = f.write(Status{Code: False}.Append(nil))
	}
	return errors.Join(&StatusError{Code: s.Code}, err)
}

// frames are messages, each after its length in lenSize bytes, big-endian.
type frames struct {
	rw      io.ReadWriter
	lenSize int
}

// write sends one message in one piece.
func (f frames) write(m []byte) error {
	var n [secureLenSize]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(m)))
	_, err := f.rw.Write(append(n[secureLenSize-f.lenSize:], m...))
	return err
}

// read reads exactly one message.
func (f frames) read() ([]byte, error) {
	var n [secureLenSize]byte
	if _, err := io.ReadFull(f.rw, n[secureLenSize-f.lenSize:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if f.lenSize == plainLenSize && size == tlsAlert {
		return nil, ErrWantsTLS
	}
	if size > maxFrame {
		return nil, fmt.Errorf("message of %d bytes, at most %d", size, maxFrame)
	}
	m := make([]byte, size)
	_, err := io.ReadFull(f.rw, m)
	return m, err
}

// peer is the connection to the node asked. It reads no more than a node has to say.
type peer struct {
	net.Conn
	stop func() bool // lets go of the context
	left int         // bytes that may still be read
}

// dial connects to addr. When ctx ends the connection is closed.
func dial(ctx context.Context, addr netip.AddrPort) (*peer, error) { return dialWithin(ctx, addr, 0) }

// dialWithin is dial that gives up after a time. 0: never.
func dialWithin(ctx context.Context, addr netip.AddrPort, time time.Duration) (*peer, error) {
	c, err := (&net.Dialer{KeepAlive: -1, Timeout: time}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return &peer{
		Conn: c,
		stop: context.AfterFunc(ctx, func() { c.Close() }),
		left: maxFromPeer,
	}, nil
}

func (p *peer) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, fmt.Errorf("more than %d bytes from the peer", maxFromPeer)
	}
	n, err := p.Conn.Read(b[:min(len(b), p.left)])
	p.left -= n
	return n, err
}

func (p *peer) Close() error {
	p.stop()
	return p.Conn.Close()
}
