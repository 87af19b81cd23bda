package dbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
)

// The bus's own names.
const (
	busName       = "org.freedesktop.DBus"
	errorPrefix   = "org.freedesktop.DBus.Error."
	accessDenied  = errorPrefix + "AccessDenied"
	signalsAtOnce = 64                     // sent before the bus has shown that it has read them
	signalPause   = 10 * time.Millisecond  // between two times that signals are sent
	pauseForEach  = 500 * time.Microsecond // more, for each signal sent
	askedAtOnce   = 16                     // senders whose user the bus is asked for
)

// errBusGone is why a session ends when its bus ends.
var errBusGone = errors.New("the bus has gone")

// session is one connection to the bus, from making it to losing it. One goroutine sends everything
// on it, so replies and signals are in order. The one that receives sends only errors of its own.
// The library writes a message at once. Signals are written by tellAll, many at once.
//
// A session sends a change at once, and the next ones after a pause, all in one write. Each signal
// makes that pause longer, so that many take few writes and wake-ups from those who ask epmd. A
// session sends at most signalsAtOnce signals before the bus has answered a ping. In the meantime
// objects joins what changes. A bus that does not read blocks this goroutine and nobody else.
type session struct {
	*Service
	ctx     context.Context
	raw     io.Writer // the connection itself
	conn    *dbus.Conn
	serials *serials
	inbox   *turns          // calls, and signals about the name
	replies chan *dbus.Call // of our own calls
	users   chan *dbus.Call // the same, of those that ask whose a sender is
	asking  int             // how many of these the bus has yet to answer

	changes *registry.Subscription
	objects *objects
	lan     registry.LANState
	status  status // as the bus was told
	owner   bool

	signals []byte // that are to be written
	header  []byte // room for that of a signal
	body    []byte // room for that of a signal

	unread int         // signals sent since the bus was last known to have read all
	pinged bool        // and it is asked whether it has
	resume time.Time   // when signals may be sent again
	timer  *time.Timer // yields at that time if there are any
}

// session connects to the bus and serves until something breaks or ctx ends.
func (s *Service) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var raw net.Conn
	dial := func() (err error) { raw, err = s.opts.Bus.Dial(ctx); return err }
	if err := s.opts.Bus.Await(ctx, dial, s.off); err != nil {
		return err
	}
	// The library's own Close waits for a write that the bus does not take.
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	c := &session{
		Service: s,
		ctx:     ctx,
		raw:     raw,
		serials: &serials{},
		inbox:   newTurns(),
		replies: make(chan *dbus.Call, 2),
		users:   make(chan *dbus.Call, askedAtOnce),
		objects: newObjects(s.opts.Port),
		timer:   time.NewTimer(0),
	}
	defer c.timer.Stop()
	if err := c.greet(raw); err != nil {
		return err
	}
	defer c.conn.Close()
	return c.serve()
}

// greet makes a connection of the library's from one to the bus.
func (s *session) greet(raw net.Conn) (err error) {
	s.conn, err = dbus.NewConn(raw, dbus.WithContext(s.ctx), dbus.WithIncomingInterceptor(s.receive),
		dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()), dbus.WithSerialGenerator(s.serials))
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	if err := s.conn.Auth(nil); err != nil {
		return fmt.Errorf("bus: authenticate: %w", err)
	}
	if err := s.conn.Hello(); err != nil {
		return fmt.Errorf("bus: say hello: %w", err)
	}
	return nil
}

// receive gets each message that comes in. It withholds method calls from the library, which would
// answer each in a goroutine of its own, in no order.
func (s *session) receive(msg *dbus.Message) {
	switch {
	case msg.Type == dbus.TypeMethodCall:
		call := *msg
		msg.Type = 0 // of which the library takes no notice
		s.receiveCall(&call)
	case msg.Type == dbus.TypeSignal && bus.Header[string](msg, dbus.FieldSender) == busName:
		s.inbox.put(msg)
	}
}

// receiveCall has a call wait for its turn. It refuses a call at once if there is no room. It
// ignores calls that expect no reply: they would change nothing.
func (s *session) receiveCall(call *dbus.Message) {
	if call.Flags&dbus.FlagNoReplyExpected != 0 {
		return
	}
	if callText(call) > maxCallText {
		s.reply(call, nil, refusal("LimitsExceeded", "the arguments have more than %d bytes", maxCallText))
		return
	}
	if refused := s.inbox.put(call); refused != nil {
		s.reply(refused, nil, refusal("LimitsExceeded", "%d calls wait for an answer", maxWaiting))
	}
}

// serve takes the name once all objects are there. Then it answers calls and sends signals.
func (s *session) serve() error {
	s.changes = s.reg.Subscribe().Lasting()
	defer s.changes.Close()
	s.take()
	s.tellNobody()
	s.ask("RequestName", Name, uint32(0)) // 0: wait in line for it, and never give way
	for {
		if err := s.await(); err != nil {
			return err
		}
		s.askUsers()
		if err := s.tell(time.Now()); err != nil {
			return err
		}
	}
}

// ask calls a method of the bus. The reply comes by s.replies.
func (s *session) ask(method string, args ...any) {
	s.conn.BusObject().GoWithContext(s.ctx, busName+"."+method, 0, s.replies, args...)
}

// askUsers asks the bus whose the senders are of which that is not known.
func (s *session) askUsers() {
	for s.asking < askedAtOnce {
		sender := s.inbox.stranger()
		if sender == "" {
			return
		}
		s.asking++
		s.conn.BusObject().GoWithContext(s.ctx, busName+".GetConnectionUnixUser", 0, s.users, sender)
	}
}

