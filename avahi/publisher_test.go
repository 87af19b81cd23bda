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
		c := &client{limit: 1, objects: 1}
		e := &publishedInstance{link: p, node: &registry.Node{ID: 1, Name: "a"}, client: c}
		p.placed = 1
		p.drop(e)
		p.made(e, c, reply{err: dbus.Error{Name: name}})
		if p.placed != 0 || c.objects != 0 || c.limit != 1 || p.due.Len() != 0 {
			t.Errorf("%s: %d placed, %d objects of %d, %d wait; want 0, 0 of 1, 0", name, p.placed, c.objects, c.limit, p.due.Len())
		}
		if log.Len() > 0 {
			t.Errorf("%s: said %s", name, &log)
		}
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
			if next = p.publishDue(); p.due.Len() != want {
				t.Errorf("%d are due, want %d", p.due.Len(), want)
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
