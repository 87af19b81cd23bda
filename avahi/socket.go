package avahi

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// defaultBus is where the D-Bus specification has the system bus.
const defaultBus = "unix:path=/var/run/dbus/system_bus_socket"

// busAddress returns the address of the system bus: the one given, that of the environment or the
// well-known one.
func busAddress(given string) string {
	if given != "" {
		return given
	}
	if env := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); env != "" {
		return env
	}
	return defaultBus
}

// socketPath returns the file name of the socket in a bus address, or "" if it has none (or several).
func socketPath(address string) string {
	path, found := strings.CutPrefix(address, "unix:path=")
	if !found || strings.ContainsAny(path, ",;%") {
		return ""
	}
	return path
}

// Pauses between tries to connect to a bus whose socket is there but doesn't answer.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// dialWhenThere connects to the bus as soon as it is there. Each failure is told to report.
//
// Without a socket it waits for one to be made, however long that takes and without waking up. A
// socket that doesn't answer may be about to, or left over from a bus that has gone: it is tried with growing pauses, and
// after those only when another is made. An address that can't be watched is tried for ever.
func dialWhenThere(ctx context.Context, address string, connect func() (*client, error), report func(error)) (*client, error) {
	path := socketPath(address)
	for pause := firstRetry; ; {
		watch := watchAbove(path) // before trying, so that nothing is missed
		c, err := connect()
		if err == nil || ctx.Err() != nil {
			watch.close()
			return c, err
		}
		report(err)
		if watch != nil && (errors.Is(err, fs.ErrNotExist) || pause > lastRetry) {
			err = watch.wait(ctx, time.Time{})
		} else {
			err = watch.wait(ctx, time.Now().Add(min(pause, lastRetry)))
		}
		watch.close()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil:
			pause = firstRetry
		default:
			pause *= 2
		}
	}
}

// folderWatch tells by inotify when something comes into being in a folder or the folder goes. A nil
// one never tells.
type folderWatch struct{ f *os.File }

// watchAbove watches the nearest folder above path that exists. It returns nil if there is no path or no watching it.
func watchAbove(path string) *folderWatch {
	if path == "" {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &folderWatch{os.NewFile(uintptr(fd), "inotify")}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		_, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
		if err == nil {
			return w
		}
		if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
			w.close()
			return nil
		}
	}
}

func (w *folderWatch) close() {
	if w != nil {
		w.f.Close()
	}
}

// wait returns nil when something has happened in the folder, else an error at the deadline (none if zero) or
// when ctx ends.
func (w *folderWatch) wait(ctx context.Context, deadline time.Time) error {
	if w == nil {
		return sleepUntil(ctx, deadline)
	}
	if err := w.f.SetReadDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { w.f.SetReadDeadline(time.Unix(1, 0)) })()
	var events [4096]byte
	_, err := w.f.Read(events[:])
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
