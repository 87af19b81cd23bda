package node

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

const (
	dialTime  = 15 * time.Second // of a dial whose context allows more
	busyTime  = 2 * time.Second  // that a node may take to forget an earlier connection of ours
	busyPause = 10 * time.Millisecond
)

// Dialer connects to nodes as a hidden node. It may be used concurrently, but not changed
// meanwhile.
type Dialer struct {
	// Name is the full node name to connect under. Each different one costs a node an atom for
	// good. A node has one connection to each name. The default is eclus@HOST, with the name of
	// this host.
	Name   string
	Cookie Cookie
	// TLS is for nodes with distribution over TLS, as from [AnyTLS] or [VerifiedTLS]. It is nil
	// for plain nodes.
	// Identify tells which is which. A plain node logs nothing of a TLS greeting, but a TLS node
	// does of a plain one.
	TLS *tls.Config
	// Lookup returns where the node with a full name may listen, in the order to try it.
	// [epmd.Finder] has one. Dial needs it, DialAddr does not.
	//
	// [epmd.Finder]: https://pkg.go.dev/github.com/goerlang/eclus/epmd#Finder
	Lookup Lookup
	// Server is the node to connect as, if it also accepts connections. Its Name, Cookie and
	// Options are used in place of the Dialer's. A dial returns the connection that it already
	// has with a node. If the peer dials at the same time, both ends agree on one connection.
	Server *Server
	Options
}

// Lookup returns where the node with a full name may listen.
type Lookup func(ctx context.Context, name string) ([]netip.AddrPort, error)

// Dial connects to the node with the full name name, with a Dialer that has nothing but these.
func Dial(ctx context.Context, name string, cookie Cookie, lookup Lookup) (*Conn, error) {
	return (&Dialer{Cookie: cookie, Lookup: lookup}).Dial(ctx, name)
}

// Dial connects to the node with the full name name. It looks the node up, connects and goes
// through the handshake. That takes at most 15 s, or until ctx ends. The connection outlives ctx.
// Dial uses the cookie only once the node has said that it has that name. Each error is a
// [*DialError].
//
// A node needs a moment to notice that an earlier connection has ended. So while it says that it
// has one from our name, or a handshake with it, it is asked again for 2 s. Then the error is a
// [*StatusError] of Alive or NotOK.
func (d *Dialer) Dial(ctx context.Context, name string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := CheckName(name); err != nil {
		return nil, dialError(ctx, name, at(StepName, err))
	}
	if d.Lookup == nil {
		return nil, dialError(ctx, name, at(StepLookup, errors.New("the Dialer has no Lookup")))
	}
	addrs, err := d.Lookup(ctx, name)
	if err != nil {
		return nil, dialError(ctx, name, at(StepLookup, err))
	}
	return d.DialAddr(ctx, name, addrs...)
}

// DialAddr is Dial for a node whose addresses and distribution port are known. It connects to the
// first address that takes a connection. An empty name stands for whatever node is there.
func (d *Dialer) DialAddr(ctx context.Context, name string, addrs ...netip.AddrPort) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	us, err := d.self()
	if err != nil {
		return nil, dialError(ctx, name, at(StepName, err))
	}
	c, err := WhileBusy(ctx, func() (*Conn, error) { return d.connect(ctx, us, name, addrs) })
	if err != nil {
		return nil, dialError(ctx, name, err)
	}
	return c, nil
}

// WhileBusy returns what ask does. It asks again while the node is busy (IsBusy), for at most 2 s,
// or until ctx ends. The pauses double.
func WhileBusy[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	until := time.Now().Add(busyTime)
	for pause := busyPause; ; pause *= 2 {
		answer, err := ask()
		if !IsBusy(err) || time.Now().After(until) || !sleep(ctx, pause) {
			return answer, err
		}
	}
}

// dialError adds the name, and what has ended ctx, to an error with a step.
func dialError(ctx context.Context, name string, err error) error {
	staged := (*DialError)(nil)
	if !errors.As(err, &staged) {
		return err
	}
	cause := staged.Err
	if ended := context.Cause(ctx); ended != nil && !errors.Is(cause, ended) {
		cause = fmt.Errorf("%w: %w", ended, cause)
	}
	return &DialError{name, staged.Step, cause}
}

// IsBusy reports whether another connection between the same nodes is in the way. It may be gone
// soon.
func IsBusy(err error) bool {
	for _, crossed := range []error{errGaveWay, errDialling, errCrossed} {
		if errors.Is(err, crossed) {
			return true
		}
	}
	refused := (*StatusError)(nil)
	return errors.As(err, &refused) && refused.Code != NotAllowed
}

// sleep waits for d and returns true. It returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Dialer) self() (self, error) {
	if d.Server != nil {
		return d.Server.self()
	}
	return newSelf(d.name(), d.Cookie, d.Options)
}

