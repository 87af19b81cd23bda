package machine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

func TestBoot(t *testing.T) {
	machine.Need(t)
	n := lan.ForTest(t)
	begin := time.Now()
	m := machine.ForTest(t, n, "hosta", machine.Options{Avahi: true})
	t.Logf("up after %v", time.Since(begin))
	for _, tt := range []struct{ command, want string }{
		{"hostname", "hosta"},
		{"cat /proc/1/comm", "systemd"},
		{"systemctl is-system-running", "running"},
		{"systemctl is-active avahi-daemon", "active"},
		{"stat -f -c %T /sys/fs/cgroup", "cgroup2fs"},
		{"pwd", "/root"},
	} {
		argv := strings.Fields(tt.command)
		got, err := m.Output(wait.Soon(t), argv[0], argv[1:]...)
		if err != nil || strings.TrimSpace(got) != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.command, got, err, tt.want)
		}
	}
	neighbour, err := n.AddHost(wait.Soon(t), "hostb", lan.HostOptions{})
	wait.Must(t, err)
	out, err := neighbour.Output(wait.Soon(t), "avahi-resolve", "-4n", "hosta.local")
	if _, address, _ := strings.Cut(strings.TrimSpace(out), "\t"); err != nil || address != m.Link.Address().String() {
		t.Errorf("the neighbour resolves hosta.local to %q, %v; want %v", out, err, m.Link.Address())
	}
}

func TestFiles(t *testing.T) {
	m := machine.ForTest(t, nil, "hosta", machine.Options{})
	wait.Must(t, m.WriteFile("/etc/new/folder/file", []byte("content"), 0o640))
	got, err := m.Output(wait.Soon(t), "cat", "/etc/new/folder/file")
	if err != nil || got != "content" {
		t.Errorf("on the host the file has %q, %v", got, err)
	}
	if _, err := os.Stat("/etc/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on the machine: %v, want %v", err, os.ErrNotExist)
	}
}

func TestUnits(t *testing.T) {
	m := machine.ForTest(t, nil, "hosta", machine.Options{}, "systemd-run")
	_, err := m.Output(wait.Soon(t), "systemd-run", "--unit=sleeper", "sleep", "infinity")
	wait.Must(t, err)
	pid, err := m.MainPID(wait.Soon(t), "sleeper.service")
	wait.Must(t, err)
	wait.Until(t, "sleep in the place of what systemd starts it by", func() error {
		comm, err := os.ReadFile(m.Path(fmt.Sprintf("/proc/%d/comm", pid)))
		if err == nil && string(comm) != "sleep\n" {
			err = fmt.Errorf("process %d is %q", pid, comm)
		}
		return err
	})
	_, err = m.Output(wait.Soon(t), "systemctl", "stop", "sleeper")
	wait.Must(t, err)
	if pid, err := m.MainPID(wait.Soon(t), "sleeper.service"); !errors.Is(err, machine.ErrNotRunning) {
		t.Errorf("process of a unit that was stopped: %d, %v; want %v", pid, err, machine.ErrNotRunning)
	}
}

// TestCommandEnds has a command that its context ends, and with it the process on the host.
func TestCommandEnds(t *testing.T) {
	m := machine.ForTest(t, nil, "hosta", machine.Options{})
	ctx, cancel := context.WithCancel(wait.Soon(t))
	cmd := m.Command(ctx, "sh", "-c", "echo $$; exec sleep infinity")
	stdout, err := cmd.StdoutPipe()
	wait.Must(t, err)
	wait.Must(t, cmd.Start())
	pid, err := bufio.NewReader(stdout).ReadString('\n')
	wait.Must(t, err)
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("the command has succeeded")
	}
	wait.Must(t, lan.Wait(wait.Soon(t), "process "+pid+" to go", func(context.Context) (bool, error) {
		_, err := os.Stat(m.Path("/proc/" + strings.TrimSpace(pid)))
		return errors.Is(err, os.ErrNotExist), nil
	}))
}

// TestKilled has a program make a host and die, and looks at what is left of it.
func TestKilled(t *testing.T) {
	machine.Need(t)
	cmd := exec.CommandContext(wait.Soon(t), os.Args[0])
	cmd.Env = append(os.Environ(), victim+"=1")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	wait.Must(t, err)
	wait.Must(t, cmd.Start())
	var cgroup string
	var leader int
	if _, err := fmt.Fscanln(stdout, &cgroup, &leader); err != nil {
		t.Fatalf("victim: %v", err)
	}
	if left := cgroups(t, cgroup); len(left) == 0 {
		t.Errorf("no cgroup %s while the host is there", cgroup)
	}
	wait.Must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("victim ended before it was killed")
	}
	wait.Must(t, lan.Wait(wait.Soon(t), "host to go", func(context.Context) (bool, error) {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", leader))
		return errors.Is(err, os.ErrNotExist) && len(cgroups(t, cgroup)) == 0, nil
	}))
}

// cgroups returns the folders of that name in all hierarchies.
func cgroups(t *testing.T, name string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(pattern, name))
		wait.Must(t, err)
		all = append(all, found...)
	}
	return all
}

// victim is the environment variable that makes this program TestKilled's victim.
const victim = "MACHINE_TEST_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victim) == "" {
		os.Exit(m.Run())
	}
	if err := waitForDeath(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// waitForDeath makes a host, tells its cgroup and its PID 1, and waits.
func waitForDeath() error {
	n, err := lan.New(context.Background(), lan.DefaultSubnet)
	if err != nil {
		return err
	}
	m, err := machine.New(context.Background(), n, "hosta", machine.Options{})
	if err != nil {
		return err
	}
	fmt.Println(m.Link.Cgroup(), m.Leader())
	select {}
}
