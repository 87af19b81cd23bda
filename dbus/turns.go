package dbus

import (
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/goerlang/eclus/internal/bus"
)

// Limits of what waits to be handled.
const (
	maxWaiting  = 2048    // messages
	maxCallText = 8 << 10 // bytes of a call's arguments; the longest name has 4 KiB
	maxKnown    = 4096    // senders whose user is remembered
)

// user is whose a connection to the bus is: a UID, or one of these.
type user int64

const (
	unknownUser user = -1 // has yet to be asked for, or the bus does not tell
	theBus      user = -2 // the bus itself
)

// turns are messages from the bus that wait to be handled. Users take turns, one message each. So a
// flood from one of them delays others by one message, however many connections he has. Among the
// connections of one user, each has its turn in the same way. Senders of unknown users are one
// user's.
//
// Make one with newTurns. Its methods may be called concurrently and don't block.
type turns struct {
	ready chan struct{} // has an element while messages wait

	mu        sync.Mutex
	known     map[string]user // by sender
	strangers []string        // of known, whose user is yet to be asked for; the first one leads
	waiting   map[user]*queue // none is empty
	users     []user          // of waiting, the one whose turn is next first
	count     int             // of messages
}

func newTurns() *turns {
	return &turns{ready: make(chan struct{}, 1), known: make(map[string]user), waiting: make(map[user]*queue)}
}

// put adds a message. If too many wait, one of the user that has most gives way. put returns a
// message that is not going to be handled, or nil.
func (t *turns) put(msg *dbus.Message) (refused *dbus.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sender := bus.Header[string](msg, dbus.FieldSender)
	of := t.userOf(sender)
	if t.count >= maxWaiting && of != theBus {
		if refused = t.giveWay(of, sender); refused == nil {
			return msg
		}
	}
	t.add(of, sender, msg)
	t.wake()
	return refused
}

// userOf returns the user of a sender. A sender that was never seen becomes a stranger.
func (t *turns) userOf(sender string) user {
	if sender == busName {
		return theBus
	}
	of, is := t.known[sender]
	if is {
		return of
	}
	if len(t.known) >= maxKnown {
		t.forget()
	}
	t.known[sender] = unknownUser
	t.strangers = append(t.strangers, sender)
	return unknownUser
}

// forget forgets the senders that have nothing waiting.
func (t *turns) forget() {
	for sender, of := range t.known {
		if q := t.waiting[of]; q == nil || q.of[sender] == nil {
			delete(t.known, sender)
		}
	}
	t.strangers = slices.DeleteFunc(t.strangers, func(sender string) bool { _, is := t.known[sender]; return !is })
}

// stranger returns a sender whose user is to be asked for, or "" if there is none. It returns each
// once.
func (t *turns) stranger() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.strangers) == 0 {
		return ""
	}
	sender := t.strangers[0]
	t.strangers = t.strangers[1:]
	return sender
}

// learn enters whose a sender is that was a stranger. What waits from there is that user's now.
func (t *turns) learn(sender string, of user) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, is := t.known[sender]
	if !is || was == of {
		return
	}
	t.known[sender] = of
	q := t.waiting[was]
	if q == nil || q.of[sender] == nil {
		return
	}
	for _, msg := range q.remove(sender) {
		t.count--
		t.add(of, sender, msg)
	}
	if q.count == 0 {
		delete(t.waiting, was)
		t.users = slices.DeleteFunc(t.users, func(u user) bool { return u == was })
	}
}

// add adds a message at the end of those of its sender.
func (t *turns) add(of user, sender string, msg *dbus.Message) {
	q := t.waiting[of]
	if q == nil {
		q = &queue{of: make(map[string][]*dbus.Message)}
		t.waiting[of] = q
		t.users = append(t.users, of)
	}
	q.add(sender, msg)
	t.count++
}

// giveWay takes out a message of the user that has most: the newest of the one of his senders that
// has most. It returns nil if that message has more right to its place than one of sender.
func (t *turns) giveWay(of user, sender string) *dbus.Message {
	most := of
	for other, q := range t.waiting {
		if other != theBus && q.count > t.waiting[most].size() {
			most = other
		}
	}
	q := t.waiting[most]
	greedy, his := q.greediest()
	switch {
	case most != of && q.count-1 > t.waiting[of].size():
	case most == of && his-1 > len(q.of[sender]):
	default:
		return nil
	}
	t.count--
	return q.removeNewest(greedy)
}

// next takes the message whose turn it is, or nil if none waits.
func (t *turns) next() *dbus.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == 0 {
		return nil
	}
	of := t.users[0]
	t.users = t.users[1:]
	q := t.waiting[of]
	msg := q.next()
	if q.count > 0 {
		t.users = append(t.users, of)
	} else {
		delete(t.waiting, of)
	}
	t.count--
	if t.count > 0 {
		t.wake()
	}
	return msg
}

// wake has ready tell that messages wait.
func (t *turns) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// queue is the messages of one user. Its senders take turns.
type queue struct {
	of      map[string][]*dbus.Message // by sender, the oldest first; none is empty
	senders []string                   // of these, the one whose turn is next first
	count   int                        // of messages
}

// size returns how many messages there are. q may be nil.
func (q *queue) size() int {
	if q == nil {
		return 0
	}
	return q.count
}

func (q *queue) add(sender string, msg *dbus.Message) {
	if q.of[sender] == nil {
		q.senders = append(q.senders, sender)
	}
	q.of[sender] = append(q.of[sender], msg)
	q.count++
}

// next takes the message whose turn it is.
func (q *queue) next() *dbus.Message {
	sender := q.senders[0]
	q.senders = q.senders[1:]
	list := q.of[sender]
	if len(list) > 1 {
		q.of[sender] = list[1:]
		q.senders = append(q.senders, sender)
	} else {
		delete(q.of, sender)
	}
	q.count--
	return list[0]
}

// remove takes out all messages of a sender.
func (q *queue) remove(sender string) []*dbus.Message {
	list := q.of[sender]
	delete(q.of, sender)
	q.senders = slices.DeleteFunc(q.senders, func(s string) bool { return s == sender })
	q.count -= len(list)
	return list
}

// greediest returns the sender that has most, and how much. q may be nil.
func (q *queue) greediest() (sender string, his int) {
	if q == nil {
		return "", 0
	}
	for s, list := range q.of {
		if len(list) > his {
			sender, his = s, len(list)
		}
	}
	return sender, his
}

// removeNewest takes out the newest message of a sender.
func (q *queue) removeNewest(sender string) *dbus.Message {
	list := q.of[sender]
	last := len(list) - 1
	if last == 0 {
		return q.remove(sender)[0]
	}
	q.of[sender] = list[:last]
	q.count--
	return list[last]
}

// callText returns how many bytes the strings of a call's arguments take.
func callText(msg *dbus.Message) int {
	size := 0
	for _, arg := range msg.Body {
		switch arg := arg.(type) {
		case string:
			size += len(arg)
		case dbus.ObjectPath:
			size += len(arg)
		}
	}
	return size
}
