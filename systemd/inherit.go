package systemd

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"eclus/registry"
)

// Inherited is what a process was started with, by systemd or by HandOver: sockets that listen (LISTEN_FDS, in the order of the
// socket unit), and what an earlier process of the service had put into the fd store.
type Inherited struct {
	Listeners []*net.TCPListener
	Kept      []Kept         // connections of registered nodes that are alive, in order of registration
	Old       []registry.Old // names that had gone, the one that went first leading
	LastID    uint64         // that was given to a node

	state      *os.File // that is in the fd store; nil: none
	superseded []string // names in the fd store of what is of no use any more
}

// Drop closes a connection that is of no use after all.
func (in *Inherited) Drop(k Kept) {
	in.superseded = append(in.superseded, nodeName(k.Node.ID))
	unix.Shutdown(k.FD, unix.SHUT_RDWR) // systemd has it too
	unix.Close(k.FD)
}

// Kept is the connection of a node that is still registered.
type Kept struct {
	FD   int // non-blocking
	Node registry.Node
}

// Inherit takes what was inherited and takes the variables that tell of it out of the environment, so that they
// do not reach another process. What the fd store had is checked here, before anyone is answered: a connection that
// has ended meanwhile, or that no record is known of, is closed and logged with the reason. The error is that of a
// socket that is no use to listen on; all is closed then.
func Inherit(log *slog.Logger) (Inherited, error) {
	var in Inherited
	if TakesOver() {
		err := in.takeOver(log)
		return in, err
	}
	stored := make(map[string]*os.File)
	var errs []error
	for _, f := range activation.Files(true) {
		if f.Name() == stateName || strings.HasPrefix(f.Name(), nodePrefix) {
			if stored[f.Name()] != nil {
				log.Warn("two descriptors of one name", "stored", f.Name())
				f.Close()
				continue
			}
			stored[f.Name()] = f
			continue
		}
		if !listens(f) {
			log.Warn("inherited descriptor is no socket that listens", "name", f.Name())
			f.Close()
			continue
		}
		l, err := tcpListener(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		in.Listeners = append(in.Listeners, l)
	}
	if len(errs) > 0 {
		in.closeListeners()
		closeFiles(stored)
		return Inherited{}, errors.Join(errs...)
	}
	in.restore(stored, log)
	return in, nil
}

func (in *Inherited) closeListeners() {
	for _, l := range in.Listeners {
		l.Close()
	}
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// restore makes of the stored files what they were, and closes them.
func (in *Inherited) restore(stored map[string]*os.File, log *slog.Logger) {
	defer closeFiles(stored)
	for _, r := range in.readState(stored, log) {
		name := nodeName(r.ID)
		f := stored[name]
		if f == nil {
			in.lose(r, errors.New("its connection was not kept"), log)
			continue
		}
		kept, err := keep(f, r)
		if err != nil {
			in.superseded = append(in.superseded, name)
			in.lose(r, err, log)
		} else {
			in.Kept = append(in.Kept, kept)
		}
		f.Close()
		delete(stored, name)
	}
	for name := range stored {
		if strings.HasPrefix(name, nodePrefix) {
			log.Debug("connection of a node that had gone", "stored", name) // systemd was still to be told
			in.superseded = append(in.superseded, name)
		}
	}
}

// lose makes a registered node one that has gone.
func (in *Inherited) lose(r record, reason error, log *slog.Logger) {
	log.Warn("registration not restored", "node", r.Name, "port", r.Port, "reason", reason)
	in.Old = append(in.Old, r.old())
}

// readState reads the state, takes it over, and returns the records of its nodes in order of registration.
func (in *Inherited) readState(stored map[string]*os.File, log *slog.Logger) []record {
	f := stored[stateName]
	if f == nil {
		if len(stored) > 0 {
			log.Error("connections were kept, but no state: their nodes have to register anew", "connections", len(stored))
		}
		return nil
	}
	delete(stored, stateName)
	in.state = f
	p, err := readState(f)
	if err != nil {
		log.Error("state not read to its end", "err", err)
	}
	in.Old, in.LastID = p.old, p.lastID
	return p.nodes
}

// keep takes a stored connection over, if its node is there.
func keep(f *os.File, r record) (kept Kept, err error) {
	if err := control(f, aliveFD); err != nil {
		return Kept{}, err
	}
	err = control(f, func(fd int) (err error) {
		kept.FD, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	kept.Node = r.node(kept.FD)
	return kept, err
}

// listens tells whether a descriptor is a socket that listens.
func listens(f *os.File) bool {
	var accepts int
	err := control(f, func(fd int) (err error) {
		accepts, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		return err
	})
	return err == nil && accepts != 0
}

// aliveFD returns an error that says why a node's connection is not what it was when it registered: ended, or
// with bytes to read, of which either unregisters it.
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
