package systemd

import (
	"context"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestWatchdogBusy finds no room in systemd's socket for longer than Notify waits. As soon as there
// is room, systemd is told that all is well.
func TestWatchdogBusy(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "2000")
	m := startManager(t)
	filled := m.fill()
	ctx, cancel := context.WithCancel(t.Context())
	asked, ended := make(chan struct{}), make(chan error)
	alive := func(context.Context) error {
		select {
		case asked <- struct{}{}:
		case <-ctx.Done():
		}
		return nil
	}
	go func() { ended <- NewManager().Watchdog(ctx, alive, func(err error) { t.Error(err) }) }()
	for range 3 {
		<-asked // it goes on, although nothing can be told
	}
	go func() {
		for {
			select {
			case <-asked:
			case <-ctx.Done():
				return
			}
		}
	}()
	m.empty(filled)
	m.want("WATCHDOG=1", -1)
	m.fill()
	cancel() // ends it, although nobody reads
	wait.Must(t, <-ended)
}

// TestWatchdogNobody finds nobody there. It complains, and goes on at its own pace.
func TestWatchdogNobody(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "2000")
	startManager(t).conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	complaints := 0
	alive := func(context.Context) error { return nil }
	wait.Must(t, NewManager().Watchdog(ctx, alive, func(error) {
		if complaints++; complaints == 3 {
			cancel()
		}
	}))
	if complaints != 3 {
		t.Errorf("complained %d times; want 3", complaints)
	}
}
