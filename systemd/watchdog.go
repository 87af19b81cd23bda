package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Watchdog tells the service manager that this process is well for as long as alive says so, if it wants to
// know (WatchdogSec=), until ctx ends. It asks twice as often as it has to, and gives alive no longer than that; what
// alive has to say otherwise is handed to complain, and the service manager is left to act.
func Watchdog(ctx context.Context, alive func(context.Context) error, complain func(error)) error {
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
		} else if err := Notify(daemon.SdNotifyWatchdog); err != nil {
			return err
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

// Reloading returns the assignments for Notify that tell of a reload, which Ready ends.
func Reloading() string {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails for clocks that are not there
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}
