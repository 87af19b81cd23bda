package dbus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bus says where a message bus is. The zero Bus is none.
type Bus struct {
	name    string
	sockets []string // as package net names them: a path, or @ and an abstract name
	err     error    // why there are none, though the environment has an address
}

// ParseBus parses
//
//	system     the system bus: DBUS_SYSTEM_BUS_ADDRESS, or else the well-known address
//	session    the session bus: DBUS_SESSION_BUS_ADDRESS, or else "bus" in XDG_RUNTIME_DIR
//	ADDRESS    a D-Bus address of Unix sockets: unix:path=/run/bus, unix:abstract=name, several separated by semicolons
//
// A bus is never started. What the environment says that can't be used is no error here, but a Service can't run there.
func ParseBus(s string) (Bus, error) {
	switch s {
	case "system":
		sockets, err := parseAddresses(systemAddress())
		return Bus{s, sockets, err}, nil
	case "session":
		sockets, err := parseAddresses(sessionAddress())
		return Bus{s, sockets, err}, nil
	}
	sockets, err := parseAddresses(s)
	if err != nil {
		return Bus{}, err
	}
	return Bus{name: s, sockets: sockets}, nil
}

// String returns what ParseBus parsed.
func (b Bus) String() string { return b.name }

// IsZero tells whether there is no bus.
func (b Bus) IsZero() bool { return b.name == "" }

func systemAddress() string {
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		return address
	}
	return "unix:path=/run/dbus/system_bus_socket"
}

func sessionAddress() string {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" {
		return address
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = fmt.Sprintf("/run/user/%d", os.Getuid())
	}
	return "unix:path=" + url.PathEscape(dir+"/bus")
}

// parseAddresses returns the sockets of a list of addresses.
func parseAddresses(list string) ([]string, error) {
	var sockets []string
	for address := range strings.SplitSeq(strings.TrimSuffix(list, ";"), ";") {
		socket, err := parseAddress(address)
		if err != nil {
			return nil, fmt.Errorf("bus address %q: %w", address, err)
		}
		sockets = append(sockets, socket)
	}
	return sockets, nil
}

// parseAddress returns the socket of one address, such as unix:path=/run/bus,guid=0123.
func parseAddress(address string) (string, error) {
	pairs, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return "", errors.New("no Unix socket")
	}
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		switch {
		case err != nil:
			return "", err
		case key == "path" && filepath.IsAbs(value):
			return value, nil
		case key == "abstract" && value != "":
			return "@" + value, nil
		}
	}
	return "", errors.New("neither path nor abstract name of a socket")
}

// dial connects to the first socket that takes connections.
func (b Bus) dial(ctx context.Context) (net.Conn, error) {
	var errs []error
	for _, socket := range b.sockets {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialWhenThere connects to the bus as soon as it is there. Each failure is told to report.
//
// It waits for a socket to be made, however long that takes, without waking up. A socket that takes no connections
// may be about to, or left over from a bus that has gone: it is tried with growing pauses, and after those only when another is
// made. One with an abstract name, whose making nobody is told of, is tried for ever.
func (b Bus) dialWhenThere(ctx context.Context, report func(error)) (net.Conn, error) {
	for pause := firstRetry; ; pause *= 2 {
		watch := watchAbove(b.sockets[0]) // before trying, so that nothing is missed
		conn, err := b.dial(ctx)
		if err == nil || ctx.Err() != nil {
			watch.close()
			return conn, err
		}
		report(err)
		deadline := time.Now().Add(min(pause, lastRetry))
		if watch != nil && (errors.Is(err, fs.ErrNotExist) || pause > lastRetry) {
			deadline = time.Time{}
		}
		err = watch.wait(ctx, deadline)
		watch.close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			pause = firstRetry / 2
		}
	}
}

// folderWatch tells by inotify when something comes into being in a folder, or the folder goes. A nil one never tells.
type folderWatch struct{ *os.File }

// watchAbove watches the nearest folder above a socket that exists. It returns nil for an abstract name.
func watchAbove(socket string) *folderWatch {
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if !filepath.IsAbs(socket) {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &folderWatch{os.NewFile(uintptr(fd), "inotify")}
	for dir := filepath.Dir(socket); ; dir = filepath.Dir(dir) {
		_, err := unix.InotifyAddWatch(fd, dir, events)
		if err == nil {
			return w
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			w.close()
			return nil
		}
	}
}

func (w *folderWatch) close() {
	if w != nil {
		w.Close()
	}
}

// wait returns nil when something has happened in the folder, or an error at the deadline, unless that is zero, or when ctx
// ends.
func (w *folderWatch) wait(ctx context.Context, deadline time.Time) error {
	if w == nil {
		return sleepUntil(ctx, deadline)
	}
	if err := w.SetReadDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { w.SetReadDeadline(time.Unix(1, 0)) })()
	var events [4096]byte
	_, err := w.Read(events[:])
	return err
}

// sleepUntil returns os.ErrDeadlineExceeded at the deadline, or ctx's error when ctx ends before.
func sleepUntil(ctx context.Context, deadline time.Time) error {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return os.ErrDeadlineExceeded
	}
}
