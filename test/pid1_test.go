package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// TestPID1 has epmd be PID 1 and inherit a process that ends. It reaps that one, ends on SIGTERM,
// and has nothing to say of the bus that isn't there.
func TestPID1(t *testing.T) {
	need.Root(t)
	need.Program(t, "nsenter")
	t.Parallel()
	d := &daemon{port: freePort(t), ended: make(chan struct{})}
	d.cmd = exec.Command(eclusBinary(t), "-address", "127.0.0.1", "-port", fmt.Sprint(d.port))
	d.cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent/bus")
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	need.Possible(t, d.cmd.Start())
	go func() {
		d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.ended
	})
	awaitEpmd(t, d.port, d.ended, &d.output)
	pid := d.cmd.Process.Pid
	// The shell ends before the process that it leaves behind.
	out, err := exec.CommandContext(t.Context(), "nsenter", "-t", fmt.Sprint(pid), "-p", "--",
		"sh", "-c", "sleep 0.3 >/dev/null 2>&1 & echo left").CombinedOutput()
	if err != nil || string(out) != "left\n" {
		t.Fatalf("%q, %v", out, err)
	}
	wait.Until(t, "no child is left", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		if err == nil && len(children) > 0 {
			err = fmt.Errorf("children %s", children)
		}
		return err
	})
	if status := d.stop(t, syscall.SIGTERM); status != 0 || strings.Contains(d.output.String(), "level=") {
		t.Errorf("exit status %d, output\n%s", status, &d.output)
	}
}
