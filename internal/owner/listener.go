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

// Listener is the process that has a socket that listens.
type Listener struct {
	Owner
	Program string // what the process calls itself, any 15 bytes at most; empty: not known
}

// FindListener returns who would be given a connection to that address and port of this host: nil if nobody
// listens there, at least in this network namespace. The youngest is told if several processes share the
// socket, so that of a service rather than the service manager, which has opened it.
//
// As much is known of the process as Find finds, and it takes as long: it looks at all processes,
// whosever they are. When ctx ends, it returns what it has. An error means that the kernel can't be asked.
func FindListener(ctx context.Context, at netip.AddrPort) (*Listener, error) {
	sock, err := findListening(at)
	if errors.Is(err, errNoSocket) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l := &Listener{Owner: Owner{UID: sock.uid}}
	s := search{sockets: map[uint32]*Owner{sock.inode: &l.Owner}}
	s.processes(ctx)
	setUnits(ctx, map[*Owner]uint64{&l.Owner: sock.cgroup})
	if l.PID != 0 {
		l.askProcess()
	}
	return l, nil
}

// findListening returns the socket that would accept a connection to that address. The kernel looks for it as
// if there were a connection from port 0, from which there never is any.
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

// askProcess enters what /proc tells of a process: its name, and its user, who can be another than the
// socket's. One that has ended meanwhile leaves both as they are.
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
