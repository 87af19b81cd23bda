package daemon

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
)

// entries are the lines of a log.
type entries struct {
	mu   sync.Mutex
	text strings.Builder
}

func (e *entries) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.Write(b)
}

func (e *entries) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.String()
}

// TestLANNoBus runs LAN discovery on a host without a message bus, which is worth a line.
func TestLANNoBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	var log entries
	lan := newLAN(Options{Publish: true, Browse: true, Version: "devel"}, registry.New("test.local", registry.OldNames), 4369, false, slog.New(slog.NewTextHandler(&log, nil)))
	changed := lan.watch()
	var running sync.WaitGroup
	running.Go(func() { lan.run(t.Context()) })
	for lan.states()[0].Off == "starting" || lan.states()[1].Off == "starting" {
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("states %v; log %s", lan.states(), &log)
		}
	}
	t.Cleanup(func() { // t's context has ended
		running.Wait()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "LAN discovery off") {
			t.Errorf("log:\n%s\nwant a line", got)
		}
	})
}
