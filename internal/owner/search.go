package owner

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// search looks in /proc for processes.
type search struct {
	finder  *Finder
	sockets map[uint32]*Owner // those not found yet, by inode number
	uids    map[uint32]bool   // whose they are; nil: anybody can have them
	last    int32             // PID of the process that is looked at last; 0: none
}

const (
	chunk     = 256 // files of a process that are looked at between two looks at the time
	manyFiles = 256 // files of a process of which a Finder remembers where a socket was
	gap       = 16  // files without a socket after which there is none expected
)

// processes enters the PIDs of the processes that have the sockets. It begins with the youngest,
// because they have just registered.
func (s *search) processes(ctx context.Context) {
	proc, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	pids := youngestFirst(names, lastPID())
	// epmd has many sockets, but not those of nodes.
	if i := slices.Index(pids, s.last); i >= 0 {
		pids = append(slices.Delete(pids, i, i+1), s.last)
	}
	for _, pid := range pids {
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

// files looks at the open files of a process. It begins where a socket was found before. Then it
// looks at all, the highest descriptor first: who has many has opened that last.
func (s *search) files(ctx context.Context, pid int32) {
	dir, err := os.Open("/proc/" + strconv.Itoa(int(pid)) + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	if s.next(int(dir.Fd()), pid); len(s.sockets) == 0 {
		return
	}
	names, _ := dir.Readdirnames(-1) // in ascending order
	remember := len(names) >= manyFiles
	for i, name := range slices.Backward(names) {
		if len(s.sockets) == 0 || i%chunk == 0 && ctx.Err() != nil {
			return
		}
		if s.file(int(dir.Fd()), name, pid) && remember {
			remember = false // the next ones are before
			fd, _ := strconv.Atoi(name)
			s.finder.remember(pid, fd)
		}
	}
}

// next looks at the open files of a process that follow the socket that was found last. The kernel
// gives the lowest descriptor that is free, so new sockets are mostly there.
func (s *search) next(dir int, pid int32) {
	last, found := s.finder.place(pid)
	if !found {
		return
	}
	for fd := last + 1; fd <= last+gap && len(s.sockets) > 0; fd++ {
		if s.file(dir, strconv.Itoa(fd), pid) {
			last = fd
		}
	}
	s.finder.remember(pid, last)
}

// file looks at an open file of a process. It reports whether that is a socket that it looks for.
func (s *search) file(dir int, name string, pid int32) bool {
	inode, ok := socketInode(dir, name)
	h := s.sockets[inode]
	if !ok || h == nil {
		return false
	}
	h.PID = pid
	delete(s.sockets, inode)
	return true
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
