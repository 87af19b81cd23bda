package systemd

import (
	"context"
	"time"

	"github.com/goerlang/eclus/registry"
)

// statusPause is the least time between two statuses.
const statusPause = time.Second

// KeepStatus keeps the service manager told of what status returns, until ctx ends or the service manager does
// not want to know. It looks again when the registry has changed or changed yields, and not more often than once a second.
func KeepStatus(ctx context.Context, reg *registry.Registry, changed <-chan struct{}, status func() string) error {
	changes := reg.Subscribe()
	defer changes.Close()
	changes.Take()
	for said := ""; ; {
		if now := status(); now != said {
			if err := Notify(Status(now)); err != nil {
				return err
			}
			said = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes.Ready():
		case <-changed:
		}
		if !pause(ctx, statusPause) {
			return nil
		}
		changes.Take() // what it was matters as little as how many
	}
}

// pause waits and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
