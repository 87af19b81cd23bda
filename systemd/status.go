package systemd

import (
	"context"
	"time"

	"github.com/goerlang/eclus/registry"
)

// statusPause is the least time between two statuses.
const statusPause = time.Second

// KeepStatus keeps the service manager informed of what status returns, until ctx ends. It calls
// status when the registry has changed or changed yields, at most once a second. It returns an
// error if the service manager can't be told.
func (m *Manager) KeepStatus(ctx context.Context, reg *registry.Registry, changed <-chan struct{}, status func() string) error {
	if m == nil {
		return nil
	}
	changes := reg.Subscribe().Lasting()
	defer changes.Close()
	changes.Take()
	for said := ""; ; {
		if now := status(); now != said {
			if err := m.Notify(Status(now)); err != nil {
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

// pause waits for d, and reports whether ctx goes on.
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
