// Package owner finds the process, the user and the systemd unit that have a TCP socket of this
// host. It asks the kernel (sock_diag(7)) and reads /proc and the control groups. It sees the
// namespaces that the caller is in. It starts no goroutines, and works without systemd too.
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
	Unit string // systemd unit of the process, a service or a scope; empty: none, or not known
	PID  int32  // 0: not known
	UID  uint32 // whose the socket is

	// Foreign says that this is no node of OTP: the process does not run OTP's emulator. If the
	// process is not known, no process in the socket's control group does.
	Foreign bool
}

// Connection is a TCP connection that this host has with itself.
type Connection struct {
	Local netip.AddrPort // our end
	Peer  netip.AddrPort // the end whose holder is asked for
}

// Find returns the owner of the other end of each connection. It returns nil where nobody on this
// host, in this network namespace, has that end.
//
// The kernel knows the user of any socket. Root, or the same user, can find the process. If several
// share the socket, that is the youngest. Others find the unit too, while its control group exists.
// Foreign comes from either.
//
// Find reads the open files of all processes of those users, once for all connections. It takes
// milliseconds, or much longer with very many processes. So nobody who answers lookups may wait for
// it. When ctx ends, it returns what it has. It returns an error if the kernel can't be asked.
func Find(ctx context.Context, conns []Connection) ([]*Owner, error) {
	kernel, err := Open()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	holders := make([]*Owner, len(conns))
	s := search{sockets: make(map[uint32]*Owner, len(conns)), uids: make(map[uint32]bool)}
	cgroups := make(map[*Owner]uint64, len(conns))
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

// chunk is how many files of a process the search looks at between two looks at the time.
const chunk = 256

// processes enters the PIDs of the processes that have the sockets. It begins with the youngest,
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

// youngestFirst returns the PIDs among names, the latest first. The kernel gives PIDs in turn, and
// begins again with small ones after the largest. last is the latest.
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

// lastPID returns the latest PID, which is the last field of /proc/loadavg. If that can't be read,
// it returns the largest possible one.
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

// isTheirs reports whether a process is one of the users'.
func (s *search) isTheirs(pid string) bool {
	if s.uids == nil {
		return true
	}
	var st unix.Stat_t
	return unix.Stat("/proc/"+pid, &st) == nil && s.uids[st.Uid]
}

// files looks at all open files of a process. It begins with the highest descriptor: who has many
// has opened that last.
func (s *search) files(ctx context.Context, pid int32) {
	dir, err := os.Open("/proc/" + strconv.Itoa(int(pid)) + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // in ascending order
	for i, name := range slices.Backward(names) {
		if len(s.sockets) == 0 || i%chunk == 0 && ctx.Err() != nil {
			return
		}
		inode, ok := socketInode(int(dir.Fd()), name)
		if h := s.sockets[inode]; ok && h != nil {
			h.PID = pid
			delete(s.sockets, inode)
		}
	}
}

// socketInode returns the inode number of a socket that a process has open. name is a link in dir
// with the text "socket:[INODE]" (proc_pid_fd(5)).
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
