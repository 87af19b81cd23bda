package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tcpListen is the state of a socket that listens (TCP_LISTEN).
const tcpListen = 10

// fewPorts is for how many ports FindListeners asks one by one. For more, it asks for all sockets
// that listen.
const fewPorts = 4

// FindListeners returns the addresses at which this network namespace listens for TCP connections
// at each of the ports, in ascending order. A port without listeners has none. 0.0.0.0 and :: stand
// for all addresses of their family. A socket on :: that takes IPv4 too has both.
//
// It waits for nobody but the kernel. It returns an error if the kernel can't be asked.
func FindListeners(ports []uint16) (map[uint16][]netip.Addr, error) {
	kernel, err := Open()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	found := make(map[uint16][]netip.Addr, len(ports))
	for _, p := range ports {
		found[p] = nil
	}
	asked := ports
	if len(ports) > fewPorts {
		asked = []uint16{0}
	}
	for _, port := range asked {
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

// listeners adds to found where sockets of a family listen at a port. Port 0 is any. It leaves out
// ports that found does not have.
func (k *Kernel) listeners(family byte, port uint16, found map[uint16][]netip.Addr) error {
	if err := k.send(listenersQuestion(family, port)); err != nil {
		return err
	}
	for {
		messages, err := k.receive()
		if errors.Is(err, errNoSocket) { // the kernel has no such family
			return nil
		}
		if err != nil {
			return err
		}
		if last, err := addListeners(messages, found); last || err != nil {
			return err
		}
	}
}

// listenersQuestion returns the question for all sockets of a family that listen at a port. It is
// the question for a single socket, without addresses and for one state. Port 0 is any.
func listenersQuestion(family byte, port uint16) netlink.Message {
	none := netip.IPv6Unspecified()
	m := question(netip.AddrPortFrom(none, port), netip.AddrPortFrom(none, 0))
	m.Header.Flags |= netlink.Dump
	m.Data[0] = family
	binary.NativeEndian.PutUint32(m.Data[4:], 1<<tcpListen)
	return m
}

// addListeners adds to found where sockets listen, for the ports that found has. It reports whether
// the messages are the last ones.
func addListeners(messages []netlink.Message, found map[uint16][]netip.Addr) (last bool, err error) {
	for _, m := range messages {
		if m.Header.Type == netlink.Done {
			return true, nil
		}
		sock, err := parseSocket(m)
		if err != nil {
			return false, err
		}
		addrs, wanted := found[sock.local.Port()]
		if !wanted {
			continue
		}
		addrs = append(addrs, sock.local.Addr())
		if sock.local.Addr() == netip.IPv6Unspecified() && !sock.v6Only {
			addrs = append(addrs, netip.IPv4Unspecified())
		}
		found[sock.local.Port()] = addrs
	}
	return false, nil
}
