package avahi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/internal/bus"
)

// go-avahi lends types and constants alone. Its Server spins once the bus has gone. It sends
// what Avahi tells to unbuffered channels, and holds its lock meanwhile: a late reader stops
// all calls. It also calls whoever has the well-known name, and so may start avahi-daemon.

// Names of avahi-daemon on the bus.
const (
	busName      = "org.freedesktop.Avahi"
	ifaceServer  = "org.freedesktop.Avahi.Server"
	ifaceGroup   = "org.freedesktop.Avahi.EntryGroup"
	ifaceBrowser = "org.freedesktop.Avahi.ServiceBrowser"
	ifaceResolve = "org.freedesktop.Avahi.ServiceResolver"
	ifaceRecord  = "org.freedesktop.Avahi.RecordBrowser"
	errCollision = "org.freedesktop.Avahi.CollisionError"
	errObjects   = "org.freedesktop.Avahi.TooManyObjectsError"
	errClients   = "org.freedesktop.Avahi.TooManyClientsError"
	errForbidden = "org.freedesktop.Avahi.NotPermittedError"
	errTimeout   = "org.freedesktop.Avahi.TimeoutError"
	errDenied    = "org.freedesktop.DBus.Error.AccessDenied"

	serverPath = dbus.ObjectPath("/")

	dbusName     = "org.freedesktop.DBus"
	noSuchOwner  = "org.freedesktop.DBus.Error.NameHasNoOwner"
	ownerChanged = "NameOwnerChanged"
)

// maxInFlight is how many calls of one connection wait for their replies at once. dbus-daemon
// drops replies past 128 (max_replies_per_connection). What is in flight must fit into the
// socket's buffer, so that a bus that doesn't read blocks nobody.
const maxInFlight = 64

// maxObjects is how many browsers, resolvers and entry groups one connection has at most.
// avahi-daemon refuses more than 1,024 (objects-per-client-max).
const maxObjects = 1000

// maxClients is how many connections a session has at most. At two resolvers a neighbour they
// are enough for registry.MaxNeighbours. dbus-daemon allows a user 256.
const maxClients = 10

// maxSilence is how long avahi-daemon may take to answer any of the calls that wait. Where it
// asks the network, it gives up after 5 s.
const maxSilence = 8 * time.Second

// Reasons for which a session ends. Each is followed by a new one.
var (
	errBusGone   = errors.New("the system bus has gone")
	errBusSilent = errors.New("the system bus does not answer")
	errSilent    = errors.New("avahi-daemon does not answer")
	errAvahiGone = errors.New("avahi-daemon has gone")
	errHostName  = errors.New("avahi-daemon is establishing its host name")
	errNoLAN     = errors.New("no network interface leads to a LAN (-interface names others)")
)

// mailbox holds what a session has yet to deal with, in the order in which it came. Any
// goroutine may post; one takes. It grows without bound. avahi-daemon posts, whose memory is
// bounded, and the session's own timers.
type mailbox struct {
	mu    sync.Mutex
	items []func() error
	ready chan struct{} // holds one token while there may be items
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

func (m *mailbox) post(item func() error) {
	m.mu.Lock()
	m.items = append(m.items, item)
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default: // the token is there already
	}
}

// handle deals with all that is there, up to the first error.
func (m *mailbox) handle() error {
	m.mu.Lock()
	items := m.items
	m.items = nil
	m.mu.Unlock()
	for _, item := range items {
		if err := item(); err != nil {
			return err
		}
	}
	return nil
}

// alarm calls a function of a session when its time comes, in the session's goroutine. The zero
// alarm is not set.
type alarm struct{ timer *time.Timer }

// set sets the alarm anew.
func (a *alarm) set(mail *mailbox, d time.Duration, do func()) {
	a.stop()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		mail.post(func() error {
			if a.timer == t {
				a.timer = nil
				do()
			}
			return nil
		})
	})
	a.timer = t
}

func (a *alarm) isSet() bool { return a.timer != nil }

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// client is one connection to the bus. It calls avahi-daemon, and has each reply handled by a
// function. Calls go to the unique name that the daemon had when the session began. So a call
// that is meant for a daemon that has gone never reaches its successor, nor starts one.
//
// Replies and signals come through the session's mailbox, in the order in which they were
// received. The first signal of an object never overtakes the reply that names the object. The
// goroutine that handles the mailbox calls all methods.
type client struct {
	conn    *dbus.Conn
	owner   string                 // unique name of avahi-daemon
	sent    map[uint32]func(reply) // by serial number
	queue   []call                 // wait for their turn
	signal  func(*client, signal) error
	objects int  // in use at avahi-daemon
	limit   int  // of objects
	closed  bool // what arrives late doesn't matter

	progress time.Time   // an answer has come, or there was none to come
	silence  *time.Timer // to maxSilence after that; runs while there are answers to come
	heard    func(bool)  // told of each answer, and of silence
}

type call struct {
	path          dbus.ObjectPath
	iface, method string
	args          []any
	then          func(reply) // may be nil
}

