package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// program is an epmd that can be started.
type program struct {
	name  string
	path  string
	args  []string // beside address and port
	eager bool     // its clients are
}

// daemon is a running program.
type daemon struct {
	*client
	name string
	port int
	cmd  *exec.Cmd
}

// startTimeout is how long a daemon may take until it answers.
const startTimeout = 10 * time.Second

// start starts a program on that core (-1: any) and returns when it answers. files limits its open
// files (0: as this process's).
func (p program) start(cpu, files int) (*daemon, error) {
	d, err := p.exec(cpu, files)
	if err != nil {
		return nil, err
	}
	if err := d.awaitAnswer(); err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

// exec starts a program and does not wait.
func (p program) exec(cpu, files int) (*daemon, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	argv := append([]string{p.path, "-address", "127.0.0.1", "-port", strconv.Itoa(port)}, p.args...)
	if files > 0 {
		argv = append([]string{"prlimit", fmt.Sprintf("--nofile=%d:%d", files, files)}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	err = onCore(cpu, cmd.Start)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.path, err)
	}
	return &daemon{newClient(port, p.eager), p.name, port, cmd}, nil
}

// freePort returns a port that nothing listens on and that outgoing connections don't use. Tests,
// which may run beside, have those from 10000 to 29999.
func freePort() (int, error) {
	for range 100 {
		port := 30000 + rand.IntN(2500)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("open socket: %w", err)
		}
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
		unix.Close(fd)
		if err == nil {
			return port, nil
		}
	}
	return 0, errors.New("no free port found")
}

// awaitAnswer returns when the daemon has answered. Nothing tells when it begins to listen, so it
// is tried every 50 us.
func (d *daemon) awaitAnswer() error {
	pause := unix.NsecToTimespec(50_000)
	for begin := time.Now(); time.Since(begin) < startTimeout; {
		if d.exchange(namesRequest) == nil {
			return nil
		}
		unix.Nanosleep(&pause, nil)
	}
	return fmt.Errorf("%s does not answer on port %d after %v", d.name, d.port, startTimeout)
}

func (d *daemon) stop() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

// cpuTime returns how much processor time the daemon has used, all threads together, to the
// nanosecond. It reads the kernel's CPU-time clock of the process.
func (d *daemon) cpuTime() (time.Duration, error) {
	clock := int32(^d.cmd.Process.Pid)<<3 | 2 // as clock_getcpuclockid(3) has it
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", d.name, err)
	}
	return time.Duration(ts.Nano()), nil
}

// anonymousMB returns the daemon's anonymous memory that is resident (RssAnon). Pages of the
// program file belong to the page cache. All processes share them, and the kernel takes them back
// at need.
func (d *daemon) anonymousMB() (float64, error) {
	kb, err := statusField(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid), "RssAnon:")
	return float64(kb) / 1024, err
}

// switches returns how often the kernel has switched away from threads of the daemon. A thread was
// woken or interrupted each time.
func (d *daemon) switches() (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", d.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("threads of %s: none found", d.name)
	}
	sum := 0
	for _, path := range tasks {
		for _, field := range []string{"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"} {
			n, err := statusField(path, field)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// statusField returns a number from a file of the form of /proc/PID/status.
func statusField(path, field string) (int, error) {
	status, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(status) {
		if rest, ok := strings.CutPrefix(string(line), field); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}

// onCore calls f on a thread that is bound to one core. So are processes that f starts.
func onCore(cpu int, f func() error) error {
	if cpu < 0 {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("affinity: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("bind to core %d: %w", cpu, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return f()
}

// filesToGive returns the limit on open files for a daemon. This process holds a connection for
// each of those files, so the limit is its own, less some.
func filesToGive() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	return int(min(limit.Cur, 20_500)) - 500, nil
}
