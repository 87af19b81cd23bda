package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// errNoSocket is the error of a connection that has no socket here, or one that nobody has any more.
var errNoSocket = errors.New("no such socket")

// sockDiag asks the kernel about sockets; see sock_diag(7).
type sockDiag struct {
	fd  int
	seq uint32 // of the last question
}

func openSockDiag() (*sockDiag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open socket to ask the kernel about sockets: %w", err)
	}
	return &sockDiag{fd: fd}, nil
}

func (d *sockDiag) close() { unix.Close(d.fd) }

// diagSocket is what the kernel tells of the socket of a TCP connection.
type diagSocket struct {
	local, peer netip.AddrPort // the addresses without zones
	uid         uint32         // whose it is
	inode       uint32         // 0: nobody has it any more
	cgroup      uint64         // inode number of the control group (version 2) in which it was made; 0: not told
}

// find returns the socket that has the connection from local to peer.
func (d *sockDiag) find(local, peer netip.AddrPort) (diagSocket, error) {
	sock, err := d.ask(local, peer)
	if err == nil && (sock.local != plain(local) || sock.peer != plain(peer) || sock.inode == 0) {
		err = errNoSocket
	}
	return sock, err
}

// peerUser returns the user at the other end of a TCP connection that this host has with itself.
func (d *sockDiag) peerUser(fd int) (uint32, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("address of descriptor %d: %w", fd, err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return 0, fmt.Errorf("peer of descriptor %d: %w", fd, err)
	}
	sock, err := d.find(addrPortOf(peer), addrPortOf(local))
	return sock.uid, err
}

// addrPortOf returns a socket address in Go's other form; the zero one if it is not of TCP.
func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// ask returns the socket that has the connection from local to peer or, if there is no such connection, one
// that listens and would accept it.
func (d *sockDiag) ask(local, peer netip.AddrPort) (diagSocket, error) {
	d.seq++
	question := diagRequest(d.seq, local, peer)
	if err := unix.Sendto(d.fd, question, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return diagSocket{}, fmt.Errorf("ask the kernel about socket %v: %w", local, err)
	}
	var reply [1024]byte                                          // more than is ever told of one socket
	n, _, err := unix.Recvfrom(d.fd, reply[:], unix.MSG_DONTWAIT) // the kernel answers before Sendto returns
	if err != nil {
		return diagSocket{}, fmt.Errorf("the kernel about socket %v: %w", local, err)
	}
	sock, err := parseDiagReply(reply[:n], d.seq)
	if err != nil {
		return diagSocket{}, fmt.Errorf("the kernel about socket %v: %w", local, err)
	}
	return sock, nil
}

// plain returns an address and port as they are in a diagSocket.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Sizes of the parts of messages, in bytes.
const (
	diagRequestSize = unix.SizeofNlMsghdr + 56
	diagReplySize   = 72 // without the header
	diagIDOffset    = 4  // of the id in a reply
	diagUIDOffset   = 64
	diagInodeOffset = 68
)

// diagCgroupID is the type of the attribute with a diagSocket's cgroup (INET_DIAG_CGROUP_ID).
const diagCgroupID = 21

// diagRequest returns the question for one socket: struct nlmsghdr and struct inet_diag_req_v2, in the byte
// order of the machine but for the ports and addresses:
//
//	length  type=20  flags=1  seq  0   family  TCP  0  0  states   sport  dport  src  dst  interface  cookie=-1
//	   4       2        2      4   4      1     1   1  1     4       2      2     16   16      4         8
//
// src and dst begin with the 4 bytes of an IPv4 address. An IPv4 connection of an IPv6 socket is asked for
// as one of IPv4.
func diagRequest(seq uint32, local, peer netip.AddrPort) []byte {
	b := make([]byte, 0, diagRequestSize)
	b = binary.NativeEndian.AppendUint32(b, diagRequestSize)
	b = binary.NativeEndian.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	family := byte(unix.AF_INET6)
	if local.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0))
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, peer.Port())
	for _, end := range []netip.AddrPort{local, peer} {
		var padded [16]byte
		copy(padded[:], end.Addr().Unmap().AsSlice())
		b = append(b, padded[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, zoneIndex(local.Addr().Zone()))
	return binary.NativeEndian.AppendUint64(b, ^uint64(0))
}

// zoneIndex returns the index of the interface to which a link-local address belongs; 0 for none.
func zoneIndex(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if index, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(index)
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// parseDiagReply parses the answer to question seq, which is an error or struct inet_diag_msg and attributes:
//
//	length  type=20  flags  seq  pid   family  state  2 bytes  id as asked for  12 bytes  uid  inode
//	   4       2       2     4    4      1       1       2           48             12      4     4
//
//	length  type  value     and so on, each padded to 4 bytes
//	   2      2
func parseDiagReply(b []byte, seq uint32) (diagSocket, error) {
	kind, body, err := parseNetlink(b, seq)
	if err != nil {
		return diagSocket{}, err
	}
	if kind == unix.NLMSG_ERROR {
		return diagSocket{}, diagError(body)
	}
	if kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < diagReplySize {
		return diagSocket{}, fmt.Errorf("message of type %d with %d bytes", kind, len(body))
	}
	sock := diagSocket{
		uid:    binary.NativeEndian.Uint32(body[diagUIDOffset:]),
		inode:  binary.NativeEndian.Uint32(body[diagInodeOffset:]),
		cgroup: parseCgroupID(body[diagReplySize:]),
	}
	id := body[diagIDOffset:]
	size := 16
	if body[0] == unix.AF_INET {
		size = 4
	}
	sock.local = diagAddrPort(id[4:4+size], id[0:2])
	sock.peer = diagAddrPort(id[20:20+size], id[2:4])
	return sock, nil
}

func diagAddrPort(addr, port []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}

// parseNetlink returns the type and the content of a message about question seq.
func parseNetlink(b []byte, seq uint32) (kind uint16, body []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return 0, nil, fmt.Errorf("message of %d bytes", len(b))
	}
	length := binary.NativeEndian.Uint32(b)
	if length < unix.SizeofNlMsghdr || uint64(length) > uint64(len(b)) {
		return 0, nil, fmt.Errorf("message of %d bytes says that it has %d", len(b), length)
	}
	if got := binary.NativeEndian.Uint32(b[8:]); got != seq {
		return 0, nil, fmt.Errorf("answer to question %d, not %d", got, seq)
	}
	return binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:length], nil
}

// diagError returns the error that a message of type NLMSG_ERROR begins with.
func diagError(body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("error of %d bytes", len(body))
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == unix.ENOENT {
		return errNoSocket
	}
	return errno
}

// parseCgroupID returns the control group from the attributes; 0 if it is not among them.
func parseCgroupID(attrs []byte) uint64 {
	if value := diagAttribute(attrs, diagCgroupID); len(value) == 8 {
		return binary.NativeEndian.Uint64(value)
	}
	return 0
}

// diagAttribute returns the value of the first attribute of a type, or nil.
func diagAttribute(attrs []byte, kind uint16) []byte {
	for len(attrs) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(attrs))
		if length < unix.SizeofNlAttr || length > len(attrs) {
			return nil
		}
		if binary.NativeEndian.Uint16(attrs[2:]) == kind {
			return attrs[unix.SizeofNlAttr:length]
		}
		attrs = attrs[min(len(attrs), (length+3)&^3):]
	}
	return nil
}
