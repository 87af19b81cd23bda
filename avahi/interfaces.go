package avahi

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// linkWatch tells by rtnetlink when network interfaces come, go or change. A nil one never tells.
type linkWatch struct {
	f     *os.File
	event chan struct{} // holds one token after a change
	wg    sync.WaitGroup
}

// watchLinks begins to watch the network interfaces of this network namespace.
func watchLinks() (*linkWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	w := &linkWatch{f: os.NewFile(uintptr(fd), "rtnetlink"), event: make(chan struct{}, 1)}
	w.wg.Go(w.read)
	return w, nil
}

// read ends when the socket is closed. What the messages say doesn't matter, nor that some are lost:
// whoever is told looks at the interfaces.
func (w *linkWatch) read() {
	var buf [8192]byte
	for {
		if _, err := w.f.Read(buf[:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case w.event <- struct{}{}:
		default: // the token is there already
		}
	}
}

func (w *linkWatch) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.event
}

func (w *linkWatch) close() {
	if w != nil {
		w.f.Close()
		w.wg.Wait()
	}
}
