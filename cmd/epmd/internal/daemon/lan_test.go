package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// TestLANNoBus runs LAN discovery on a host without a message bus. That is worth a line.
func TestLANNoBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	var log wait.Output
	reg := registry.New("test.local", registry.OldNames)
	lan := newLAN(Options{Publish: true, Browse: true, Version: "devel"}, reg, 4369, listenersAt(t, "0.0.0.0"), nil, slog.New(slog.NewTextHandler(&log, nil)))
	changes := reg.Subscribe()
	defer changes.Close()
	var running sync.WaitGroup
	running.Go(func() { lan.Run(t.Context()) })
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	for reg.LAN().Publishing.Off == "starting" || reg.LAN().Browsing.Off == "starting" {
		if _, err := changes.Next(ctx); err != nil {
			t.Fatalf("%v: %+v; log %s", err, reg.LAN(), &log)
		}
	}
	t.Cleanup(func() { // t's context has ended
		running.Wait()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "LAN discovery off") {
			t.Errorf("log:\n%s\nwant a line", got)
		}
	})
}

// listenersAt returns sockets that listen there, until the test ends.
func listenersAt(t *testing.T, list string) (lns []*net.TCPListener) {
	for _, addr := range addressesOf(list) {
		l, err := listen(t.Context(), netip.AddrPortFrom(addr, 0))
		wait.Must(t, err)
		t.Cleanup(func() { l.Close() })
		lns = append(lns, l)
	}
	return lns
}

// TestListensOn names both families for a socket that takes both.
func TestListensOn(t *testing.T) {
	both, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv6unspecified})
	need.Possible(t, err)
	defer both.Close()
	lns := append(listenersAt(t, "127.0.0.2 0.0.0.0 :: ::1"), both)
	if got, want := listensOn(lns), addressesOf("127.0.0.2 0.0.0.0 :: ::1 :: 0.0.0.0"); !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

// TestLANUnwanted has LAN discovery off, or half of it, and reads the registry.
func TestLANUnwanted(t *testing.T) {
	for _, tt := range []struct {
		options       Options
		listens, want string
	}{
		{Options{}, "0.0.0.0", "LAN discovery off: -lan off"},
		{Options{Publish: true}, "127.0.0.1", "LAN discovery off: epmd listens on loopback only"},
		{Options{Publish: true, Browse: true}, "127.0.0.1", "LAN discovery off: starting"},
		{Options{Browse: true}, "0.0.0.0", "LAN discovery off: starting"},
	} {
		reg := registry.New("test.local", registry.OldNames)
		newLAN(tt.options, reg, 4369, listenersAt(t, tt.listens), nil, slog.New(slog.DiscardHandler))
		if got := reg.LAN().String(); got != tt.want {
			t.Errorf("%+v: %q; want %q", tt.options, got, tt.want)
		}
	}
}
