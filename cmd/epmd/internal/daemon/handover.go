package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/goerlang/eclus/cmd/epmd/internal/orphans"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/systemd"
)

// awaitHangup ends serving with ErrHandOver after a SIGHUP. Before that, the program that is now
// where this one was started from has shown that it can go on. It returns when serving has ended.
// If reloading is set, the service manager still takes it to be at that. Meanwhile awaitHangup
// reaps the orphans of a PID 1.
func (s *service) awaitHangup(serving context.Context, end context.CancelCauseFunc, reloading bool) {
	for {
		if reloading {
			_ = s.manager.Notify(systemd.Ready) // if it does not hear that, it hears nothing
		}
		select {
		case <-serving.Done():
			return
		case <-s.orphans:
			orphans.Reap() // here, as Reap would take the end of what rehearse starts
			reloading = false
			continue
		case <-s.hangup:
		}
		_ = s.manager.Notify(systemd.Reloading())
		reloading = true
		err := s.rehearse(serving)
		if serving.Err() != nil {
			return
		}
		if err == nil {
			end(epmd.ErrHandOver)
			return
		}
		s.log.Error("program not replaced", "err", err)
	}
}

func (s *service) rehearse(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return systemd.Rehearse(ctx, program, s.args, s.reg)
}

// handOver replaces this program unless ctx has ended. It returns only if that fails.
func (s *service) handOver(ctx context.Context, listeners []*os.File) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	// What is ignored stays ignored. Otherwise another SIGHUP would kill a program that does not
	// handle it yet.
	signal.Ignore(syscall.SIGHUP)
	defer signal.Notify(s.hangup, syscall.SIGHUP)
	if err := ctx.Err(); err != nil {
		return err
	}
	return systemd.HandOver(program, s.args, s.reg, s.store, listeners)
}

// listenersOf makes listeners of sockets that listen.
func listenersOf(files []*os.File) ([]*net.TCPListener, error) {
	var lns []*net.TCPListener
	for _, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("listen on %s again: %w", f.Name(), err)
		}
		f.Close()
		lns = append(lns, l.(*net.TCPListener))
	}
	return lns, nil
}

// aliveCheck returns a function that looks a name up by each socket that listens. It passes over a
// socket whose address has left the host, or has yet to come (FreeBind=). Nobody can reach that.
func aliveCheck(lns []*net.TCPListener) func(context.Context) error {
	var places []netip.AddrPort
	for _, l := range lns {
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		switch {
		case addr.Addr() == netip.IPv6Unspecified():
			addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
		case addr.Addr().IsUnspecified():
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), addr.Port())
		}
		places = append(places, addr)
	}
	return func(ctx context.Context) error {
		prefixes, err := netif.Prefixes()
		if err != nil {
			return err
		}
		for _, at := range places {
			if !netif.Has(at.Addr(), prefixes) {
				continue
			}
			if _, err := epmd.NewClient(at).Lookup(ctx, "watchdog"); err != nil && !errors.Is(err, epmd.ErrNotRegistered) {
				return err
			}
		}
		return nil
	}
}
