package lan

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Check returns nil if this package can work here. Otherwise its error names everything that is
// missing. That may be root, tools, or a kernel that lets us have namespaces, bridges and veth
// pairs. Tools are its own, and those that the caller means to run on hosts.
func Check(tools ...string) error {
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, errors.New("not root"))
	}
	own := []string{"ip", "nsenter", "mount", "hostname", "dbus-daemon", "avahi-daemon"}
	for _, tool := range append(own, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == 0 {
		missing = append(missing, checkKernel())
	}
	return errors.Join(missing...)
}

// checkKernel makes what a network is made of, in namespaces that are gone when it returns.
func checkKernel() error {
	const script = "mount -t tmpfs tmpfs /run && ip link add br0 type bridge && ip link add veth0 type veth peer name veth1"
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: namespaces}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make namespaces, a bridge and a veth pair: %s: %w", bytes.TrimSpace(out), err)
	}
	return nil
}

// TB is what this package needs of a testing.TB. It spares programs that are no tests package
// testing.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Need skips the test if [Check] finds something missing; with CI=true in the environment the test
// fails instead. go test -short skips all.
func Need(t TB, tools ...string) {
	t.Helper()
	if short := flag.Lookup("test.short"); short != nil && short.Value.String() == "true" {
		t.Skipf("not in a short run")
	}
	err := Check(tools...)
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("virtual LAN: %v", err)
	default:
		t.Skipf("virtual LAN: %v", err)
	}
}

// ForTest returns a network on DefaultSubnet that is closed when the test ends. If the test has
// failed, what the processes of its hosts wrote is logged. tools are as for Need.
func ForTest(t TB, tools ...string) *Network {
	t.Helper()
	Need(t, tools...)
	n, err := New(t.Context(), DefaultSubnet)
	if err != nil {
		t.Fatalf("virtual LAN: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			n.logOutput(t)
		}
		if err := n.Close(); err != nil {
			t.Errorf("close virtual LAN: %v", err)
		}
	})
	return n
}

func (n *Network) logOutput(t TB) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.hosts {
		h.mu.Lock()
		for _, p := range h.processes {
			t.Logf("%s: %q wrote:\n%s", h.name, p.argv, p.Output())
		}
		h.mu.Unlock()
	}
}
