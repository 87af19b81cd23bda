package bus

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses between tries to connect to a bus whose socket is there but doesn't answer.
const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// Await calls connect until it succeeds or ctx ends. It hands each failure to report.
//
// While no socket is there, Await sleeps until somebody makes one. A socket that doesn't answer
// may do so soon, or may be left over from a bus that has gone. Await tries it with pauses of 20 ms
// to 2 s, and then only when another socket is made. An abstract name can't be watched. Await tries
// it every 2 s for ever.
func (a Address) Await(ctx context.Context, connect func() error, report func(error)) error {
	for pause := firstRetry; ; pause = min(2*pause, 2*lastRetry) {
		watch := watchAbove(a.sockets) // before trying, so that nothing is missed
		err := connect()
		if err == nil || ctx.Err() != nil {
			watch.close()
			return err
		}
		report(err)
		deadline := time.Now().Add(min(pause, lastRetry))
		if watch != nil && (a.absent() || pause > lastRetry) {
			deadline = time.Time{}
		}
		err = watch.wait(ctx, deadline)
		watch.close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			pause = firstRetry / 2
		}
	}
}

// absent reports whether none of the sockets exists.
func (a Address) absent() bool {
	return !slices.ContainsFunc(a.sockets, func(socket string) bool {
		_, err := os.Stat(socket)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// folderWatch reports by inotify when a folder gets a new entry or goes. A nil one never does.
type folderWatch struct{ *os.File }

// watchAbove watches the nearest existing folder above each socket. It returns nil if one can't be
// watched, such as an abstract name.
func watchAbove(sockets []string) *folderWatch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &folderWatch{os.NewFile(uintptr(fd), "inotify")}
	for _, socket := range sockets {
		if !addFolder(fd, socket) {
			w.close()
			return nil
		}
	}
	return w
}

// addFolder adds the nearest existing folder above a socket, and reports whether it could.
func addFolder(inotify int, socket string) bool {
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if !filepath.IsAbs(socket) {
		return false
	}
	for dir, missing := filepath.Dir(socket), ""; ; dir, missing = filepath.Dir(dir), dir {
		_, err := unix.InotifyAddWatch(inotify, dir, events)
		if err == nil {
			if _, err := os.Stat(missing); err == nil { // made before the watch could see that
				return addFolder(inotify, socket)
			}
			return true
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return false
		}
	}
}

func (w *folderWatch) close() {
	if w != nil {
		w.Close()
	}
}

// wait returns nil when something has happened in a folder. It returns an error at the deadline or
// when ctx ends. A zero deadline is none.
func (w *folderWatch) wait(ctx context.Context, deadline time.Time) error {
	if w == nil {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(deadline)):
		}
		return os.ErrDeadlineExceeded
	}
	if err := w.SetReadDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { w.SetReadDeadline(time.Unix(1, 0)) })()
	var events [4096]byte
	_, err := w.Read(events[:])
	return err
}
