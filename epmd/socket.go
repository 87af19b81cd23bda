package epmd

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Lookups and registrations consist of these system calls. The sockets don't block, so the
// scheduler need not know of the calls. The ordinary wrappers tell it. It then takes the processor
// away from a call that lasts for 20 µs. That costs more than the call, and keeps a thread of the
// runtime looking out for such calls.

// sockets makes the calls of an engine that can fail.
type sockets struct {
	// fault has a call fail, or read or write less than size bytes. nil, except in tests: no call
	// does.
	fault func(call string, fd, size int) (int, error)
}

func (s *sockets) accept(listener int) (fd int, peer netip.AddrPort, err error) {
	if s.fault != nil {
		if _, err := s.fault("accept", listener, 0); err != nil {
			return -1, netip.AddrPort{}, err
		}
	}
	return acceptPeer(listener)
}

func (s *sockets) receive(fd int, buf []byte) (int, error) {
	if s.fault != nil {
		size, err := s.fault("read", fd, len(buf))
		if err != nil {
			return 0, err
		}
		buf = buf[:size]
	}
	return receive(fd, buf)
}

func (s *sockets) transmit(fd int, b []byte, flags int) (int, error) {
	if s.fault != nil {
		size, err := s.fault("write", fd, len(b))
		if err != nil {
			return 0, err
		}
		b = b[:size]
	}
	return transmit(fd, b, flags)
}

func (s *sockets) epollWait(epfd int, events []unix.EpollEvent) (int, error) {
	if s.fault != nil {
		if _, err := s.fault("epoll_wait", epfd, 0); err != nil {
			return 0, err
		}
	}
	return epollWait(epfd, events)
}

func (s *sockets) epollControl(epfd, op, fd int, ev *unix.EpollEvent) error {
	if s.fault != nil {
		call := map[int]string{unix.EPOLL_CTL_ADD: "epoll_add", unix.EPOLL_CTL_MOD: "epoll_mod", unix.EPOLL_CTL_DEL: "epoll_del"}[op]
		if _, err := s.fault(call, fd, 0); err != nil {
			return err
		}
	}
	return epollControl(epfd, op, fd, ev)
}

// readable reports whether a descriptor is readable. If that is not known, it may be.
func (s *sockets) readable(fd int) bool {
	if s.fault != nil {
		if _, err := s.fault("ppoll", fd, 0); err != nil {
			return true
		}
	}
	return readable(fd)
}

// acceptPeer accepts a connection. Its descriptor neither blocks nor is inherited. The address of
// an IPv4 peer is an IPv4 address on a socket of either kind.
func acceptPeer(listener int) (fd int, peer netip.AddrPort, err error) {
	var sa unix.RawSockaddrAny
	length := uint32(unix.SizeofSockaddrAny)
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&length)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(r), addrPort(&sa), nil
}

// readable reports whether a descriptor is readable, or may be, as the kernel does not say.
func readable(fd int) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var now unix.Timespec
	r, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return r != 0 || errno != 0
}

// addrPort returns a socket address in Go's form.
func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), networkOrder(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), networkOrder(in.Port))
	}
	return netip.AddrPort{}
}

// tcpInfo returns what the kernel knows of a connection. size is how many bytes of info it has
// filled in.
func tcpInfo(fd int) (info *unix.TCPInfo, size uintptr, err error) {
	info = new(unix.TCPInfo)
	length := uint32(unix.SizeofTCPInfo)
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return nil, 0, errno
	}
	return info, uintptr(length), nil
}

// unanswered reports whether nothing was ever sent on a connection. Its process ended then
// between keeping the registration and answering it.
func unanswered(fd int) bool {
	info, size, err := tcpInfo(fd)
	return err == nil && sentNothing(info, size)
}

// sentNothing reports whether nothing was sent, by the first size bytes of info. A kernel before
// Linux 4.19 does not say. Its nodes count as answered, as all but one in a million are.
func sentNothing(info *unix.TCPInfo, size uintptr) bool {
	return size >= unsafe.Offsetof(info.Bytes_sent)+unsafe.Sizeof(info.Bytes_sent) && info.Bytes_sent == 0
}

// networkOrder returns the port that n is in memory, big-endian.
func networkOrder(n uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&n))
	return uint16(b[0])<<8 | uint16(b[1])
}

// localAddr returns the address that a connection was made to.
func localAddr(fd int) (netip.Addr, error) {
	var sa unix.RawSockaddrAny
	length := uint32(unix.SizeofSockaddrAny)
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
		uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return netip.Addr{}, errno
	}
	return addrPort(&sa).Addr(), nil
}

// receive reads what has come, at most as much as buf holds. 0 bytes are the end of the
// connection. buf is not empty.
func receive(fd int, buf []byte) (int, error) {
	r, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// transmit writes as much of b as the peer's window allows. b is not empty.
func transmit(fd int, b []byte, flags int) (int, error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// epollWait puts the events that are there into events. It returns how many, which may be 0.
func epollWait(epfd int, events []unix.EpollEvent) (int, error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// epollControl changes what epoll watches of fd. op is EPOLL_CTL_ADD, MOD or DEL.
func epollControl(epfd, op, fd int, ev *unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(ev)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// closeSocket closes a descriptor. What was sent before is still delivered.
func closeSocket(fd int) {
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) // there is nothing to do about an error
}
