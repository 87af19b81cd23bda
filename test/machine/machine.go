// Package machine brings up full hosts on one Linux machine, for end-to-end tests: systemd as PID
// 1, journald and all that belongs to them, in a container of systemd-nspawn on an overlay over the
// machine's own file system. Each is inside a light host of a virtual LAN of package lan, which
// gives it its network and takes it down.
//
//	m := machine.ForTest(t, nil, "hosta", machine.Options{})
//	err := m.InstallEpmd(ctx, "build/epmd", "systemd")
//	out, err := m.Output(ctx, "systemctl", "status", "epmd.socket")
//
// Nothing is started on a full host but what systemd brings, the system bus, and Avahi if it is
// asked for. What it writes is its own and gone with it. It ends when its network is closed, or
// when the program that made it has ended in whatever way, SIGKILL included.
//
// All methods may be called concurrently. Contexts bound waiting, and for commands their life.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/goerlang/eclus/test/lan"
)

//go:embed boot.sh
var bootScript string

// Options say how a host differs from the usual one, which is the zero value.
type Options struct {
	Avahi bool // avahi-daemon runs, and is up when the host is
	// Queue is how many messages systemd's sockets hold (net.unix.max_dgram_qlen). 0: as many as
	// systemd wants.
	Queue int
}

// Machine is a full host.
type Machine struct {
	// Link is the light host around it: its network namespace and its interfaces. Nothing runs
	// there.
	Link *lan.Host

	nspawn *lan.Process
	leader int // the container's PID 1, as it is known outside
}

// New boots a host on a network and returns when all its services are up. name becomes the host's
// name, without a domain.
func New(ctx context.Context, n *lan.Network, name string, opt Options) (*Machine, error) {
	h, err := n.AddHost(ctx, name, lan.HostOptions{NoBus: true})
	if err != nil {
		return nil, err
	}
	const script = "/run/boot.sh"
	if err := h.WriteFile(script, bootScript, 0o644); err != nil {
		return nil, err
	}
	m := &Machine{Link: h}
	m.nspawn, err = h.Start(context.WithoutCancel(ctx), "sh", script, name, h.Cgroup(), fmt.Sprint(opt.Queue))
	if err != nil {
		return nil, err
	}
	if err := m.awaitBoot(ctx, opt); err != nil {
		return nil, errors.Join(fmt.Errorf("boot %q, which wrote %q: %w", name, m.Console(), err), m.Close(ctx))
	}
	return m, nil
}

func (m *Machine) awaitBoot(ctx context.Context, opt Options) error {
	err := lan.Wait(ctx, "PID 1", func(context.Context) (running bool, err error) {
		select {
		case <-m.nspawn.Done():
			return false, errors.New("systemd-nspawn has ended")
		default:
			m.leader, err = leaderOf(m.nspawn.Pid())
			return m.leader != 0, err
		}
	})
	if err != nil {
		return err
	}
	// Until systemd listens, which nothing outside is told of, systemctl can't wait for it.
	err = lan.Wait(ctx, "systemd", func(context.Context) (bool, error) {
		_, err := os.Stat(m.Path("/run/systemd/private"))
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	if err := m.awaitRunning(ctx); err != nil || !opt.Avahi {
		return err
	}
	return m.startAvahi(ctx)
}

// leaderOf returns the process that is PID 1 of nspawn's container, or 0 if there is none yet.
func leaderOf(nspawn int) (int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nspawn))
	if err != nil {
		return 0, err
	}
	for field := range strings.FieldsSeq(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("children of %d: %w", nspawn, err)
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && string(comm) == "systemd\n" {
			return pid, nil
		}
	}
	return 0, nil
}

// awaitRunning waits for the end of the boot. A unit of the distribution that does not start in a
// container is none of ours.
func (m *Machine) awaitRunning(ctx context.Context) error {
	out, err := m.Command(ctx, "systemctl", "is-system-running", "--wait").CombinedOutput()
	state := string(bytes.TrimSpace(out))
	if state != "running" && state != "degraded" {
		return fmt.Errorf("is-system-running says %q: %w", state, err)
	}
	return nil
}

// startAvahi starts avahi-daemon and waits until its server state is RUNNING.
func (m *Machine) startAvahi(ctx context.Context) error {
	if _, err := m.Output(ctx, "systemctl", "start", "avahi-daemon.service"); err != nil {
		return err
	}
	return lan.Wait(ctx, "Avahi", func(ctx context.Context) (bool, error) {
		out, err := m.Output(ctx, "busctl", "call", "org.freedesktop.Avahi", "/", "org.freedesktop.Avahi.Server", "GetState")
		return strings.TrimSpace(out) == "i 2", err
	})
}

// Close ends the container, without shutting it down in good order. Its network stays, and what
// else is left of it goes with the network.
func (m *Machine) Close(ctx context.Context) error { return m.nspawn.Kill(ctx) }

// Console returns what systemd and its units have written to the console so far.
func (m *Machine) Console() string { return m.nspawn.Output() }

// Leader returns the process that is PID 1 on the host, by its number outside.
func (m *Machine) Leader() int { return m.leader }

// NetNS returns the file of the host's network namespace, for setns(2). It is there until the
// network is closed.
func (m *Machine) NetNS() string { return m.Link.NetNS() }

// Path returns where the host's file path is found from outside. Absolute symbolic links on the way
// lead to the machine's own files.
func (m *Machine) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.leader), path)
}

// Command prepares a command on the host. The caller may add to its small environment (PATH, HOME,
// LANG). It starts in /root, as root, in a session of its own. It is killed when ctx ends or the
// host does. The caller starts it and waits for it, as for any exec.Cmd. It is in no cgroup of the
// host. systemd-run starts what is to be looked at or killed as a service.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// The command is a child of nsenter, which a process needs to enter a pid namespace. In a
	// process group that is shared with something outside, "kill 0" would end more than there is
	// inside.
	enter := []string{"-t", fmt.Sprint(m.leader), "-a", "--wd=" + m.Path("/root"), "--",
		"setpriv", "--pdeathsig", "KILL", "setsid", "-w", name}
	cmd := m.Link.Command(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = append(cmd.Env, "HOME=/root")
	return cmd
}

// Output runs a command on the host to its end and returns its standard output. The error of one
// that fails tells what it wrote to standard error.
func (m *Machine) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := m.Command(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s %q: %s: %w", m.Link.Name(), name, args, bytes.TrimSpace(stderr.Bytes()), err)
	}
	return string(out), nil
}

// WriteFile makes path a file with that content, in a folder that is made if need be. A rename
// replaces what was there, as a package manager does it. A program that runs from it goes on.
func (m *Machine) WriteFile(path string, content []byte, mode os.FileMode) error {
	outside := m.Path(path)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(outside+".new", content, mode); err != nil {
		return err
	}
	return os.Rename(outside+".new", outside)
}

// CopyFile is WriteFile with the content of a file of the machine.
func (m *Machine) CopyFile(path, from string, mode os.FileMode) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return m.WriteFile(path, content, mode)
}
