package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/registry"
)

// A process that is replaced by execve(2) keeps its descriptors. These variables describe them to
// the new program. They count for the process with that PID, and for no child of it.
const (
	envHandOver  = "ECLUS_HANDOVER"  // "PID STORED STATE-FD LISTEN-FD...", see stateFor
	envRehearsal = "ECLUS_REHEARSAL" // the descriptor of a state: read it and say that all is well

	rehearsed     = "eclus: rehearsed\n"
	rehearsalTime = 10 * time.Second
	maxSaid       = 4096 // bytes that a rehearsing program is listened to
)

// TakesOver reports whether this process ran epmd before this program replaced it.
func TakesOver() bool {
	pid, _, _ := strings.Cut(os.Getenv(envHandOver), " ")
	return pid == strconv.Itoa(os.Getpid())
}

// Rehearse starts a program with the arguments that it will have, and lets it read the state of
// reg. The program is to take this one's place. An error says why it can't. The program has ended
// when Rehearse returns.
func Rehearse(ctx context.Context, program string, args []string, reg *registry.Registry) error {
	ctx, cancel := context.WithTimeout(ctx, rehearsalTime)
	defer cancel()
	state, err := newState(reg, unkept)
	if err != nil {
		return err
	}
	defer state.file.Close()
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = args
	cmd.Env = append(os.Environ(), envRehearsal+"=3")
	cmd.ExtraFiles = []*os.File{state.file}
	var said, complained firstBytes
	cmd.Stdout, cmd.Stderr = &said, &complained
	cmd.WaitDelay = time.Second // for children that keep its output open
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("rehearse %s: %w: %q", program, err, complained.text)
	}
	if string(said.text) != rehearsed {
		return fmt.Errorf("rehearse %s: it is another program, which said %q", program, said.text)
	}
	return nil
}

// firstBytes keeps the first bytes that are written to it.
type firstBytes struct{ text []byte }

func (b *firstBytes) Write(p []byte) (int, error) {
	b.text = append(b.text, p[:min(len(p), maxSaid-len(b.text))]...)
	return len(p), nil
}

// Rehearsal does what [Rehearse] asks of the program that it starts. It reports whether Rehearse
// has started this program.
func Rehearsal(stdout io.Writer) (bool, error) {
	number := os.Getenv(envRehearsal)
	if number == "" {
		return false, nil
	}
	fd, err := strconv.Atoi(number)
	if err != nil {
		return true, fmt.Errorf("%s=%q: %w", envRehearsal, number, errors.Unwrap(err))
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	if _, err := readState(f); err != nil {
		return true, err
	}
	_, err = io.WriteString(stdout, rehearsed)
	return true, err
}

// HandOver replaces this program by another. The other one finds by [Inherit] what reg has: the
// connections of its nodes, whose descriptors are in the registry, and the sockets that listen.
// store may be nil.
//
// HandOver returns only if it fails. Then all is as before.
func HandOver(program string, args []string, reg *registry.Registry, store *Store, listeners []*os.File) error {
	store.Flush()
	state, stored, err := stateFor(reg, store)
	if err != nil {
		return err
	}
	if store == nil {
		defer state.Close()
	}
	files := append([]*os.File{state}, listeners...)
	words := []string{strconv.Itoa(os.Getpid()), stored}
	var fds []int
	for _, f := range files {
		err := control(f, func(fd int) error {
			fds = append(fds, fd)
			words = append(words, strconv.Itoa(fd))
			return nil
		})
		if err != nil {
			return fmt.Errorf("hand over %s: %w", f.Name(), err)
		}
	}
	for _, n := range reg.Local() {
		fds = append(fds, int(n.FD))
	}
	defer setInherited(fds, false)
	if err := setInherited(fds, true); err != nil {
		return err
	}
	env := append(os.Environ(), envHandOver+"="+strings.Join(words, " "))
	return fmt.Errorf("execute %s: %w", program, unix.Exec(program, args, env))
}

// stateFor returns the state for another program: that of the store, or else a new one. stored is
// "1" for the store's.
func stateFor(reg *registry.Registry, store *Store) (f *os.File, stored string, err error) {
	if store != nil {
		f, err := store.writeState()
		return f, "1", err
	}
	s, err := newState(reg, unkept)
	if err != nil {
		return nil, "", err
	}
	return s.file, "0", nil
}

// setInherited sets whether descriptors stay open when the program is replaced.
func setInherited(fds []int, inherited bool) error {
	flag := unix.FD_CLOEXEC
	if inherited {
		flag = 0
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// takeOver takes what HandOver left.
func (in *Inherited) takeOver(log *slog.Logger) error {
	words := strings.Fields(os.Getenv(envHandOver))
	os.Unsetenv(envHandOver)
	if len(words) < 3 {
		return fmt.Errorf("%s=%q: too few words", envHandOver, words)
	}
	numbers := make([]uint64, len(words))
	for i, w := range words {
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			return fmt.Errorf("%s=%q: %q: %w", envHandOver, words, w, errors.Unwrap(err))
		}
		numbers[i] = n
	}
	for _, n := range numbers[3:] {
		unix.CloseOnExec(int(n))
		l, err := tcpListener(os.NewFile(uintptr(n), "socket handed over"))
		if err != nil {
			return err
		}
		in.Listeners = append(in.Listeners, l)
	}
	state := os.NewFile(uintptr(numbers[2]), "state")
	unix.CloseOnExec(int(numbers[2]))
	if err := in.takeNodes(state, numbers[1] != 0, log); err != nil {
		return err
	}
	if numbers[1] == 0 {
		return state.Close()
	}
	in.state = state
	return nil
}

// takeNodes takes the connections of the nodes in a state. They are open here under the same
// descriptors. kept says that systemd may have them too.
func (in *Inherited) takeNodes(f *os.File, kept bool, log *slog.Logger) error {
	p, err := readState(f)
	if err != nil {
		return err
	}
	in.Old, in.LastID, in.PeerID, in.pace = p.old, p.lastID, p.peerID, p.pace
	for _, r := range p.nodes {
		d := descriptor{int(r.FD), r.Stored}
		if r.Cookie == 0 && kept {
			d.name = oldName(r.ID)
		}
		unix.CloseOnExec(d.fd)
		if err := aliveFD(d.fd); err != nil {
			in.lose(r, err, log)
			in.end(d.fd, d.name)
			continue
		}
		in.keep(r, d)
	}
	return nil
}
