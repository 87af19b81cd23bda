package machine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// ErrNotRunning is what asking for the process of a unit that has none returns.
var ErrNotRunning = errors.New("unit has no process")

// installed is where files of a folder of units go, by patterns for their names.
var installed = map[string]string{
	"*.service":       "/etc/systemd/system",
	"*.socket":        "/etc/systemd/system",
	"*.catalog":       "/usr/lib/systemd/catalog",
	"sysusers/*.conf": "/usr/lib/sysusers.d",
	"tmpfiles/*.conf": "/usr/lib/tmpfiles.d",
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
		"systemd-tmpfiles --create eclus.conf",
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

// manager connects to the host's systemd by its system bus. To start a process on the host takes
// many times as long. Systemd's own socket is for processes on the host.
func (m *Machine) manager(ctx context.Context) (*dbus.Conn, error) {
	return dbus.NewConnection(func() (*godbus.Conn, error) {
		conn, err := godbus.Dial("unix:path="+m.Path("/run/dbus/system_bus_socket"), godbus.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if err := errors.Join(conn.Auth([]godbus.Auth{godbus.AuthExternal("0")}), conn.Hello()); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	})
}

// Show returns a property of a unit, as systemctl show does.
func (m *Machine) Show(ctx context.Context, unit, property string) (string, error) {
	manager, err := m.manager(ctx)
	if err != nil {
		return "", err
	}
	defer manager.Close()
	p, err := manager.GetUnitPropertyContext(ctx, unit, property)
	if err != nil {
		p, err = manager.GetServicePropertyContext(ctx, unit, property)
	}
	if err != nil {
		return "", fmt.Errorf("%s of %s: %w", property, unit, err)
	}
	if id, ok := p.Value.Value().([]byte); ok {
		return hex.EncodeToString(id), nil
	}
	return fmt.Sprint(p.Value.Value()), nil
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
	manager, err := m.manager(ctx)
	if err != nil {
		return err
	}
	defer manager.Close()
	return manager.KillUnitWithTarget(ctx, unit, dbus.Main, int32(sig))
}

// Journal returns what journalctl prints with args, after all that was logged so far has been taken
// in.
func (m *Machine) Journal(ctx context.Context, args ...string) (string, error) {
	if _, err := m.Output(ctx, "journalctl", "--sync"); err != nil {
		return "", err
	}
	return m.Output(ctx, "journalctl", append([]string{"--no-pager"}, args...)...)
}
