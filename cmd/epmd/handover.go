package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"eclus/epmd"
	"eclus/systemd"
)

// awaitHangup ends serving with ErrHandOver when SIGHUP came and the program that is now where this one was
// started from has shown that it can go on. It returns when serving has ended.
func (s *service) awaitHangup(serving context.Context, end context.CancelCauseFunc) {
	for {
		select {
		case <-serving.Done():
			return
		case <-s.hangup:
		}
		_ = systemd.Notify(systemd.Reloading())
		err := s.rehearse(serving)
		if err == nil {
			end(epmd.ErrHandOver)
			return
		}
		s.log.Error("program not replaced", "err", err)
		_ = systemd.Notify(systemd.Ready)
	}
}

func (s *service) rehearse(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return systemd.Rehearse(ctx, program, s.args, s.reg)
}

// handOver replaces this program. It returns only if that fails.
func (s *service) handOver(listeners []*os.File) error {
	program, err := os.Executable()
	if err != nil {
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

// aliveCheck returns a function that looks a name up by each socket that listens, as anybody would.
func aliveCheck(lns []*net.TCPListener) func(context.Context) error {
	var clients []*epmd.Client
	for _, l := range lns {
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		switch {
		case addr.Addr() == netip.IPv6Unspecified():
			addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
		case addr.Addr().IsUnspecified():
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), addr.Port())
		}
		clients = append(clients, epmd.NewClient(addr))
	}
	return func(ctx context.Context) error {
		for _, c := range clients {
			if _, err := c.Lookup(ctx, "watchdog"); err != nil && !errors.Is(err, epmd.ErrNotRegistered) {
				return err
			}
		}
		return nil
	}
}
