package lan

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

//go:embed anchor.sh
var anchorScript string

// ErrClosed is what running something on a closed Network or Host returns.
var ErrClosed = errors.New("virtual LAN closed")

// namespaces set a host or a bridge apart from the machine. They are unnamed network, mount and UTS
// namespaces of its own.
const namespaces = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS

// anchor is a process that keeps a set of namespaces alive. Nothing else does: they have no name
// and no file. So they are gone, with their interfaces and mounts, once the anchor and all that ran
// in them have ended. See anchor.sh for how it ends.
type anchor struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer // to be read after cmd.Wait
	closed atomic.Bool
}

// newAnchor starts an anchor in new namespaces. It takes no context. One that ended would kill the
// anchor before the anchor has killed the others.
func newAnchor() (*anchor, error) {
	a := &anchor{cmd: exec.Command("sh", "-c", anchorScript)}
	a.cmd.Stderr = &a.stderr
	// A session of its own keeps the terminal's Ctrl-C away.
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: namespaces, Setsid: true}
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("create namespaces: %w", err)
	}
	a.stdin = stdin
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("create namespaces: %w", errors.Join(err, a.wait()))
	}
	return a, nil
}

func (a *anchor) pid() int { return a.cmd.Process.Pid }

// command prepares a command inside the namespaces. The process has the pid that cmd.Process tells:
// nsenter turns into the command, it does not fork.
func (a *anchor) command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", fmt.Sprint(a.pid()), "-m", "-u", "-n", "--wdns=" + dir, "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LC_ALL=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second // for output pipes that a grandchild holds open
	if a.closed.Load() {
		cmd.Err = ErrClosed // the pid may by now be a stranger's
	}
	return cmd
}

// ip runs the lines of batch, each the arguments of an ip(8) command, inside the namespaces.
func (a *anchor) ip(ctx context.Context, batch string) error {
	cmd := a.command(ctx, "/", "ip", "-batch", "-")
	cmd.WaitDelay = 0 // ip leaves nothing behind
	cmd.Stdin = strings.NewReader(batch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %q: %s: %w", batch, bytes.TrimSpace(out), err)
	}
	return nil
}

// release lets the anchor kill what is in its namespaces and end; wait waits for that.
func (a *anchor) release() {
	if !a.closed.Swap(true) {
		a.stdin.Close()
	}
}

// wait releases the anchor and returns when it and all that was in its namespaces have ended. It is
// to be called once.
func (a *anchor) wait() error {
	a.release()
	if err := a.cmd.Wait(); err != nil {
		return fmt.Errorf("anchor %d: %s: %w", a.pid(), bytes.TrimSpace(a.stderr.Bytes()), err)
	}
	return nil
}