// reply is the answer to a call.
type reply struct {
	body []any
	err  error // of type dbus.Error
}

// path returns the only value of the reply, an object path.
func (r reply) path() (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	if r.err != nil {
		return "", r.err
	}
	err := dbus.Store(r.body, &path)
	return path, err
}

// is reports whether the reply is the D-Bus error of that name.
func (r reply) is(name string) bool {
	var e dbus.Error
	return errors.As(r.err, &e) && e.Name == name
}

// signal is a signal of avahi-daemon or the bus.
type signal struct {
	sender        string
	path          dbus.ObjectPath
	iface, member string
	body          []any
}

// dial connects to the bus at address. What arrives is posted to mail. Signals go to onSignal.
// heard is told of each answer, and of none for maxSilence. The connection ends with ctx or by
// close.
func dial(ctx context.Context, address bus.Address, mail *mailbox, onSignal func(*client, signal) error, heard func(bool)) (*client, error) {
	c := &client{sent: make(map[uint32]func(reply)), signal: onSignal, limit: maxObjects, heard: heard}
	raw, err := address.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("system bus: %w", err)
	}
	conn, err := dbus.NewConn(raw, dbus.WithContext(ctx), dbus.WithIncomingInterceptor(func(msg *dbus.Message) {
		mail.post(func() error { return c.handle(msg) })
	}))
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("system bus: %w", err)
	}
	c.conn = conn
	if err := conn.Auth(nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("system bus: authenticate: %w", err)
	}
	if err := conn.Hello(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("system bus: say hello: %w", err)
	}
	context.AfterFunc(conn.Context(), func() { mail.post(c.gone) })
	c.silence = time.AfterFunc(maxSilence, func() { mail.post(c.checkSilence) })
	c.expect()
	return c, nil
}

// close ends the connection. avahi-daemon then drops all that it holds for it.
func (c *client) close() {
	c.closed = true
	c.silence.Stop()
	c.conn.Close() // fails only where the socket has gone already
}

// gone deals with the end of the connection.
func (c *client) gone() error {
	if c.closed {
		return nil
	}
	return errBusGone
}

// expect begins to wait for the next answer, if one is to come.
func (c *client) expect() {
	c.progress = time.Now()
	if len(c.sent) == 0 {
		c.silence.Stop()
		return
	}
	c.silence.Reset(maxSilence)
}

// checkSilence deals with answers that don't come.
func (c *client) checkSilence() error {
	if !c.closed && len(c.sent) > 0 && time.Since(c.progress) >= maxSilence {
		c.heard(false)
	}
	return nil
}

// call calls a method of an object of avahi-daemon, after those called before. The reply goes
// to then, unless that is nil. A call whose connection breaks is never answered.
func (c *client) call(path dbus.ObjectPath, iface, method string, then func(reply), args ...any) {
	c.queue = append(c.queue, call{path, iface, method, args, then})
	c.pump()
}

// pump sends what may be sent.
func (c *client) pump() {
	for len(c.queue) > 0 && len(c.sent) < maxInFlight {
		next := c.queue[0]
		c.queue[0] = call{}
		c.queue = c.queue[1:]
		c.send(next)
	}
}

func (c *client) send(q call) {
	msg := &dbus.Message{
		Type:  dbus.TypeMethodCall,
		Flags: dbus.FlagNoAutoStart,
		Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:        dbus.MakeVariant(q.path),
			dbus.FieldDestination: dbus.MakeVariant(c.owner),
			dbus.FieldInterface:   dbus.MakeVariant(q.iface),
			dbus.FieldMember:      dbus.MakeVariant(q.method),
		},
		Body: q.args,
	}
	if len(q.args) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(q.args...))
	}
	c.conn.Send(msg, nil)
	c.sent[msg.Serial()] = q.then
	if len(c.sent) == 1 {
		c.expect()
	}
}

// handle deals with one message.
func (c *client) handle(msg *dbus.Message) error {
	if c.closed {
		return nil
	}
	switch msg.Type {
	case dbus.TypeMethodReply:
		c.answered(msg, nil)
	case dbus.TypeError:
		c.answered(msg, dbus.Error{Name: bus.Header[string](msg, dbus.FieldErrorName), Body: msg.Body})
	case dbus.TypeSignal:
		return c.signal(c, signal{
			sender: bus.Header[string](msg, dbus.FieldSender),
			path:   bus.Header[dbus.ObjectPath](msg, dbus.FieldPath),
			iface:  bus.Header[string](msg, dbus.FieldInterface),
			member: bus.Header[string](msg, dbus.FieldMember),
			body:   msg.Body,
		})
	}
	return nil
}

func (c *client) answered(msg *dbus.Message, err error) {
	serial := bus.Header[uint32](msg, dbus.FieldReplySerial)
	then, found := c.sent[serial]
	if !found {
		return // of a call that was waited for
	}
	delete(c.sent, serial)
	c.expect()
	c.heard(true)
	if then != nil {
		then(reply{msg.Body, err})
	}
	c.pump()
}
