package systemd

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// Inherited is what a process was started with, by systemd or by HandOver. It has sockets that
// listen, in the order of LISTEN_FDS, and what an earlier process of the service put into the fd
// store.
type Inherited struct {
	Listeners []*net.TCPListener
	Kept      []Kept         // connections of living registered nodes, in order of registration
	Old       []registry.Old // names that had gone, the one that went first leading
	LastID    uint64         // that was given to a node
	PeerID    [16]byte       // see registry.PeerID; zero: there was no state, or one without it

	state      *os.File // that is in the fd store; nil: none
	superseded []string // names in the fd store of what is of no use any more
	leaving    int      // connections in the fd store that systemd drops by itself
	pace       pace     // of the messages of an earlier process
}

// Drop closes a connection that is of no use after all.
func (in *Inherited) Drop(k Kept) { in.end(k.FD, k.stored) }

// end closes a connection, which is in the fd store under the name stored. It is not there if
// stored is empty. systemd has the connection too, so closing it here alone would not end it.
func (in *Inherited) end(fd int, stored string) {
	unix.Shutdown(fd, unix.SHUT_RDWR)
	unix.Close(fd)
	switch stored {
	case "":
	case nodeName:
		in.leaving++
	default:
		in.superseded = append(in.superseded, stored)
	}
}

// Kept is the connection of a node that is still registered.
type Kept struct {
	FD   int // non-blocking
	Node registry.Node

	stored string // FDNAME= of it; empty: it is not in the fd store
	cookie uint64 // 0: uid and this are not known
	uid    uint32
}

// Inherit takes what was inherited. It unsets the variables that describe it, so that no other
// process sees them.
//
// Inherit checks what the fd store had before anyone is answered. It closes a connection that has
// ended in the meantime or has no record, and logs the reason. It returns an error if a socket
// can't listen. Then all is closed.
func Inherit(log *slog.Logger) (Inherited, error) {
	var in Inherited
	if TakesOver() {
		err := in.takeOver(log)
		return in, err
	}
	stored := newInStore()
	var errs []error
	for _, d := range listenFDs() {
		if stored.add(d, log) {
			continue
		}
		if !listens(d.fd) {
			log.Warn("inherited descriptor is no socket that listens", "fdname", d.name)
			unix.Close(d.fd)
			continue
		}
		l, err := tcpListener(os.NewFile(uintptr(d.fd), d.name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		in.Listeners = append(in.Listeners, l)
	}
	if len(errs) > 0 {
		in.closeListeners()
		stored.close()
		return Inherited{}, errors.Join(errs...)
	}
	in.restore(stored, log)
	return in, nil
}

// descriptor is a descriptor that systemd has passed.
type descriptor struct {
	fd   int
	name string
}

// firstFD is the first descriptor that systemd passes; see sd_listen_fds(3).
const firstFD = 3

// listenFDs returns what systemd has passed to this process, and unsets the variables that describe
// it. It makes no duplicates: there may be as many descriptors as the limit allows.
func listenFDs() []descriptor {
	defer func() {
		for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			os.Unsetenv(name)
		}
	}()
	pid, err := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if err != nil || pid != os.Getpid() {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	all := make([]descriptor, n)
	for i := range all {
		all[i] = descriptor{firstFD + i, "unknown"}
		if i < len(names) {
			all[i].name = names[i]
		}
		unix.CloseOnExec(all[i].fd)
	}
	return all
}

// inStore is what the fd store had: the connections of nodes and the state.
type inStore struct {
	state   *os.File
	byName  map[string]descriptor // of those with a name of their own
	cookies map[uint64]descriptor
}

func newInStore() *inStore {
	return &inStore{byName: make(map[string]descriptor), cookies: make(map[uint64]descriptor)}
}

// add takes a descriptor if it is from the fd store.
func (s *inStore) add(d descriptor, log *slog.Logger) bool {
	twice := false
	cookie := cookieOf(d.fd)
	switch {
	case d.name == stateName:
		if twice = s.state != nil; !twice {
			s.state = os.NewFile(uintptr(d.fd), stateName)
		}
	case d.name == nodeName:
		if _, twice = s.cookies[cookie]; !twice {
			s.cookies[cookie] = d
		}
	case strings.HasPrefix(d.name, oldPrefix):
		if _, twice = s.byName[d.name]; !twice {
			s.byName[d.name] = d
		}
	default:
		return false
	}
	if twice {
		log.Warn("two descriptors of one name", "stored", d.name)
		unix.Close(d.fd)
	}
	return true
}

// take returns the connection that a record is about.
func (s *inStore) take(r record) (d descriptor, found bool) {
	name := oldName(r.ID)
	if d, found = s.byName[name]; found {
		delete(s.byName, name)
		return d, true
	}
	if r.Cookie == 0 {
		return d, false
	}
	d, found = s.cookies[r.Cookie]
	delete(s.cookies, r.Cookie)
	return d, found
}

// rest returns the connections that are left.
func (s *inStore) rest() []descriptor {
	return slices.AppendSeq(slices.Collect(maps.Values(s.byName)), maps.Values(s.cookies))
}

func (s *inStore) close() {
	for _, d := range s.rest() {
		unix.Close(d.fd)
	}
	if s.state != nil {
		s.state.Close()
	}
}

func (in *Inherited) closeListeners() {
	for _, l := range in.Listeners {
		l.Close()
	}
}

// restore rebuilds what was stored.
func (in *Inherited) restore(stored *inStore, log *slog.Logger) {
	for _, r := range in.readState(stored, log) {
		d, found := stored.take(r)
		if !found {
			in.lose(r, errors.New("its connection was not kept"), log)
			continue
		}
		if err := aliveFD(d.fd); err != nil {
			in.lose(r, err, log)
			in.end(d.fd, d.name)
			continue
		}
		in.keep(r, d)
	}
	for _, d := range stored.rest() {
		log.Debug("connection of a node that had gone", "stored", d.name) // systemd did not know
		in.end(d.fd, d.name)
	}
}

// keep enters the node of a record. d is its connection.
func (in *Inherited) keep(r record, d descriptor) {
	in.Kept = append(in.Kept, Kept{FD: d.fd, Node: r.node(d.fd), stored: d.name, cookie: r.Cookie, uid: r.UID})
}

// lose makes a registered node one that has gone.
func (in *Inherited) lose(r record, reason error, log *slog.Logger) {
	log.Warn("registration not restored", r.logNames(), "port", r.Port, "reason", reason)
	in.Old = append(in.Old, r.old())
}

// readState reads the state and takes it over. It returns the records of the nodes in order of
// registration.
func (in *Inherited) readState(stored *inStore, log *slog.Logger) []record {
	if stored.state == nil {
		if n := len(stored.rest()); n > 0 {
			log.Error("connections were kept, but no state: their nodes have to register anew", "connections", n)
		}
		return nil
	}
	in.state = stored.state
	p, err := readState(in.state)
	if err != nil {
		log.Error("state not read to its end", "err", err)
	}
	in.Old, in.LastID, in.PeerID, in.pace = p.old, p.lastID, p.peerID, p.pace
	return p.nodes
}

// listens reports whether a descriptor is a socket that listens.
func listens(fd int) bool {
	accepts, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && accepts != 0
}

// aliveFD returns an error if a node's connection has ended or has bytes to read. Either
// unregisters the node.
func aliveFD(fd int) error {
	n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errors.New("connection closed")
	}
	return errors.New("sent more than its registration")
}
