package avahi

import (
	"bytes"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"

	"github.com/godbus/dbus/v5"
)

// testPublishLink returns a publishLink with so many places, and no Avahi.
func testPublishLink(places int, log *slog.Logger) *publishLink {
	l := NewPublisher(registry.New("hosta", 0), Options{}, log).part
	l.maxObjects, l.maxClients = places, 0
	return newPublishLink(&publishSession{part: l, session: &session{part: l}}, 0)
}

// TestMadeGone has Avahi refuse a group for a node that has gone.
func TestMadeGone(t *testing.T) {
	for _, name := range []string{errObjects, "org.freedesktop.Avahi.AccessDeniedError"} {
		var log bytes.Buffer
		p := testPublishLink(1, slog.New(slog.NewTextHandler(&log, nil)))
		c := &client{limit: 1}
		e := &publishedInstance{link: p, node: &registry.Node{ID: 1, Name: "a"}}
		p.enter(e, c)
		p.drop(e)
		p.made(e, c, reply{err: dbus.Error{Name: name}})
		if p.placed.sum() != 0 || c.objects != 0 || c.limit != 1 || p.due.sum() != 0 {
			t.Errorf("%s: %d placed, %d objects of %d, %d wait; want 0, 0 of 1, 0", name, p.placed.sum(), c.objects, c.limit, p.due.sum())
		}
		if log.Len() > 0 {
			t.Errorf("%s: said %s", name, &log)
		}
	}
}

// TestShares has users wait for a place. Whoever has fewest is next, and whoever has most gives.
func TestShares(t *testing.T) {
	p := testPublishLink(0, slog.New(slog.DiscardHandler))
	c := &client{limit: 100}
	began := time.Now()
	id := uint64(0)
	of := func(uid uint32) *publishedInstance {
		id++
		e := &publishedInstance{link: p, node: &registry.Node{ID: id}, since: began.Add(time.Duration(id)), group: "made"}
		if uid > 0 {
			e.node.Holder = &registry.Holder{UID: uid}
		}
		return e
	}
	for uid, count := range []int{2, 3, 5, 5} { // the first are of a user who is not known
		for range count {
			p.enter(of(uint32(uid)), c)
		}
	}
	p.enter(&publishedInstance{link: p}, c)
	last := p.placed[2].Back().Value.(*publishedInstance)
	for uid, want := range map[user]*publishedInstance{hostItself: last, 1: last, 2: nil, 3: nil, 4: last} {
		if got := p.giver(uid); got != want {
			t.Errorf("user %d gets the place of %+v; want that of %+v", uid, got, want)
		}
	}
	last.group = "" // Avahi has yet to make it
	if got, want := p.giver(4), p.placed[2].Back().Prev().Value; got != want {
		t.Errorf("got %+v; want %+v, which Avahi has made", got, want)
	}
	if got := p.whose(); got != "user 2" {
		t.Errorf("%q has most; want user 2", got)
	}
	first, second, fewest := of(1), of(3), of(4)
	for _, tt := range []struct{ comes, next *publishedInstance }{{second, second}, {first, first}, {of(1), first}, {fewest, fewest}} {
		p.awaitPlace(tt.comes)
		if got := p.nextDue(); got != tt.next {
			t.Errorf("next is user %d's; want user %d's", got.user, tt.next.user)
		}
	}
	fewest.node = &registry.Node{Holder: &registry.Holder{UID: 3}} // whose it turns out to be
	if p.awaitPlace(fewest); fewest.user != 3 || p.due.len(4) != 0 || p.due.len(3) != 2 || p.due.sum() != 4 {
		t.Errorf("user %d has it, and %d wait; want user 3, and 4", fewest.user, p.due.sum())
	}
}

// TestSinceFuture has nodes behind one that, by the clock, is not registered yet. There are no
// places, so those whose time has come wait for one.
func TestSinceFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPublishLink(0, slog.New(slog.DiscardHandler))
		var next time.Time
		due := func(want int) {
			t.Helper()
			if next = p.publishDue(); p.due.sum() != want {
				t.Errorf("%d are due, want %d", p.due.sum(), want)
			}
		}
		now := time.Now()
		everywhere := []netip.Addr{netip.IPv4Unspecified()}
		p.addrs = []netip.Addr{netip.MustParseAddr("198.51.100.11")}
		up := func(id uint64, since time.Time, sure bool) {
			p.up(&registry.Node{ID: id, Name: "a", Since: since, Sure: sure, Origin: registry.Local, Listens: everywhere})
		}
		up(1, now.Add(-time.Hour).Round(0), true)
		due(1)
		up(2, now.Add(time.Hour).Round(0), true)
		up(3, now.Add(time.Hour).Round(0), false)
		up(4, now, true)
		due(1)
		time.Sleep(time.Until(next))
		due(3)
		time.Sleep(time.Until(next))
		due(4)
		if took := time.Since(now); took != patience {
			t.Errorf("all are due after %v, want %v", took, patience)
		}
	})
}

// TestTurns takes each turn as soon as it comes.
func TestTurns(t *testing.T) {
	var turns turns
	began := time.Now()
	now := began
	take := func(count int) time.Duration {
		for range count {
			if next := turns.next(); next.After(now) {
				now = next
			}
			turns.take(now)
		}
		return now.Sub(began)
	}
	if got := take(burst); got != 0 {
		t.Errorf("the first %d took %v, want nothing", burst, got)
	}
	if got := take(100); got != 100*pace {
		t.Errorf("100 more took %v, want %v", got, 100*pace)
	}
	now = now.Add(time.Hour)
	if got, want := take(burst+1), 100*pace+time.Hour+pace; got != want {
		t.Errorf("%d after an hour are done at %v, want %v", burst+1, got, want)
	}
}