// toldUser enters whose a sender is. The bus does not tell of one that has gone.
func (s *session) toldUser(call *dbus.Call) {
	s.asking--
	var uid uint32
	if err := call.Store(&uid); err == nil {
		s.inbox.learn(call.Args[0].(string), user(uid))
	}
}

// await waits for the next event and deals with it. While no signals may be sent, changes add up.
func (s *session) await() error {
	changed := s.changes.Ready()
	if s.owner && time.Now().Before(s.resume) {
		changed = nil // the timer is set
	}
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.conn.Context().Done():
		return errBusGone
	case <-s.inbox.ready:
		s.handle(s.inbox.next())
	case reply := <-s.replies:
		return s.replied(reply)
	case told := <-s.users:
		s.toldUser(told)
	case <-changed:
		s.take()
	case <-s.timer.C:
	}
	return nil
}

// take takes in what the registry has to tell.
func (s *session) take() {
	b := s.changes.Take()
	if b.Anew {
		s.objects.sync(b.Nodes)
	}
	for _, ev := range b.Events {
		s.objects.apply(ev)
	}
	if b.LAN != nil {
		s.lan = *b.LAN
	}
}

// handle deals with a method call or a signal of the bus. msg is nil if it has given way.
func (s *session) handle(msg *dbus.Message) {
	switch {
	case msg == nil:
		return
	case msg.Type == dbus.TypeMethodCall:
		body, err := s.dispatch(msg)
		s.reply(msg, body, err)
		return
	}
	var name string
	if err := dbus.Store(msg.Body, &name); err != nil || name != Name {
		return
	}
	switch bus.Header[string](msg, dbus.FieldMember) {
	case "NameAcquired":
		s.owner = true
		s.isOn()
	case "NameLost":
		s.owner = false
		s.off(errTaken)
	}
}

// errTaken is why there is no service though the bus allows the name.
var errTaken = errors.New("another program has the name; see busctl status " + Name)

// replied deals with the reply to ask.
func (s *session) replied(call *dbus.Call) error {
	if call.Method == busName+".Peer.Ping" { // refused or not: what was before is read
		s.unread, s.pinged = 0, false
		return nil
	}
	var result uint32
	err := call.Store(&result)
	var refused dbus.Error
	switch {
	case errors.As(err, &refused) && refused.Name == accessDenied:
		return errDenied
	case err != nil:
		return fmt.Errorf("request name: %w", err)
	case dbus.RequestNameReply(result) == dbus.RequestNameReplyInQueue:
		s.log.Info("D-Bus service waits for its name", "reason", errTaken)
	}
	return nil
}

// tell sends what has changed, as much of it as may be sent now.
func (s *session) tell(now time.Time) error {
	switch {
	case !s.owner:
		s.tellNobody()
		return nil
	case s.pinged:
		return nil
	case now.Before(s.resume):
		s.timer.Reset(s.resume.Sub(now))
		return nil
	}
	sent := s.unread
	if err := s.tellAll(); err != nil {
		return err
	}
	if s.unread > sent {
		pause := signalPause + time.Duration(s.unread-sent)*pauseForEach
		s.resume = now.Add(pause)
		s.timer.Reset(pause) // for what is left
	}
	if s.unread >= signalsAtOnce {
		s.pinged = true
		s.ask("Peer.Ping")
	}
	return nil
}

// tellAll sends a signal for each change, up to the limit.
func (s *session) tellAll() error {
	for s.unread < signalsAtOnce {
		c, more := s.objects.tell()
		if !more {
			break
		}
		s.tellChange(c)
	}
	was := s.status
	s.status = s.newStatus()
	signalChanges(s, Root, ifaceManager, managerProperties, was, s.status)
	if len(s.signals) == 0 {
		return nil
	}
	_, err := s.raw.Write(s.signals)
	s.signals = s.signals[:0]
	if err != nil {
		return fmt.Errorf("send signals: %w", err)
	}
	return nil
}

// tellNobody takes all changes as sent.
func (s *session) tellNobody() {
	for more := true; more; {
		_, more = s.objects.tell()
	}
	s.status = s.newStatus()
}

func (s *session) newStatus() status {
	return status{
		hostName:   s.reg.Host(),
		version:    s.opts.Version,
		allow:      s.opts.Allow,
		port:       s.opts.Port,
		lan:        s.lan.Off() == "",
		lanState:   s.lan.String(),
		localNodes: s.objects.counts[registry.Local],
		lanNodes:   s.objects.counts[registry.LAN],
		peerNodes:  s.objects.counts[registry.Peer],
	}
}

func (s *session) tellChange(c change) {
	switch {
	case c.was == nil:
		s.body = appendAdded(s.body[:0], c.path, c.now)
		s.signal(Root, ifaceObjectManager, "InterfacesAdded", addedSignature)
	case c.now == nil:
		s.body = appendRemoved(s.body[:0], c.path)
		s.signal(Root, ifaceObjectManager, "InterfacesRemoved", removedSignature)
	default:
		signalChanges(s, c.path, ifaceNode, nodeProperties, c.was, c.now)
	}
}

// signalChanges has PropertiesChanged sent if properties differ.
func signalChanges[T any](s *session, path dbus.ObjectPath, iface string, properties []property[T], was, is T) {
	if differ := changed(properties, was, is); len(differ) > 0 {
		s.body = appendChanged(s.body[:0], iface, differ, is)
		s.signal(path, ifaceProperties, "PropertiesChanged", changedSignature)
	}
}

// signal has a signal sent that has s.body.
func (s *session) signal(path dbus.ObjectPath, iface, member, signature string) {
	s.unread++
	s.header = appendHeader(s.header[:0], s.serials.GetSerial(), path, iface, member, signature, len(s.body))
	s.signals = append(append(s.signals, s.header...), s.body...)
}
