package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// tcpListen is the state of a socket that listens (TCP_LISTEN).
const tcpListen = 10

// diagV6Only is the type of the attribute that says whether an IPv6 socket takes no IPv4
// (INET_DIAG_SKV6ONLY), in a byte.
const diagV6Only = 11

// fewPorts is up to how many ports the kernel is asked for one after the other. For more, it is asked
// for all sockets that listen.
const fewPorts = 4

// FindListeners returns the addresses at which this network namespace listens for TCP connections at
// each of the ports, in ascending order; none where nobody listens. 0.0.0.0 and :: stand for all
// addresses of their family: a socket on :: that takes IPv4 too has both. It asks the kernel and
// waits for nobody else. An error means that the kernel can't be asked.
func FindListeners(ports []uint16) (map[uint16][]netip.Addr, error) {
	kernel, err := openSockDiag()
	if err != nil {
		return nil, err
	}
	defer kernel.close()
	found := make(map[uint16][]netip.Addr, len(ports))
	for _, p := range ports {
		found[p] = nil
	}
	questions := ports
	if len(ports) > fewPorts {
		questions = []uint16{0}
	}
	for _, port := range questions {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			if err := kernel.listeners(family, port, found); err != nil {
				return nil, fmt.Errorf("ask the kernel who listens: %w", err)
			}
		}
	}
	for p := range found {
		slices.SortFunc(found[p], netip.Addr.Compare)
		found[p] = slices.Compact(found[p])
	}
	return found, nil
}

// listeners adds to found where sockets of a family listen at a port, 0 being any, as far as found
// has the port.
func (d *sockDiag) listeners(family byte, port uint16, found map[uint16][]netip.Addr) error {
	d.seq++
	question := listenersRequest(d.seq, family, port)
	if err := unix.Sendto(d.fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 32<<10) // what the kernel puts into one datagram at most
	for {
		n, _, err := unix.Recvfrom(d.fd, reply, unix.MSG_DONTWAIT) // the kernel has the next part ready
		if err != nil {
			return err
		}
		last, err := parseListeners(reply[:n], d.seq, found)
		if last || err != nil {
			return err
		}
	}
}

// listenersRequest returns the question for all sockets that listen: diagRequest for no address, with
// the flag NLM_F_DUMP and one state.
func listenersRequest(seq uint32, family byte, port uint16) []byte {
	none := netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	b := diagRequest(seq, none, netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b[unix.SizeofNlMsghdr] = family
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], 1<<tcpListen)
	return b
}

// parseListeners reads the messages of one datagram, each as parseDiagReply has it, and reports
// whether it was the last one.
func parseListeners(b []byte, seq uint32, found map[uint16][]netip.Addr) (last bool, err error) {
	for len(b) > 0 {
		kind, body, err := parseNetlink(b, seq)
		if err != nil {
			return false, err
		}
		b = b[min(len(b), (unix.SizeofNlMsghdr+len(body)+3)&^3):]
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if err := diagError(body); !errors.Is(err, errNoSocket) {
				return false, err
			}
			return true, nil // the kernel has no such family
		case unix.SOCK_DIAG_BY_FAMILY:
			if len(body) < diagReplySize {
				return false, fmt.Errorf("message of type %d with %d bytes", kind, len(body))
			}
			addListener(body, found)
		}
	}
	return false, nil
}

// addListener adds where one socket listens.
func addListener(body []byte, found map[uint16][]netip.Addr) {
	id := body[diagIDOffset:]
	size := 16
	if body[0] == unix.AF_INET {
		size = 4
	}
	local := diagAddrPort(id[4:4+size], id[0:2])
	addrs, wanted := found[local.Port()]
	if !wanted {
		return
	}
	addrs = append(addrs, local.Addr())
	if local.Addr() == netip.IPv6Unspecified() && !isV6Only(body[diagReplySize:]) {
		addrs = append(addrs, netip.IPv4Unspecified())
	}
	found[local.Port()] = addrs
}

// isV6Only reports whether the attributes say so.
func isV6Only(attrs []byte) bool {
	value := diagAttribute(attrs, diagV6Only)
	return len(value) > 0 && value[0] != 0
}
