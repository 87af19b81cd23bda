package netif

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watcher reports when network interfaces, their addresses, or default routes come, go or change.
// It runs one goroutine until Close. A nil Watcher never reports anything.
type Watcher struct {
	conn  *netlink.Conn
	event chan struct{} // holds one token after a change
	wg    sync.WaitGroup
}

// Watch begins to watch the network interfaces.
func Watch() (*Watcher, error) {
	conn, err := dialWatch()
	if err != nil {
		return nil, fmt.Errorf("watch network interfaces: %w", err)
	}
	return watch(conn, make(linkNews)), nil
}

// WatchRoutes begins to watch the default routes. The kernel says nothing of those of IPv4 that it
// drops with their interface; Watch reports that.
func WatchRoutes() (*Watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE})
	if err != nil {
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	return watch(conn, routeNews{}), nil
}

// news says which messages are worth a report.
type news interface {
	learn([]netlink.Message) bool // notes messages, and reports whether any says something new
	forget()                      // messages were lost
}

func watch(conn *netlink.Conn, n news) *Watcher {
	w := &Watcher{conn: conn, event: make(chan struct{}, 1)}
	w.wg.Go(func() { w.read(n) })
	return w
}

// dialWatch returns a socket that receives what the kernel says of interfaces from now on.
func dialWatch() (*netlink.Conn, error) {
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	return netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
}

// Changed returns a channel that yields after one or several changes.
func (w *Watcher) Changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.event
}

// Close ends the watch.
func (w *Watcher) Close() {
	if w != nil {
		w.conn.Close()
		w.wg.Wait()
	}
}

// read ends when the socket is closed.
func (w *Watcher) read(known news) {
	for {
		messages, err := w.conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // some of what happened is lost
			known.forget()
		case err != nil:
			return
		case !known.learn(messages):
			continue
		}
		select {
		case w.event <- struct{}{}:
		default: // the token is there already
		}
	}
}

// linkNews distinguishes news from repetition. The kernel reports each address again for every
// advertisement of a router, and a radio link for every change of its quality.
//
// The keys are interfaces, or interfaces and addresses. The values are what was last said of them.
type linkNews map[string]string

// learn notes what messages say, and reports whether any says something new. What learn first
// hears of an interface is new.
func (k linkNews) learn(messages []netlink.Message) (isNews bool) {
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

func (k linkNews) forget() { clear(k) }

// routeNews takes each message about a default route for news.
type routeNews struct{}

func (routeNews) learn(messages []netlink.Message) bool {
	return slices.ContainsFunc(messages, isDefaultRoute)
}

func (routeNews) forget() {}

// link notes a message about an interface (see parseInterface). Its index, flags, name and master
// count.
func (k linkNews) link(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC { // as a bridge's ports
		return false
	}
	index := string(m.Data[4:8])
	state := string(m.Data[8:12])
	for kind, value := range attributes(m.Data[unix.SizeofIfInfomsg:]) {
		if kind == unix.IFLA_IFNAME || kind == unix.IFLA_MASTER {
			state += string(value)
		}
	}
	if m.Header.Type == unix.RTM_DELLINK {
		maps.DeleteFunc(k, func(key, _ string) bool { return key[:4] == index })
		return true
	}
	return k.set(index, state)
}

// addr notes a message about an address (see parseAddress).
func (k linkNews) addr(m netlink.Message) bool {
	if len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	key := string(m.Data[4:8])
	for kind, value := range attributes(m.Data[unix.SizeofIfAddrmsg:]) {
		if kind == unix.IFA_ADDRESS || kind == unix.IFA_LOCAL {
			key += string(value)
		}
	}
	if m.Header.Type == unix.RTM_DELADDR {
		delete(k, key)
		return true
	}
	return k.set(key, string(m.Data[1:3]))
}

// set remembers a state, and reports whether it is another than before.
func (k linkNews) set(key, state string) bool {
	was, found := k[key]
	k[key] = state
	return !found || was != state
}
