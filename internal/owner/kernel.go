package owner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// errNoSocket is the error for a connection that has no socket here, or an abandoned one.
var errNoSocket = errors.New("no such socket")

// Kernel asks the kernel about single sockets (sock_diag(7)). Its methods may not be called
// concurrently. They never wait: the kernel has its answer ready when the question is sent.
//
// A [netlink.Conn] starts a goroutine for each question and each answer: 15 µs a question instead
// of 7. Every registration has questions.
type Kernel struct {
	fd  int
	seq uint32        // of the last question
	buf [8 << 10]byte // for a datagram of the kernel's, which is no larger (NLMSG_GOODSIZE)
}

// Open returns a Kernel, which keeps a socket open until Close.
func Open() (*Kernel, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open socket to ask the kernel about sockets: %w", err)
	}
	return &Kernel{fd: fd}, nil
}

// Close closes the socket.
func (k *Kernel) Close() { unix.Close(k.fd) }

// PeerUser returns the user at the other end of a TCP connection. Both ends are on this host.
func (k *Kernel) PeerUser(fd int) (uint32, error) {
	c, err := ConnectionOf(fd)
	if err != nil {
		return 0, err
	}
	sock, err := k.find(c.Peer, c.Local)
	return sock.uid, err
}

// ConnectionOf returns the TCP connection of a descriptor, which is its local end.
func ConnectionOf(fd int) (Connection, error) {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return Connection{}, fmt.Errorf("address of descriptor %d: %w", fd, err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return Connection{}, fmt.Errorf("peer of descriptor %d: %w", fd, err)
	}
	return Connection{Local: addrPortOf(local), Peer: addrPortOf(peer)}, nil
}

// addrPortOf returns a socket address in Go's other form. It returns the zero one if sa is not of
// TCP.
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

// socket is what the kernel knows of a TCP socket.
type socket struct {
	local, peer netip.AddrPort // the addresses without zones
	uid         uint32         // whose it is
	inode       uint32         // 0: nobody has it any more
	cgroup      uint64         // inode number of its control group (version 2); 0: not known
	v6Only      bool           // an IPv6 socket that takes no IPv4
}

// find returns the socket that has the connection from local to peer.
func (k *Kernel) find(local, peer netip.AddrPort) (socket, error) {
	sock, err := k.ask(local, peer)
	if err == nil && (sock.local != plain(local) || sock.peer != plain(peer) || sock.inode == 0) {
		err = errNoSocket
	}
	return sock, err
}

// plain returns an address and port as a socket has them.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// ask returns the socket of the connection from local to peer. If there is none, it returns a
// listener that would accept the connection.
func (k *Kernel) ask(local, peer netip.AddrPort) (sock socket, err error) {
	if err := k.send(question(local, peer)); err != nil {
		return sock, fmt.Errorf("ask the kernel about socket %v: %w", local, err)
	}
	answer, err := k.receive()
	if err == nil {
		sock, err = parseSocket(answer[0])
	}
	if err != nil {
		return sock, fmt.Errorf("the kernel about socket %v: %w", local, err)
	}
	return sock, nil
}

// send asks a question.
func (k *Kernel) send(m netlink.Message) error {
	k.seq++
	m.Header.Sequence = k.seq
	m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
	b, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	return unix.Sendto(k.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive returns the messages of the next datagram that answers the last question, at least one.
// They are valid until the next receive.
func (k *Kernel) receive() ([]netlink.Message, error) {
	n, _, err := unix.Recvfrom(k.fd, k.buf[:], unix.MSG_DONTWAIT)
	if err != nil {
		return nil, err
	}
	return parseAnswer(k.buf[:n], k.seq)
}

// parseAnswer returns the messages of a datagram that answers question seq, at least one. It
// returns the error that the datagram reports.
func parseAnswer(b []byte, seq uint32) (messages []netlink.Message, err error) {
	for more := true; more; more = len(b) > 0 {
		var m netlink.Message
		if err := m.UnmarshalBinary(b); err != nil {
			return nil, fmt.Errorf("%d bytes: %w", len(b), err)
		}
		switch {
		case m.Header.Sequence != seq:
			return nil, fmt.Errorf("answer to question %d, not %d", m.Header.Sequence, seq)
		case m.Header.Type == netlink.Error:
			return nil, parseError(m)
		}
		messages = append(messages, m)
		b = b[min(len(b), int(m.Header.Length+3)&^3):]
	}
	return messages, nil
}

// parseError returns the error that a message begins with.
func parseError(m netlink.Message) error {
	if len(m.Data) < 4 {
		return fmt.Errorf("error of %d bytes", len(m.Data))
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	if errno == unix.ENOENT {
		return errNoSocket
	}
	return errno
}

// Sizes of the parts of messages, in bytes.
const (
	questionSize = 56
	answerSize   = 72
	idOffset     = 4 // in an answer
	uidOffset    = 64
	inodeOffset  = 68
)

// Types of attributes that x/sys/unix lacks.
const (
	diagV6Only   = 11 // INET_DIAG_SKV6ONLY: a byte
	diagCgroupID = 21 // INET_DIAG_CGROUP_ID: 8 bytes
)

// question returns the question for one socket, struct inet_diag_req_v2. Ports and addresses are
// big-endian. All else has the byte order of the host.
//
//	family  TCP  0  0  states   sport  dport  src  dst  interface  cookie=-1
//	   1     1   1  1     4       2      2     16   16      4         8
//
// src and dst begin with the 4 bytes of an IPv4 address. An IPv4 connection of an IPv6 socket is
// asked for as one of IPv4.
func question(local, peer netip.AddrPort) netlink.Message {
	b := make([]byte, 0, questionSize)
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
	b = binary.NativeEndian.AppendUint64(b, ^uint64(0))
	return netlink.Message{Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request}, Data: b}
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

// parseSocket reads struct inet_diag_msg and its attributes:
//
//	family  state  2 bytes  id as asked for  12 bytes  uid  inode
//	   1      1       2           48             12      4     4
func parseSocket(m netlink.Message) (socket, error) {
	if m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < answerSize {
		return socket{}, fmt.Errorf("message of type %d with %d bytes", m.Header.Type, len(m.Data))
	}
	id := m.Data[idOffset:]
	size := 16
	if m.Data[0] == unix.AF_INET {
		size = 4
	}
	sock := socket{
		local: addrPort(id[4:4+size], id[0:2]),
		peer:  addrPort(id[20:20+size], id[2:4]),
		uid:   binary.NativeEndian.Uint32(m.Data[uidOffset:]),
		inode: binary.NativeEndian.Uint32(m.Data[inodeOffset:]),
	}
	sock.addAttributes(m.Data[answerSize:])
	return sock, nil
}

// addAttributes enters what attributes say, as far as they are well formed.
func (s *socket) addAttributes(b []byte) {
	list, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return
	}
	for list.Next() {
		switch {
		case list.Type() == diagCgroupID && len(list.Bytes()) == 8:
			s.cgroup = list.Uint64()
		case list.Type() == diagV6Only && len(list.Bytes()) == 1:
			s.v6Only = list.Uint8() != 0
		}
	}
}

func addrPort(addr, port []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}
