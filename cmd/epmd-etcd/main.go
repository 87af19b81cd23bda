// Command epmd-etcd keeps this host in etcd, and tells epmd of the hosts that are there. It writes
// a nodes file, which epmd reads. Nodes never pass through etcd: epmds tell each other of them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/address"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/etcd"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/hostid"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/hosts"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/state"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/systemd"
)

const name = "epmd-etcd"

// version is set by the linker: -X main.version=1.2.3. The script version knows it.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// run does what the flags say. All of them are checked before anything is asked or written.
func run(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	c, err := parse(args, getenv)
	switch {
	case errors.Is(err, errHelp):
		_, err = io.WriteString(stdout, usage())
		return err
	case err != nil:
		return err
	case c.version:
		_, err = fmt.Fprintf(stdout, "%s (Eclus) %s %s\n", name, version, runtime.Version())
		return err
	}
	if err := c.files.Check(); err != nil {
		return err
	}
	host, err := hostid.Read(hostid.MachineID)
	if err != nil {
		return err
	}
	log, journal := openLog()
	if journal != nil {
		done := make(chan struct{})
		running, stop := context.WithCancel(context.Background())
		go func() {
			defer close(done)
			journal.Run(running)
		}()
		defer func() {
			stop()
			<-done
			journal.Close()
		}()
	}
	return serve(ctx, c, host, log, systemd.NewManager().Notify)
}

// serve keeps this host in etcd, and the nodes file, until ctx ends. It tells the service manager
// of both.
func serve(ctx context.Context, c config, host string, log *slog.Logger, notify func(...string) error) error {
	st := state.New(log)
	table, err := hosts.New(c.nodesFile, max(c.ttl, minGrace))
	if err != nil {
		log.Warn("what the nodes file had is not known", "err", err)
	}
	moved, stop := watchNetwork(log)
	defer stop()
	companion := etcd.New(etcd.Options{
		Endpoints: c.endpoints, Prefix: c.prefix, Host: host, TTL: c.ttl, Files: c.files,
		Own: c.own, Moved: moved, Table: table, State: st, Log: log,
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return companion.Run(ctx) })
	g.Go(func() error { return table.Run(ctx, st.SetWritten) })
	g.Go(func() error {
		return st.Run(ctx, func(text string) error { return notify(systemd.Ready, systemd.Status(text)) })
	})
	g.Go(func() error {
		<-ctx.Done()
		return notify(systemd.Stopping)
	})
	return g.Wait()
}

// openLog returns the log: the journal if standard error leads there, else text.
func openLog() (*slog.Logger, *systemd.Journal) {
	if !systemd.StderrIsJournal() {
		return slog.New(slog.NewTextHandler(os.Stderr, nil)), nil
	}
	journal := systemd.NewJournal(systemd.JournalSocket, name)
	return slog.New(journal.Handler(slog.LevelInfo)), journal
}

// watchNetwork returns a channel that yields when addresses or default routes have changed.
func watchNetwork(log *slog.Logger) (moved <-chan struct{}, stop func()) {
	links, err := netif.Watch()
	routes, failed := netif.WatchRoutes()
	if err := errors.Join(err, failed); err != nil {
		log.Warn("changes of addresses are not noticed at once", "err", err)
	}
	changed, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		for {
			select {
			case <-links.Changed():
			case <-routes.Changed():
			case <-done:
				return
			}
			select {
			case changed <- struct{}{}:
			default: // the token is there already
			}
		}
	}()
	return changed, func() {
		close(done)
		links.Close()
		routes.Close()
	}
}

// own returns where the epmd of this host is.
func (c config) own() (netip.AddrPort, error) {
	addr, err := address.Find(c.advertise)
	return netip.AddrPortFrom(addr, c.port), err
}
