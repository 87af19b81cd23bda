package node

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
)

const maxGuests = 128 // handshakes of a Server

// errCrowded is why a handshake has ended that gave way to another.
var errCrowded = errors.New("too many handshakes are under way, and most of them with its neighbours or itself")

// guests are the handshakes under way. When there are too many, one gives way to the newcomer: of
// the subnet that has most, and there of the address that has most, the oldest. So whoever begins
// many and never says a word leaves room for others.
type guests struct {
	mu  sync.Mutex
	all []*guest // the oldest first
}

// guest is a handshake.
type guest struct {
	addr   netip.Addr
	subnet netip.Prefix
	giveUp func(error)
}

// enter adds a handshake with a peer. giveUp ends it. Call leave when it has ended.
func (g *guests) enter(peer net.Addr, giveUp func(error)) *guest {
	addr := addrOf(peer)
	newcomer := &guest{addr, subnetOf(addr), giveUp}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.all) == maxGuests {
		oldest := g.most()
		g.all[oldest].giveUp(errCrowded)
		g.all = slices.Delete(g.all, oldest, oldest+1)
	}
	g.all = append(g.all, newcomer)
	return newcomer
}

// most returns the index of the handshake that is to give way.
func (g *guests) most() int {
	subnets, addrs := map[netip.Prefix]int{}, map[netip.Addr]int{}
	for _, guest := range g.all {
		subnets[guest.subnet]++
		addrs[guest.addr]++
	}
	best := 0
	for i, guest := range g.all {
		than := g.all[best]
		more := subnets[guest.subnet] - subnets[than.subnet]
		if more > 0 || more == 0 && addrs[guest.addr] > addrs[than.addr] {
			best = i
		}
	}
	return best
}

func (g *guests) leave(one *guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = slices.DeleteFunc(g.all, func(other *guest) bool { return other == one })
}

// addrOf returns the zero Addr for what is no IP address.
func addrOf(a net.Addr) netip.Addr {
	if ip, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return ip.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// subnetOf returns the /24 of an IPv4 address, or the /64 of an IPv6 address: one host may well
// have all addresses of that.
func subnetOf(addr netip.Addr) netip.Prefix {
	bits := 24
	if addr.Is6() {
		bits = 64
	}
	subnet, _ := addr.Prefix(bits) // zero for the zero Addr
	return subnet
}
