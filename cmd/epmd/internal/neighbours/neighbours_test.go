package neighbours

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

var testAddr = netip.MustParseAddr("192.0.2.1")

// at returns a place for the epmd of that number.
func at(i int) avahi.Place { return avahi.Place{Interface: 2, Label: fmt.Sprint("epmd", i)} }

// epmdOf returns the epmd of that number, on a host of its own.
func epmdOf(i int) avahi.EPMD {
	return avahi.EPMD{Host: fmt.Sprintf("host%d.local", i), Addrs: []netip.AddrPort{netip.AddrPortFrom(testAddr, uint16(5000+i))}}
}

// announced returns an epmd whose host announces its nodes itself.
func announced(e avahi.EPMD) avahi.EPMD {
	e.Announces = true
	return e
}

// TestAskLimit has more epmds than are asked. Those that are go on being asked. Later they
// leave their places to others.
func TestAskLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var silent atomic.Uint32 // port of an epmd that doesn't answer
		var log bytes.Buffer
		reg := registry.New("hostb.local", 0)
		a := New(Options{Registry: reg, Log: slog.New(slog.NewTextHandler(&log, nil)), OnLink: everywhere, Names: func(_ context.Context, addr netip.AddrPort) (epmd.Names, error) {
			asked.Add(1)
			if uint32(addr.Port()) == silent.Load() {
				return epmd.Names{}, errors.New("no answer")
			}
			return epmd.Names{Nodes: []epmd.NamedPort{{Name: "n", Port: 4711}}}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = a.Run(ctx) })
		synctest.Wait() // Run has begun: the first to be found get the places
		for i := range maxAsked + 1 {
			a.Found(at(i), epmdOf(i))
		}
		synctest.Wait()
		other := announced(epmdOf(1))
		other.Addrs = []netip.AddrPort{netip.AddrPortFrom(testAddr, 4369)}
		steps := []struct {
			name        string
			do          func()
			asked, told int
		}{
			{"one too many", func() {}, maxAsked, maxAsked},
			{"later", func() {}, maxAsked, maxAsked},
			{"one is silent", func() { silent.Store(5000) }, maxAsked, maxAsked},
			{"and again", func() {}, maxAsked, maxAsked - 1},
			{"it goes", func() { a.Gone(at(0)) }, maxAsked, maxAsked},
			{"one announces its nodes", func() { a.Found(at(100), announced(epmdOf(1))) }, maxAsked - 1, maxAsked - 1},
			{"another of the host comes", func() { a.Found(at(101), other) }, maxAsked - 1, maxAsked - 1},
			{"and ceases to", func() { a.Gone(at(100)) }, maxAsked + 1, maxAsked},
			{"an instance becomes that of another host", func() { a.Found(at(1), epmdOf(200)) }, maxAsked + 1, maxAsked},
		}
		for _, s := range steps {
			asked.Store(0)
			s.do()
			time.Sleep(askEvery)
			synctest.Wait()
			if _, got := reg.Counts(); int(asked.Load()) != s.asked || got != s.told {
				t.Errorf("%s: %d asked, %d told; want %d, %d", s.name, asked.Load(), got, s.asked, s.told)
			}
		}
		if said := strings.Count(log.String(), "too many epmds"); said != 1 {
			t.Errorf("said %d times:\n%s", said, &log)
		}
		cancel()
		running.Wait()
		if _, left := reg.Counts(); left != 0 {
			t.Errorf("%d nodes are left", left)
		}
	})
}

// TestConfigured asks epmds at configured addresses, however many are announced.
func TestConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		reg := registry.New("hostb.local", 0)
		a := New(Options{Registry: reg, Log: slog.New(slog.DiscardHandler), OnLink: everywhere, Names: func(context.Context, netip.AddrPort) (epmd.Names, error) {
			asked.Add(1)
			return epmd.Names{Nodes: []epmd.NamedPort{{Name: "n", Port: 4711}}}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = a.Run(ctx) })
		for i := range maxAsked {
			a.Configured(netip.AddrPortFrom(testAddr, uint16(6000+i)), true)
			a.Found(at(i), epmdOf(i))
		}
		synctest.Wait()
		peers := 0
		for _, n := range reg.Nodes() {
			if n.Origin == registry.Peer && n.Node == "n@192.0.2.1" && n.Via == registry.ViaEPMD {
				peers++
			}
		}
		if n := asked.Load(); n != 2*maxAsked || peers != maxAsked {
			t.Errorf("%d asked, %d nodes elsewhere; want %d, %d", n, peers, 2*maxAsked, maxAsked)
		}
		for i := range maxAsked {
			a.Configured(netip.AddrPortFrom(testAddr, uint16(6000+i)), false)
		}
		asked.Store(0)
		time.Sleep(askEvery)
		synctest.Wait()
		if _, n := reg.Counts(); n != maxAsked || asked.Load() != maxAsked {
			t.Errorf("%d asked, %d nodes after the configured ones have gone", asked.Load(), n)
		}
		cancel()
		running.Wait()
	})
}

func TestNodeOf(t *testing.T) {
	e := avahi.EPMD{Host: "hosta.local", Addrs: []netip.AddrPort{netip.AddrPortFrom(testAddr, 4369)}}
	n, err := nodeOf(e, epmd.NamedPort{Name: "a", Port: 9100})
	if err != nil || n.Node != "a@hosta.local" || n.Port != 9100 || n.Sure || n.Addresses[0] != testAddr {
		t.Errorf("got %+v, %v", n, err)
	}
	for _, p := range []epmd.NamedPort{{Name: "a@b", Port: 1}, {Name: "", Port: 1}, {Name: "a\n", Port: 1}, {Name: "a"},
		{Name: "q'", Port: 1}, {Name: "ü", Port: 1}, {Name: strings.Repeat("a", 250), Port: 1}} {
		if n, err := nodeOf(e, p); err == nil {
			t.Errorf("%+v makes %+v, want an error", p, n)
		}
	}
}

// everywhere has all addresses on a link.
func everywhere(netip.Addr) bool { return true }
