package dbus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// from returns a message of a sender.
func from(sender string, args ...any) *dbus.Message {
	return &dbus.Message{
		Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldSender: dbus.MakeVariant(sender)},
		Body:    args,
	}
}

// name returns sender and first argument of a message.
func name(msg *dbus.Message) string {
	if msg == nil {
		return ""
	}
	return fmt.Sprint(msg.Headers[dbus.FieldSender].Value(), msg.Body[0])
}

// put adds messages that are called as name calls them. Their senders have one letter.
func put(t *testing.T, turns *turns, names string) {
	t.Helper()
	for n := range strings.FieldsSeq(names) {
		if refused := turns.put(from(n[:1], n[1:])); refused != nil {
			t.Errorf("%s is refused", name(refused))
		}
	}
}

// taken takes all messages, and returns what name calls them.
func taken(turns *turns) string {
	var got []string
	for {
		select {
		case <-turns.ready:
			got = append(got, name(turns.next()))
			continue
		default:
		}
		return strings.Join(got, " ")
	}
}

// left returns what is wrong with turns of which all messages were taken.
func left(turns *turns) string {
	if msg := turns.next(); msg != nil || len(turns.waiting)+len(turns.users)+turns.count != 0 {
		return fmt.Sprintf("%s, %v, %v, %d", name(msg), turns.waiting, turns.users, turns.count)
	}
	return ""
}

// TestTurns has users take turns, and senders of one user. Each sender keeps its order.
func TestTurns(t *testing.T) {
	for _, tt := range []struct{ name, users, put, want string }{
		{"senders of unknown users", "", "a1 a2 a3 b1 c1 b2", "a1 b1 c1 a2 b2 a3"},
		{"one user with many", "aaad", "a1 a2 b1 b2 c1 c2 d1 d2 d3", "a1 d1 b1 d2 c1 d3 a2 b2 c2"},
		{"unknown ones are one user", "d", "a1 a2 b1 b2 d1 d2", "a1 d1 b1 d2 a2 b2"},
	} {
		turns := newTurns()
		for i, of := range tt.users {
			sender := string(rune('a' + i))
			if len(tt.users) == 1 {
				sender = tt.users
			}
			turns.userOf(sender)
			turns.learn(sender, user(of))
		}
		put(t, turns, tt.put)
		if got := taken(turns); got != tt.want {
			t.Errorf("%s: handled %s; want %s", tt.name, got, tt.want)
		}
		if left := left(turns); left != "" {
			t.Errorf("%s: left are %s", tt.name, left)
		}
	}
}

// TestTurnsLearn has the bus tell whose senders are while messages of theirs wait.
func TestTurnsLearn(t *testing.T) {
	turns := newTurns()
	put(t, turns, "a1 a2 b1 b2 c1 c2")
	var strangers []string
	for s := turns.stranger(); s != ""; s = turns.stranger() {
		strangers = append(strangers, s)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(strangers, want) {
		t.Errorf("strangers are %v; want %v", strangers, want)
	}
	turns.learn("a", 1000)
	turns.learn("b", 1000)
	turns.learn("c", 1001)
	turns.learn("d", 1001) // which was never seen
	put(t, turns, "a3 c3")
	if got, want := taken(turns), "a1 c1 b1 c2 a2 c3 b2 a3"; got != want {
		t.Errorf("handled %s; want %s", got, want)
	}
	if left := left(turns) + turns.stranger(); left != "" || len(turns.known) != 3 {
		t.Errorf("left are %s; %d senders are known", left, len(turns.known))
	}
}

// TestTurnsForget has more senders than are remembered. Those with messages are.
func TestTurnsForget(t *testing.T) {
	turns := newTurns()
	put(t, turns, "a1")
	turns.learn("a", 1000)
	for i := range 3 * maxKnown {
		turns.put(from(fmt.Sprint(":", i), 1))
		if i >= 10 {
			turns.next()
		}
	}
	if n := len(turns.known); n > maxKnown {
		t.Errorf("%d senders are known", n)
	}
	if n := len(turns.strangers); n > maxKnown {
		t.Errorf("%d are to be asked for", n)
	}
	for of, q := range turns.waiting {
		for sender := range q.of {
			if turns.known[sender] != of {
				t.Errorf("%s has messages of %d and is one of %d", sender, of, turns.known[sender])
			}
		}
	}
}

// TestTurnsFull has one sender fill all places. Others still find room, and the bus always does.
func TestTurnsFull(t *testing.T) {
	turns := newTurns()
	for i := range maxWaiting {
		turns.put(from("a", i))
	}
	if refused := turns.put(from("a", maxWaiting)); name(refused) != fmt.Sprint("a", maxWaiting) {
		t.Errorf("a's %q gives way, not its newest", name(refused))
	}
	if refused := turns.put(from("b", 1)); name(refused) != fmt.Sprint("a", maxWaiting-1) {
		t.Errorf("%q gives way to b, not the newest of a", name(refused))
	}
	if refused := turns.put(from(busName, 1)); refused != nil {
		t.Errorf("%q gives way to the bus", name(refused))
	}
	for _, want := range []string{"a0", busName + "1", "b1", "a1"} {
		if got := name(turns.next()); got != want {
			t.Errorf("handled %s; want %s", got, want)
		}
	}
}

// TestTurnsFullOfOne has one user fill all places, with a call over each of many connections.
// Another user has room for as many.
func TestTurnsFullOfOne(t *testing.T) {
	turns := newTurns()
	for i := range maxWaiting {
		sender := fmt.Sprint(":", i)
		turns.put(from(sender, ""))
		turns.learn(sender, 1000)
	}
	turns.userOf("b")
	turns.learn("b", 1001)
	room := 0
	for !strings.HasPrefix(name(turns.put(from("b", room))), "b") {
		room++
	}
	if room != maxWaiting/2 {
		t.Errorf("there is room for %d calls of another user; want %d", room, maxWaiting/2)
	}
	if q := turns.waiting[1000]; q.count != maxWaiting/2 || len(q.of) != q.count || len(q.senders) != q.count {
		t.Errorf("the first user has %d calls of %d senders", q.count, len(q.of))
	}
}
