package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	defaultEPMDPort = 4369
	epmdTime        = 3 * time.Second // for each question at each address
	maxNames        = 64 << 10        // bytes of an epmd's list
	maxOthers       = 1000            // names of that list
)

// find asks the epmd of the host in name where the node listens. All addresses of the host are tried, IPv4
// first, as nodes use it unless they are told otherwise.
func (d *Dialer) find(ctx context.Context, name string) (netip.AddrPort, error) {
	if err := CheckName(name); err != nil {
		return netip.AddrPort{}, at(StepName, err)
	}
	alive, host, _ := strings.Cut(name, "@")
	addrs, err := d.resolve(ctx, host)
	if err != nil {
		return netip.AddrPort{}, at(StepResolve, err)
	}
	var errs []error
	for _, addr := range addrs {
		port, err := lookup(ctx, netip.AddrPortFrom(addr, d.epmdPort()), alive)
		if err == nil {
			return netip.AddrPortFrom(addr, port), nil
		}
		errs = append(errs, err)
	}
	return netip.AddrPort{}, mostTelling(errs)
}

// mostTelling returns the error of an epmd that answered, if one did, else all of them.
func mostTelling(errs []error) error {
	for _, err := range errs {
		if absent := (*NotRegisteredError)(nil); errors.As(err, &absent) {
			return at(StepLookup, err)
		}
	}
	return at(StepEPMD, errors.Join(errs...))
}

func (d *Dialer) epmdPort() uint16 {
	if d.EPMDPort == 0 {
		return defaultEPMDPort
	}
	return d.EPMDPort
}

func (d *Dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	resolve := d.Resolve
	if resolve == nil {
		resolve = resolveHost
	}
	addrs, err := resolve(ctx, host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("host %q has no address", host)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs, err
}

func resolveHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// lookup returns the distribution port of the node with an alive name.
func lookup(ctx context.Context, epmd netip.AddrPort, alive string) (uint16, error) {
	port, found, err := askPort(ctx, epmd, alive)
	if err != nil {
		return 0, fmt.Errorf("epmd at %v: %w", epmd, err)
	}
	if !found {
		return 0, &NotRegisteredError{alive, registered(ctx, epmd)}
	}
	return port, nil
}

// askPort sends PORT_PLEASE2_REQ and reads PORT2_RESP as far as anything here depends on it. Big-endian; a
// result other than 0 says that there is no such node, and ends the answer:
//
//	length  tag=122  name        tag=119  result  port
//	   2       1                    1        1      2   bytes
func askPort(ctx context.Context, epmd netip.AddrPort, alive string) (port uint16, found bool, err error) {
	const portPlease, portResp = 122, 119
	c, err := askEPMD(ctx, epmd, append([]byte{portPlease}, alive...))
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	var head, last [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, false, fmt.Errorf("read answer: %w", err)
	}
	switch {
	case head[0] != portResp:
		return 0, false, fmt.Errorf("answer with tag %d, want %d", head[0], portResp)
	case head[1] != 0:
		return 0, false, nil
	}
	if _, err := io.ReadFull(c, last[:]); err != nil {
		return 0, false, fmt.Errorf("read port: %w", err)
	}
	return binary.BigEndian.Uint16(last[:]), true, nil
}

// registered returns the names that an epmd knows, as far as it tells them.
func registered(ctx context.Context, epmd netip.AddrPort) []string {
	const namesReq, portLen = 'n', 4
	c, err := askEPMD(ctx, epmd, []byte{namesReq})
	if err != nil {
		return nil
	}
	defer c.Close()
	b, _ := io.ReadAll(io.LimitReader(c, maxNames))
	var names []string
	for line := range strings.Lines(string(b[min(portLen, len(b)):])) {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "name "), " at port ")
		if ok && len(names) < maxOthers {
			names = append(names, name)
		}
	}
	return names
}

// askEPMD sends a request, after its length. The connection ends with ctx, or when epmd is too slow.
func askEPMD(ctx context.Context, epmd netip.AddrPort, request []byte) (*peer, error) {
	deadline := time.Now().Add(epmdTime)
	connecting, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c, err := (&net.Dialer{KeepAlive: -1}).DialContext(connecting, "tcp", epmd.String())
	if err != nil {
		return nil, err
	}
	c.SetDeadline(deadline)
	p := &peer{Conn: c, stop: context.AfterFunc(ctx, func() { c.Close() }), left: maxFromPeer}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(request))), request...)); err != nil {
		p.Close()
		return nil, fmt.Errorf("send request: %w", err)
	}
	return p, nil
}
