package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Watchdog tells the service manager that this process is well, until ctx ends. It does nothing
// unless the unit has WatchdogSec=. It calls alive twice as often as it has to, and gives alive
// half an interval.
//
// It hands an error of alive to complain, and tells the service manager nothing. So the service
// manager acts. systemd does so once its socket is empty. So while that is full, Watchdog waits for
// room all the time.
func (m *Manager) Watchdog(ctx context.Context, alive func(context.Context) error, complain func(error)) error {
	if m == nil {
		return nil
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog: %w", err)
	}
	if interval == 0 {
		return nil
	}
	for {
		if err := bounded(ctx, interval/2, alive); ctx.Err() != nil {
			return nil
		} else if err != nil {
			complain(err)
		} else if err := m.notify(ctx, interval/2, daemon.SdNotifyWatchdog); errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		} else if err != nil {
			complain(err)
		}
		if !pause(ctx, interval/2) {
			return nil
		}
	}
}

func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

// Reloading returns the assignments for Notify that begin a reload. Ready ends the reload.
func Reloading() string {
	return daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec()
}
