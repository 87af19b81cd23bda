package epmd

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/internal/netif"
)

// interfaces knows which interface has which addresses. It reads them when it is asked, at most
// once a second.
type interfaces struct {
	mu    sync.Mutex
	names map[int32]string
	addrs []netif.Address
	read  time.Time
}

// linkOf is the default of Config.LinkOf. If the kernel can't be asked, no interface has any
// address.
func (i *interfaces) linkOf(local netip.Addr) (link string, addrs []netip.Addr) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.read) > linksMaxAge {
		i.refresh()
		i.read = time.Now()
	}
	index, ok := i.owner(local)
	if !ok {
		return "", nil
	}
	for _, a := range i.addrs {
		if a.Index == index {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	return i.names[index], addrs
}

// forget has the next linkOf ask the kernel.
func (i *interfaces) forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.read = time.Time{}
}

func (i *interfaces) refresh() {
	i.names, i.addrs = make(map[int32]string), nil
	found, err := netif.Interfaces()
	if err != nil {
		return
	}
	if i.addrs, err = netif.Addresses(); err != nil {
		return
	}
	for _, f := range found {
		i.names[f.Index] = f.Name
	}
}

// owner returns the index of the interface that has an address. The loopback interface has all
// loopback addresses of IPv4.
func (i *interfaces) owner(local netip.Addr) (index int32, ok bool) {
	bare := local.WithZone("")
	for _, a := range i.addrs {
		has := a.Prefix.Addr() == bare || bare.IsLoopback() && a.Prefix.Contains(bare)
		if has && (local.Zone() == "" || local.Zone() == i.names[a.Index]) {
			return a.Index, true
		}
	}
	return 0, false
}

// sockaddr returns a socket address in Go's form. A link-local address gets its zone.
func sockaddr(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if addr.IsLinkLocalUnicast() && addr.Is6() {
			addr = addr.WithZone(zoneName(sa.ZoneId))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port)), err
	}
	return netip.AddrPort{}, err
}

// zoneName returns the name of an interface, or its index if it has gone.
func zoneName(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
