package peers

import (
	"net/netip"
	"sync"
	"time"

	"github.com/goerlang/eclus/internal/netif"
)

// LinkFunc returns the name of the interface that owns a local address, and whether another address
// is on-link there. A loopback address never is. An unknown interface has no name.
type LinkFunc func(local, other netip.Addr) (link string, onLink bool)

// linksMaxAge is how long what the kernel has said is believed.
const linksMaxAge = time.Second

// links knows the addresses of interfaces.
type links struct {
	mu    sync.Mutex
	read  time.Time
	names map[int32]string
	addrs []netif.Address
}

// of is a LinkFunc.
func (l *links) of(local, other netip.Addr) (link string, onLink bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.read) > linksMaxAge {
		l.refresh()
	}
	bare := local.WithZone("")
	for _, a := range l.addrs {
		if a.Prefix.Addr() != bare || local.Zone() != "" && local.Zone() != l.names[a.Index] {
			continue
		}
		link = l.names[a.Index]
		for _, b := range l.addrs {
			if b.Index == a.Index && b.Prefix.Contains(other.WithZone("")) && !other.IsLoopback() {
				return link, true
			}
		}
	}
	return link, false
}

// refresh asks the kernel. If it can't say, no interface has any address.
func (l *links) refresh() {
	l.names, l.addrs, l.read = make(map[int32]string), nil, time.Now()
	found, err := netif.Interfaces()
	if err != nil {
		return
	}
	if l.addrs, err = netif.Addresses(); err != nil {
		return
	}
	for _, i := range found {
		l.names[i.Index] = i.Name
	}
}

// forget has the kernel asked anew.
func (l *links) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read = time.Time{}
}
