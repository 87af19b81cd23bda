package avahi

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// LinkWatch tells by rtnetlink (rtnetlink(7)) when network interfaces or their addresses come, go or change. It runs
// one goroutine until Close. A nil one never tells.
type LinkWatch struct {
	f     *os.File
	event chan struct{} // holds one token after a change
	wg    sync.WaitGroup
}

// linkGroups are the multicast groups of rtnetlink that a LinkWatch joins.
const linkGroups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR

// WatchLinks begins to watch the network interfaces of the network namespace that the caller is in.
func WatchLinks() (*LinkWatch, error) {
	f, err := openLinks()
	if err != nil {
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	w := &LinkWatch{f: f, event: make(chan struct{}, 1)}
	w.wg.Go(w.read)
	return w, nil
}

// openLinks returns a socket that receives the messages of linkGroups from now on.
func openLinks() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: linkGroups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// Changed returns a channel that yields after one or several changes. Who is told looks at the interfaces.
func (w *LinkWatch) Changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.event
}

// Close ends the watch.
func (w *LinkWatch) Close() {
	if w != nil {
		w.f.Close()
		w.wg.Wait()
	}
}

// read ends when the socket is closed.
func (w *LinkWatch) read() {
	buf := make([]byte, 32<<10)
	var known linkNews
	for {
		n, err := w.f.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS): // some of what happened is lost
			clear(known)
		case err != nil:
			return
		case !known.learn(buf[:n]):
			continue
		}
		select {
		case w.event <- struct{}{}:
		default: // the token is there already
		}
	}
}

// linkNews tells news from repetition: a router's advertisements have the kernel tell of each address again and again, and
// a radio link tells of its quality. It holds by interface, or by interface and address, what was last told.
type linkNews map[string]string

// learn takes note of messages of rtnetlink, and tells whether any says something new. Of what was there before the first
// message nothing is known, so that what is told of it first counts as new.
func (k *linkNews) learn(b []byte) (isNews bool) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	if *k == nil {
		*k = make(linkNews)
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			isNews = k.link(m) || isNews
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			isNews = k.addr(m) || isNews
		}
	}
	return isNews
}

// link takes note of a message about an interface: an ifinfomsg, of which index and flags count, and attributes, of which
// the name and the interface it is a port of do.
//
//	family  pad  type  index  flags  change
//	   1     1    2      4      4      4     bytes, in the byte order of the host
func (k *linkNews) link(m syscall.NetlinkMessage) bool {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC { // a bridge tells of its ports besides
		return false
	}
	index := string(m.Data[4:8])
	state := string(m.Data[8:12])
	for _, a := range attributes(&m) {
		if a.Attr.Type == unix.IFLA_IFNAME || a.Attr.Type == unix.IFLA_MASTER {
			state += string(a.Value)
		}
	}
	if m.Header.Type == unix.RTM_DELLINK {
		maps.DeleteFunc(*k, func(key, _ string) bool { return key[:4] == index })
		return true
	}
	return k.set(index, state)
}

// addr takes note of a message about an address: an ifaddrmsg and attributes, of which the address counts.
//
//	family  prefix length  flags  scope  index
//	   1          1          1      1      4   bytes, in the byte order of the host
func (k *linkNews) addr(m syscall.NetlinkMessage) bool {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	key := string(m.Data[4:8])
	for _, a := range attributes(&m) {
		if a.Attr.Type == unix.IFA_ADDRESS || a.Attr.Type == unix.IFA_LOCAL {
			key += string(a.Value)
		}
	}
	if m.Header.Type == unix.RTM_DELADDR {
		delete(*k, key)
		return true
	}
	return k.set(key, string(m.Data[1:3]))
}

// set remembers a state, and tells whether it is another than before.
func (k *linkNews) set(key, state string) bool {
	was, found := (*k)[key]
	(*k)[key] = state
	return !found || was != state
}

// attributes returns the attributes of a message, none if they are not well formed.
func attributes(m *syscall.NetlinkMessage) []syscall.NetlinkRouteAttr {
	list, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return nil
	}
	return list
}
