package netif

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// macsMaxAge is how old what MACs know may get. Talking to somebody makes him known to the
	// kernel.
	macsMaxAge = time.Second
	// macsGather is the least time between two readings. One is for all who have asked by then.
	macsGather = 10 * time.Millisecond
)

// MACs know at which MAC address other hosts of a link answer. That is what the kernel knows of
// whom it has talked to (ip-neighbour(8)). Make them with NewMACs. Methods may be called
// concurrently.
type MACs struct {
	last   atomic.Pointer[macTable]
	wanted chan struct{} // holds a token when the table is to be read anew
	turn   chan struct{} // holds a token while somebody reads it
}

type macTable struct {
	macs map[netip.Addr]string // by address without a zone; empty: there are several
	read time.Time             // when that began
}

// NewMACs returns MACs that know nothing yet.
func NewMACs() *MACs {
	m := &MACs{wanted: make(chan struct{}, 1), turn: make(chan struct{}, 1)}
	m.last.Store(new(macTable))
	return m
}

// Of returns the MAC address at which an address answers. If that is not known, or not the same on
// all links, Of returns the address itself. So it says whose address that is, as far as the kernel
// knows. Of does not block, and says what was read last. If that is a second ago, it has Run read
// it anew.
func (m *MACs) Of(addr netip.Addr) string {
	last := m.last.Load()
	if time.Since(last.read) > macsMaxAge {
		select {
		case m.wanted <- struct{}{}:
		default:
		}
	}
	return last.of(addr)
}

func (t *macTable) of(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	return cmp.Or(t.macs[addr], addr.String())
}

// Now is Of for who has just talked to an address. If that is on a link of this host, and its MAC
// address is not known, Now asks the kernel. That takes a few milliseconds with 1,000 neighbours,
// and 10 ms more if others have just asked. Nobody beyond a router has a MAC address.
func (m *MACs) Now(addr netip.Addr, onLink bool) string {
	if onLink && m.last.Load().macs[addr.Unmap().WithZone("")] == "" {
		m.refresh(time.Now())
	}
	return m.Of(addr)
}

// Run reads the table when it is wanted, at most once a second. It returns nil when ctx ends.
func (m *MACs) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wanted:
			m.refresh(time.Now().Add(-macsMaxAge))
		}
	}
}

// refresh reads the table unless another has begun to do so since then. If it can't be read, what
// was known counts.
func (m *MACs) refresh(since time.Time) {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	last := m.last.Load()
	if last.read.After(since) {
		return
	}
	time.Sleep(time.Until(last.read.Add(macsGather)))
	now := time.Now()
	macs, err := readMACs()
	if err != nil {
		macs = last.macs
	}
	m.last.Store(&macTable{macs, now})
}

// readMACs asks the kernel for its neighbours.
func readMACs() (map[netip.Addr]string, error) {
	messages, err := dump(unix.RTM_GETNEIGH, unix.SizeofNdMsg)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	macs := make(map[netip.Addr]string)
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWNEIGH {
			continue
		}
		addr, mac := parseNeighbour(m)
		if !addr.IsValid() || mac == "" {
			continue
		}
		if other, known := macs[addr]; known && other != mac {
			mac = ""
		}
		macs[addr] = mac
	}
	return macs, nil
}

// parseNeighbour reads an ndmsg and its attributes. An address without an answer has no MAC
// address.
//
//	family  pad  index  state  flags  type
//	   1     3     4      2      1     1    bytes
func parseNeighbour(m netlink.Message) (addr netip.Addr, mac string) {
	const answers = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
	if len(m.Data) < unix.SizeofNdMsg || binary.NativeEndian.Uint16(m.Data[8:])&answers == 0 {
		return addr, ""
	}
	for kind, value := range attributes(m.Data[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			mac = net.HardwareAddr(value).String()
		}
	}
	return addr, mac
}
