package machine

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/goerlang/eclus/test/lan"
)

//go:embed check.sh
var checkScript string

// Check returns nil if this package can work here. Otherwise its error names what is missing. That
// may be what package lan needs, tools, or a kernel that lets us have overlays and cgroups. Tools
// are its own, and those that the caller means to run.
func Check(tools ...string) error {
	own := []string{"systemd-nspawn", "systemctl", "busctl", "setpriv", "setsid", "find", "xargs"}
	if err := lan.Check(append(own, tools...)...); err != nil {
		return err
	}
	cmd := exec.Command("sh", "-c", checkScript)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("overlay and cgroups: %s: %w", bytes.TrimSpace(out), err)
	}
	return nil
}

// Need skips the test if [Check] finds something missing; with CI=true in the environment the test
// fails instead.
func Need(t lan.TB, tools ...string) {
	t.Helper()
	lan.Need(t, tools...)
	err := Check(tools...)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("full host: %v", err)
	default:
		t.Skipf("full host: %v", err)
	}
}

// bootLimit is how long a host may take to boot, on however busy a machine.
const bootLimit = 3 * time.Minute

// ForTest returns a host on a network. A nil network stands for one of its own, which is gone when
// the test ends. If the test has failed, the journal is logged. tools are as for Need.
func ForTest(t lan.TB, n *lan.Network, name string, opt Options, tools ...string) *Machine {
	t.Helper()
	Need(t, tools...)
	if n == nil {
		n = lan.ForTest(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	m, err := New(ctx, n, name, opt)
	if err != nil {
		t.Fatalf("full host: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.log(t)
		}
	})
	return m
}

// log logs what there is to see of a host on which a test has failed.
func (m *Machine) log(t lan.TB) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bootLimit)
	defer cancel()
	journal, err := m.Journal(ctx, "-b")
	t.Logf("journal of %s (%v):\n%s", m.Link.Name(), err, journal)
}
