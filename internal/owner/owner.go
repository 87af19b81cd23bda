// Package owner finds the process, the user and the systemd unit that have a TCP socket of this
// host. It asks the kernel (sock_diag(7)) and reads /proc and the control groups. It sees the
// namespaces that the caller is in. It starts no goroutines, and works without systemd too.
package owner

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
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

// Finder finds the owners of connections. It remembers where it has found some in processes that
// have many files open, and looks there first. The zero Finder is ready for use, and may be used
// concurrently.
type Finder struct {
	mu     sync.Mutex
	places map[int32]int // by PID, the descriptor of the socket that was found there last
}

// Find returns the owner of the other end of each connection. It returns nil where nobody on this
// host, in this network namespace, has that end.
//
// The kernel knows the user of any socket. Root, or the same user, can find the process. If several
// share the socket, that is the youngest. Others find the unit too, while its control group exists.
// Foreign comes from either.
//
// Find reads the open files of processes of those users, once for all connections. It takes
// milliseconds, or much longer with very many processes. So nobody who answers lookups may wait for
// it. When ctx ends, it returns what it has. It returns an error if the kernel can't be asked.
func (f *Finder) Find(ctx context.Context, conns []Connection) ([]*Owner, error) {
	kernel, err := Open()
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	holders := make([]*Owner, len(conns))
	s := search{
		finder:  f,
		sockets: make(map[uint32]*Owner, len(conns)),
		uids:    make(map[uint32]bool),
		last:    int32(os.Getpid()),
	}
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

// maxPlaces is how many processes a Finder remembers. Few have manyFiles.
const maxPlaces = 64

// place returns the descriptor of the socket that was found last in a process, if it is remembered.
func (f *Finder) place(pid int32) (fd int, found bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd, found = f.places[pid]
	return fd, found
}

// remember enters where a socket of a process was found.
func (f *Finder) remember(pid int32, fd int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.places == nil || len(f.places) == maxPlaces {
		f.places = make(map[int32]int)
	}
	f.places[pid] = fd
}
