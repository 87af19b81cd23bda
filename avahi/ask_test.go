package avahi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

// testBrowsing returns a browsing without Avahi, which asks epmds by names.
func testBrowsing(ctx context.Context, log *slog.Logger, names func(context.Context, netip.AddrPort) ([]NamedPort, error)) *browsing {
	k := testNeighbours("hostb.local")
	return &browsing{
		link:    NewBrowser(k.reg, Options{Names: names}, log).link,
		session: &session{mail: newMailbox()}, known: k, ctx: ctx,
		items: make(map[place]*item), announcers: make(map[epmdKey]int),
	}
}

// handle deals with what comes in now: what timers ask for, then the answers.
func (b *browsing) handle(t *testing.T) {
	t.Helper()
	for range 2 {
		synctest.Wait()
		if err := b.session.mail.handle(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAskLimit has more epmds than are asked: those that are go on being asked, and leave their places to others.
func TestAskLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var silent atomic.Uint32 // port of an epmd that doesn't answer
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		b := testBrowsing(ctx, slog.New(slog.NewTextHandler(&log, nil)), func(_ context.Context, addr netip.AddrPort) ([]NamedPort, error) {
			asked.Add(1)
			if uint32(addr.Port()) == silent.Load() {
				return nil, errors.New("no answer")
			}
			return []NamedPort{{Name: "n", Port: 4711}}, nil
		})
		defer b.end(cancel)
		var items []*item
		for i := range maxAsked + 1 {
			it := &item{place: place{2, 0, fmt.Sprint("epmd", i)}}
			items, b.items[it.place] = append(items, it), it
			b.learn(it, kindEpmd, registry.Node{Host: fmt.Sprintf("host%d.local", i), Port: uint16(5000 + i),
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Origin: registry.LAN})
		}
		b.handle(t)
		steps := []struct {
			name        string
			do          func()
			asked, told int
		}{
			{"one too many", func() {}, maxAsked, maxAsked},
			{"later", func() {}, maxAsked, maxAsked},
			{"one is silent", func() { silent.Store(5000) }, maxAsked, maxAsked},
			{"and again", func() {}, maxAsked, maxAsked - 1},
			{"it goes", func() { b.forget(items[0]) }, maxAsked, maxAsked},
			{"one announces its nodes", func() { b.announcerCame(epmdKey{"host1.local", 5001}) }, maxAsked - 1, maxAsked - 1},
			{"another of the host comes", func() { b.announcerCame(epmdKey{"host1.local", 4369}) }, maxAsked - 1, maxAsked - 1},
			{"and ceases to", func() { b.announcerWent(epmdKey{"host1.local", 5001}) }, maxAsked + 1, maxAsked},
		}
		for _, s := range steps {
			asked.Store(0)
			s.do()
			b.handle(t)
			time.Sleep(askEvery)
			b.handle(t)
			if got := int(asked.Load()); got != s.asked || b.known.count() != s.told {
				t.Errorf("%s: %d asked, %d told; want %d, %d", s.name, got, b.known.count(), s.asked, s.told)
			}
		}
		if said := strings.Count(log.String(), "too many epmds"); said != 1 {
			t.Errorf("said %d times:\n%s", said, &log)
		}
	})
}