func (d *Dialer) name() string {
	if d.Name != "" {
		return d.Name
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return "eclus@" + host
}

// connect makes one attempt, or finds that there is a connection.
func (d *Dialer) connect(ctx context.Context, us self, name string, addrs []netip.AddrPort) (*Conn, error) {
	if d.Server == nil || name == "" {
		return d.attempt(ctx, us, name, addrs, func() error { return nil })
	}
	c, err := d.Server.peers.connect(ctx, name, func(ctx context.Context, open func() error) (*Conn, error) {
		return d.attempt(ctx, us, name, addrs, open)
	})
	return c, at(StepHandshake, err)
}

func (d *Dialer) attempt(ctx context.Context, us self, name string, addrs []netip.AddrPort, open func() error) (*Conn, error) {
	p, err := dialFirst(ctx, addrs)
	if err != nil {
		return nil, at(StepConnect, err)
	}
	f, err := d.secure(p)
	if err != nil {
		p.Close()
		return nil, at(StepTLS, err)
	}
	them, err := us.connect(f, name, open)
	if err == nil && !p.stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		f.rw.(net.Conn).Close()
		return nil, at(StepHandshake, err)
	}
	p.left = math.MaxInt
	return newConn(f.rw.(net.Conn), us, them).start(), nil
}

// dialFirst connects to the first address that takes a connection. Each but the last has its
// share of the time that ctx has left.
func dialFirst(ctx context.Context, addrs []netip.AddrPort) (*peer, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no address")
	}
	var errs []error
	for i, addr := range addrs {
		p, err := dialWithin(ctx, addr, share(ctx, len(addrs)-i))
		if err == nil {
			return p, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// share returns one of n equal parts of the time that ctx has left. 0: ctx has no deadline.
func share(ctx context.Context, n int) time.Duration {
	deadline, limited := ctx.Deadline()
	if !limited {
		return 0
	}
	return max(time.Until(deadline)/time.Duration(n), 1)
}

// secure returns the frames of a handshake with p, over TLS if that is asked for.
func (d *Dialer) secure(p *peer) (frames, error) {
	if d.TLS == nil {
		return frames{p, plainLenSize}, nil
	}
	config := d.TLS.Clone()
	if config.NextProtos == nil {
		config.NextProtos = padding()
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(p.RemoteAddr().String())
	}
	c := tls.Client(p, config)
	if err := c.Handshake(); err != nil {
		_, err = tlsFailure(p, err)
		return frames{}, err
	}
	return frames{c, secureLenSize}, nil
}

// self is this side of a connection.
type self struct {
	name     string
	cookie   Cookie
	creation uint32
	Options
}

func newSelf(name string, cookie Cookie, o Options) (self, error) {
	if err := CheckName(name); err != nil {
		return self{}, err
	}
	creation := o.Creation
	if creation == 0 {
		creation = random() | 4 // the numbers up to 3 were those of OTP before 23
	}
	return self{name, cookie, creation, o.withDefaults()}, nil
}

// random returns a number that nobody can guess.
func random() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}

// them is the other side of a connection.
type them struct {
	name     string
	flags    Flags
	creation uint32
}

// connect goes through the handshake of the connecting side. It calls open before it sends its
// name, and ends if that fails.
func (s self) connect(f frames, want string, open func() error) (them, error) {
	if err := open(); err != nil {
		return them{}, err
	}
	if err := f.write(SendName{connected, s.creation, s.name}.Append(nil)); err != nil {
		return them{}, fmt.Errorf("send name: %w", err)
	}
	if err := readStatus(f); err != nil {
		return them{}, err
	}
	m, err := readChallenge(f)
	switch {
	case err != nil:
		return them{}, err
	case want != "" && m.Name != want:
		return them{}, &NameError{Want: want, Got: m.Name}
	case m.Flags.missing() != 0:
		return them{}, &FlagsError{m.Flags.missing()}
	}
	return them{m.Name, m.Flags, m.Creation}, at(StepCookie, s.prove(f, m.Challenge))
}

// prove answers the challenge and has the peer answer one.
func (s self) prove(f frames, challenge uint32) error {
	ours := random()
	if err := f.write(ChallengeReply{ours, s.cookie.digest(challenge)}.Append(nil)); err != nil {
		return fmt.Errorf("send proof: %w", err)
	}
	b, err := f.read()
	if isClosed(err) { // all that a node has to say to a wrong one
		return fmt.Errorf("%w: connection closed by the node", ErrCookie)
	}
	if err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	ack, err := ParseChallengeAck(b)
	if err == nil && !s.convinced(ack.Digest, ours) {
		err = fmt.Errorf("%w: the node's own proof is wrong", ErrCookie)
	}
	return err
}

func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// convinced reports whether d answers challenge.
func (s self) convinced(d Digest, challenge uint32) bool {
	want := s.cookie.digest(challenge)
	return subtle.ConstantTimeCompare(d[:], want[:]) == 1
}
