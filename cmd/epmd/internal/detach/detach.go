// Package detach starts a daemon.
//
// A daemon is this program started once more. It lacks the terminal, the working directory, the
// umask and the open files of the first process. That ends when the daemon listens. The daemon
// reports to the first process by a pair of sockets, which nobody else can send to. It says what it
// would say to a service manager (sd_notify(3)). The environment holds the process id of the first,
// by which the daemon knows its task. The arguments stay the same, so ps lists the daemon as
// epmd -daemon.
//
// Like OTP's epmd, the daemon does not lead its session. So no terminal that it opens becomes its
// own. A process in between leads the session. It starts the daemon as a child of the first
// process, and ends.
//
// Detach connects to the port by TCP to see whether an epmd runs already. It waits up to 10 s for
// the daemon.
package detach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
)

const (
	envStarter = "ECLUS_STARTER" // process id of the first process
	envNotify  = "NOTIFY_SOCKET" // of a service manager, whom the daemon is not for
	reportsTo  = 3               // the daemon's end of the pair of sockets
)

// startTime is how long a daemon is given to listen; it takes milliseconds.
const startTime = 10 * time.Second

// Detach starts the daemon, and returns when it listens. If this process is the daemon that another
// has started, Detach returns the connection to report on. The caller has to close it. args are
// those of the process, which the daemon has too.
func Detach(ctx context.Context, port uint16, args []string, getenv func(string) (string, bool)) (starter net.Conn, err error) {
	if pid, _ := getenv(envStarter); pid != strconv.Itoa(os.Getppid()) || !isPair(reportsTo) {
		return nil, start(ctx, port, args)
	}
	pair := os.NewFile(reportsTo, "starter")
	defer pair.Close()
	if leadsSession() {
		_, err := spawn(args, os.Environ(), pair, &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT})
		return nil, err
	}
	os.Unsetenv(envStarter)
	return net.FileConn(pair)
}

// isPair reports whether a file is one of a pair of sockets as start makes it.
func isPair(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return false
	}
	_, err = unix.Getpeername(fd)
	return err == nil
}

// leadsSession reports whether this process leads its session.
func leadsSession() bool {
	sid, err := unix.Getsid(0)
	return err == nil && sid == os.Getpid()
}

// runningAnswerTime is how long an epmd that runs already is given to say so. It takes less than a
// millisecond. A slower one is left to the daemon to find.
const runningAnswerTime = 100 * time.Millisecond

// isRunning reports whether an epmd answers at that port.
func isRunning(ctx context.Context, port uint16) bool {
	ctx, cancel := context.WithTimeout(ctx, runningAnswerTime)
	defer cancel()
	_, err := epmd.NewLocalClient(port).Names(ctx)
	return err == nil
}

// start starts the daemon and returns when it listens. Another epmd that listens is as good. Every
// start of a node asks for a daemon. So most find one before they start a process.
func start(ctx context.Context, port uint16, args []string) error {
	if isRunning(ctx, port) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := keepFiles(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	unix.Umask(0)
	conn, leader, err := startLeader(args)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmp.Or(leader.Wait(), awaitDaemon(leader.Process.Pid)) }()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	said, err := awaitReady(conn)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil { // else it may have ended for want of a connection
		select {
		case err := <-ended:
			return startError(said, err)
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("start daemon: does not listen yet: %w", ctx.Err())
}

// startLeader starts the process that leads the daemon's session. The connection is to the daemon.
// It ends when neither process has it any more.
func startLeader(args []string) (net.Conn, *exec.Cmd, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "daemon"), os.NewFile(uintptr(pair[1]), "starter")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, err
	}
	env := slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, envNotify+"=") })
	env = append(env, envStarter+"="+strconv.Itoa(os.Getpid()))
	leader, err := spawn(args, env, theirs, &syscall.SysProcAttr{Setsid: true})
	if err != nil {
		conn.Close()
	}
	return conn, leader, err
}

// spawn starts this program once more, with a file as reportsTo.
func spawn(args, env []string, pair *os.File, attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Args, cmd.Env, cmd.Dir, cmd.SysProcAttr = args, env, "/", attr
	cmd.ExtraFiles = []*os.File{pair}
	return cmd, cmd.Start()
}

// awaitDaemon waits until the daemon has ended. The process leader started the daemon as a child of
// this one. Both are in the process group that has the leader's id. Other children are not.
func awaitDaemon(leader int) error {
	var status unix.WaitStatus
	_, err := unix.Wait4(-leader, &status, 0, nil)
	switch {
	case err != nil:
		return err
	case status.Signaled():
		return errors.New(status.Signal().String())
	case status.ExitStatus() != 0:
		return exit.Status(status.ExitStatus())
	}
	return nil
}

// keepFiles keeps the daemon from the files of this process beyond the standard ones. Otherwise a
// reader of a pipe would wait for as long as the daemon runs.
func keepFiles() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// awaitReady reads notifications until the daemon is ready. It returns the last status. The error
// is io.EOF when the daemon has ended.
func awaitReady(conn io.Reader) (status string, err error) {
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return status, err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			if line == "READY=1" {
				return status, nil
			}
			if s, ok := strings.CutPrefix(line, "STATUS="); ok {
				status = s
			}
		}
	}
}

// startError returns the error of a daemon that ended before it was ready. It has no standard error
// to complain on.
func startError(status string, err error) error {
	switch {
	case err == nil:
		return nil
	case status != "":
		return errors.New(screen.Printable(status))
	}
	return fmt.Errorf("daemon ended at once: %w", err)
}
