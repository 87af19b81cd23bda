// Package detach starts a daemon.
//
// A daemon is this program started once more. It lacks the terminal, the working directory, the
// umask and the open files of the first process. That ends when the daemon listens. The daemon
// reports to the first process as to a service manager, by a NOTIFY_SOCKET. The socket's name holds
// the process id of the first. By this the daemon knows its task. The arguments stay the same, so
// ps lists the daemon as epmd -daemon.
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
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/epmd"
)

const (
	envNotify    = "NOTIFY_SOCKET"
	endedLine    = "ENDED=1"       // is notified by this process when the daemon has ended
	daemonSocket = "@epmd-daemon-" // an abstract socket; the process id follows
)

// startTime is how long a daemon is given to listen; it takes milliseconds.
const startTime = 10 * time.Second

// Detach starts the daemon, and returns when it listens. If this process is the daemon that another
// has started, isDaemon is true, and nothing is done. args are those of the process, which the
// daemon has too.
func Detach(ctx context.Context, port uint16, args []string, getenv func(string) (string, bool)) (isDaemon bool, err error) {
	switch socket, _ := getenv(envNotify); {
	case !strings.HasPrefix(socket, daemonPrefix(os.Getppid())):
		return false, start(ctx, port, args)
	case leadsSession():
		_, err := spawn(args, os.Environ(), &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT})
		return false, err
	}
	return true, nil
}

// leadsSession reports whether this process leads its session.
func leadsSession() bool {
	sid, err := unix.Getsid(0)
	return err == nil && sid == os.Getpid()
}

func daemonPrefix(pid int) string { return daemonSocket + strconv.Itoa(pid) + "-" }

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
	socket := daemonPrefix(os.Getpid()) + rand.Text()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer conn.Close()
	if err := keepFiles(); err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	unix.Umask(0)
	leader, err := spawn(args, append(os.Environ(), envNotify+"="+socket), &syscall.SysProcAttr{Setsid: true})
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmp.Or(leader.Wait(), awaitDaemon(leader.Process.Pid))
		conn.WriteTo([]byte(endedLine), conn.LocalAddr()) // after all that the daemon has notified
	}()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	said, err := awaitReady(conn)
	if err == nil {
		return nil
	}
	select {
	case err := <-ended:
		return startError(said, err)
	case <-ctx.Done():
		return fmt.Errorf("start daemon: does not listen yet: %w", ctx.Err())
	}
}

// spawn starts this program once more.
func spawn(args, env []string, attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Args, cmd.Env, cmd.Dir, cmd.SysProcAttr = args, env, "/", attr
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
func awaitReady(conn *net.UnixConn) (status string, err error) {
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return status, err
		}
		for line := range strings.SplitSeq(string(buf[:n]), "\n") {
			switch line {
			case "READY=1":
				return status, nil
			case endedLine:
				return status, io.EOF
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
		return errors.New(status)
	}
	return fmt.Errorf("daemon ended at once: %w", err)
}
