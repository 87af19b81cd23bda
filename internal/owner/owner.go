// Package owner finds the process, the user and the systemd unit that have a TCP socket of this host. It
// asks the kernel about sockets (sock_diag(7)) and reads /proc and the control groups. It sees the
// network and PID namespaces that the caller is in, starts no goroutines, and works without systemd too.
package owner

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Owner is the process that has a socket.
type Owner struct {
	Unit string // systemd unit that the process runs in, a service or a scope; empty: none, or not known
	PID  int32  // 0: not known
	UID  uint32 // whose the socket is

	// Foreign says that this is no node of OTP: the process does not run OTP's emulator. If the process
	// is not known, none does in the control group that the socket was made in.
	Foreign bool
}

// Connection is a TCP connection that this host has with itself.
type Connection struct {
	Local netip.AddrPort // our end
	Peer  netip.AddrPort // the end whose holder is asked for
}

// Find returns which process has the other end of each connection: nil where there is none on this
// host, at least in this network namespace. The kernel tells the user of any socket. The process, the
// youngest if several share the socket, can be told only if we are root or the same user; the unit otherwise
// too, as long as its control group is there. Foreign is told by whichever of these is known.
//
// It looks at all processes of those users and all their open files, once for all connections: that can take
// some milliseconds, or much longer on a host with very many, so it must not be waited for by who answers
// lookups. When ctx ends, it returns what it has. An error means that the kernel can't be asked.
func Find(ctx context.Context, conns []Connection) ([]*Owner, error) {
	kernel, err := Open()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	holders := make([]*Owner, len(conns))
	s := search{sockets: make(map[uint32]*Owner), uids: make(map[uint32]bool)}
	cgroups := make(map[*Owner]uint64)
	for i, c := range conns {
		sock, err := kernel.find(c.Peer, c.Local)
		if errors.Is(err, errNoSocket) {
			continue
		}
		if err != nil {
			return nil, err
		}
		holders[i] = &Owner{UID: sock.uid}
		s.sockets[sock.inode] = holders[i]
		s.uids[sock.uid] = true
		cgroups[holders[i]] = sock.cgroup
	}
	s.processes(ctx)
	setUnits(ctx, cgroups)
	return holders, nil
}

// search looks in /proc for processes.
type search struct {
	sockets map[uint32]*Owner // those not found yet, by inode number
	uids    map[uint32]bool   // whose they are; nil: anybody can have them
}

// chunk is how many of a process's files are looked at before it is seen whether that was enough.
const chunk = 256

// processes enters the PIDs of those that have the sockets. It begins with the youngest: they are asked for
// because they have just registered.
func (s *search) processes(ctx context.Context) {
	proc, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, pid := range youngestFirst(names, lastPID()) {
		if len(s.sockets) == 0 || ctx.Err() != nil {
			return
		}
		if s.isTheirs(strconv.Itoa(int(pid))) {
			s.files(ctx, pid)
		}
	}
}

// youngestFirst returns the PIDs among names in the order in which the kernel gave them, the latest first.
// It gives PIDs in turn, and begins again with small ones after the largest; last is the latest.
func youngestFirst(names []string, last int32) []int32 {
	var pids []int32
	for _, name := range names {
		if pid, err := strconv.ParseInt(name, 10, 32); err == nil {
			pids = append(pids, int32(pid))
		}
	}
	slices.SortFunc(pids, func(a, b int32) int {
		if (a > last) != (b > last) {
			return cmp.Compare(a, b) // the larger is of the round before
		}
		return cmp.Compare(b, a)
	})
	return pids
}

// lastPID returns the PID that the kernel gave last, the last field of /proc/loadavg. Where that can't be
// read it returns the largest there can be.
func lastPID() int32 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return math.MaxInt32
	}
	field := bytes.TrimSpace(text[bytes.LastIndexByte(text, ' ')+1:])
	pid, err := strconv.ParseInt(string(field), 10, 32)
	if err != nil {
		return math.MaxInt32
	}
	return int32(pid)
}

// isTheirs tells whether a process is one of the users'.
func (s *search) isTheirs(pid string) bool {
	if s.uids == nil {
		return true
	}
	var st unix.Stat_t
	return unix.Stat("/proc/"+pid, &st) == nil && s.uids[st.Uid]
}

// files looks at all that a process has open.
func (s *search) files(ctx context.Context, pid int32) {
	dir, err := os.Open("/proc/" + strconv.Itoa(int(pid)) + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	for ctx.Err() == nil {
		names, _ := dir.Readdirnames(chunk)
		if len(names) == 0 {
			return
		}
		for _, name := range names {
			inode, ok := socketInode(int(dir.Fd()), name)
			if h := s.sockets[inode]; ok && h != nil {
				h.PID = pid
				delete(s.sockets, inode)
			}
		}
		if len(s.sockets) == 0 {
			return
		}
	}
}

// socketInode returns the inode number of a socket that a process has open, of which name is a link in
// dir. The link's text is "socket:[INODE]"; see proc_pid_fd(5).
func socketInode(dir int, name string) (inode uint32, ok bool) {
	var link [32]byte
	n, err := unix.Readlinkat(dir, name, link[:])
	if err != nil {
		return 0, false
	}
	text, isSocket := bytes.CutPrefix(link[:n], []byte("socket:["))
	text, ends := bytes.CutSuffix(text, []byte("]"))
	if !isSocket || !ends {
		return 0, false
	}
	number, err := strconv.ParseUint(string(text), 10, 32)
	return uint32(number), err == nil
}
