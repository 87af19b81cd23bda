package machine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrNotRunning is what asking for the process of a unit that has none returns.
var ErrNotRunning = errors.New("unit has no process")

// installed is where files of a folder of units go, by patterns for their names.
var installed = map[string]string{
	"*.service":       "/etc/systemd/system",
	"*.socket":        "/etc/systemd/system",
	"*.catalog":       "/usr/lib/systemd/catalog",
	"sysusers/*.conf": "/usr/lib/sysusers.d",
}

// InstallEpmd puts a binary at /usr/bin/epmd and starts epmd.socket. The units in folder units take
// the place of the distribution's.
func (m *Machine) InstallEpmd(ctx context.Context, binary, units string) error {
	if err := m.CopyFile("/usr/bin/epmd", binary, 0o755); err != nil {
		return err
	}
	for pattern, to := range installed {
		files, err := filepath.Glob(filepath.Join(units, pattern))
		if err != nil {
			return err
		}
		for _, from := range files {
			if err := m.CopyFile(filepath.Join(to, filepath.Base(from)), from, 0o644); err != nil {
				return err
			}
		}
	}
	for _, command := range []string{
		"systemd-sysusers",
		"journalctl --update-catalog",
		"systemctl daemon-reload",
		"systemctl enable --now --quiet epmd.socket",
	} {
		argv := strings.Fields(command)
		if _, err := m.Output(ctx, argv[0], argv[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// Show returns a property of a unit.
func (m *Machine) Show(ctx context.Context, unit, property string) (string, error) {
	out, err := m.Output(ctx, "systemctl", "show", "-P", property, unit)
	return strings.TrimSuffix(out, "\n"), err
}

// MainPID returns the main process of a service, by its number on the host. It is an error if there
// is none, for which systemd says 0.
func (m *Machine) MainPID(ctx context.Context, unit string) (int, error) {
	out, err := m.Show(ctx, unit, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(out)
	if err != nil {
		return 0, fmt.Errorf("main process of %s: %w", unit, err)
	}
	if pid <= 0 {
		return 0, fmt.Errorf("main process of %s: %w", unit, ErrNotRunning)
	}
	return pid, nil
}

// Signal sends a signal to the main process of a service.
func (m *Machine) Signal(ctx context.Context, unit string, sig syscall.Signal) error {
	pid, err := m.MainPID(ctx, unit)
	if err != nil {
		return err
	}
	_, err = m.Output(ctx, "kill", fmt.Sprintf("-%d", sig), strconv.Itoa(pid))
	return err
}

// Journal returns what journalctl prints with args, after all that was logged so far has been taken
// in.
func (m *Machine) Journal(ctx context.Context, args ...string) (string, error) {
	if _, err := m.Output(ctx, "journalctl", "--sync"); err != nil {
		return "", err
	}
	return m.Output(ctx, "journalctl", append([]string{"--no-pager"}, args...)...)
}
