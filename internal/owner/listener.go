package owner

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Listener is a process that has a socket that listens.
type Listener struct {
	Owner
	Program string // what the process calls itself, any 15 bytes at most; empty: not known
}

// FindListener returns who would get a connection to that address and port of this host. It returns
// nil if nobody listens there. If several processes share the socket, it returns the youngest: a
// service rather than the service manager.
//
// It finds as much as [Finder.Find] does. It looks at the processes of all users, so it takes
// longer. When ctx ends, it returns what it has. It returns an error if the kernel can't be asked.
func FindListener(ctx context.Context, at netip.AddrPort) (*Listener, error) {
	sock, err := findListening(at)
	if errors.Is(err, errNoSocket) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := &Listener{Owner: Owner{UID: sock.uid}}
	s := search{finder: new(Finder), sockets: map[uint32]*Owner{sock.inode: &l.Owner}}
	s.processes(ctx)
	setUnits(ctx, map[*Owner]uint64{&l.Owner: sock.cgroup})
	if l.PID != 0 {
		l.askProcess()
	}
	return l, nil
}

// findListening returns the socket that would accept a connection to that address. It asks for a
// connection from port 0, which never exists. So the kernel looks for a listener.
func findListening(at netip.AddrPort) (socket, error) {
	kernel, err := Open()
	if err != nil {
		return socket{}, err
	}
	defer kernel.Close()
	sock, err := kernel.ask(at, netip.AddrPortFrom(at.Addr(), 0))
	if err == nil && sock.inode == 0 {
		err = errNoSocket
	}
	return sock, err
}

// askProcess reads a process's name and user from /proc. The user can be another than the socket's.
// Both stay as they are if the process has ended.
func (l *Listener) askProcess() {
	dir := "/proc/" + strconv.Itoa(int(l.PID))
	if name, err := os.ReadFile(dir + "/comm"); err == nil {
		l.Program = strings.TrimSuffix(string(name), "\n")
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		l.UID = st.Uid
	}
}
