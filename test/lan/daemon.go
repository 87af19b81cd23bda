package lan

import (
	"context"
	"fmt"
	"sync"
)

// Daemon is a program that runs on a host for long. It can be stopped and started again there. A
// host has two, Bus and Avahi; [Host.NewDaemon] makes more.
type Daemon struct {
	host  *Host
	ready string // regular expression for what it writes when it is up
	argv  []string

	mu      sync.Mutex
	process *Process // the latest one, nil before the first Start
}

// NewDaemon returns a daemon, not started yet, that is up when its output matches the regular
// expression ready.
func (h *Host) NewDaemon(ready, name string, args ...string) *Daemon {
	return &Daemon{host: h, ready: ready, argv: append([]string{name}, args...)}
}

// Start starts the daemon and waits until it is up. ctx bounds the wait only: the daemon runs until
// it is stopped or the network closed.
func (d *Daemon) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running() {
		return fmt.Errorf("%s already runs on %s", d.argv[0], d.host.name)
	}
	p, err := d.host.Start(context.WithoutCancel(ctx), d.argv[0], d.argv[1:]...)
	if err != nil {
		return err
	}
	d.process = p
	_, err = p.WaitOutput(ctx, d.ready)
	return err
}

// Stop sends SIGTERM and waits until the daemon has ended. One that does not run is no error.
func (d *Daemon) Stop(ctx context.Context) error { return d.end(ctx, (*Process).Stop) }

// Kill is Stop with SIGKILL.
func (d *Daemon) Kill(ctx context.Context) error { return d.end(ctx, (*Process).Kill) }

func (d *Daemon) end(ctx context.Context, how func(*Process, context.Context) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running() {
		return nil
	}
	return how(d.process, ctx)
}

// Restart is Stop and Start.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.Stop(ctx); err != nil {
		return err
	}
	return d.Start(ctx)
}

// Process returns the daemon's latest process. It is an error if there was none.
func (d *Daemon) Process() (*Process, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return nil, fmt.Errorf("%s was never started on %s", d.argv[0], d.host.name)
	}
	return d.process, nil
}

// running is to be called with mu held.
func (d *Daemon) running() bool {
	if d.process == nil {
		return false
	}
	select {
	case <-d.process.done:
		return false
	default:
		return true
	}
}
