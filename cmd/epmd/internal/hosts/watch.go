package hosts

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// fileWatch tells by inotify(7) when a file comes, goes, is replaced or is written to. It runs
// one goroutine until close. A nil one never tells.
type fileWatch struct {
	inotify *os.File
	fd      int
	event   chan struct{} // holds one token after a change
	reading sync.WaitGroup

	mu    sync.Mutex
	names []string // last elements of the paths that are followed
}

const (
	folderEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	fileEvents   = unix.IN_CLOSE_WRITE | unix.IN_DONT_FOLLOW
)

func newFileWatch() (*fileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w := &fileWatch{inotify: os.NewFile(uintptr(fd), "inotify"), fd: fd, event: make(chan struct{}, 1)}
	w.reading.Go(w.read)
	return w, nil
}

// changed returns a channel that yields after one or several changes.
func (w *fileWatch) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.event
}

func (w *fileWatch) close() {
	if w != nil {
		w.inotify.Close()
		w.reading.Wait()
	}
}

// follow watches the file at the last of these paths, and in their folders the names of all. It
// also watches files that are open and may have no name any more. What is followed already goes
// on being followed. A folder that is not there is not.
func (w *fileWatch) follow(paths []string, open []*os.File) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = nil
	for _, path := range paths {
		w.names = append(w.names, filepath.Base(path))
		_, _ = unix.InotifyAddWatch(w.fd, filepath.Dir(path), folderEvents)
	}
	for _, f := range open {
		_, _ = unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.IN_MODIFY)
	}
	if len(paths) > 0 {
		_, _ = unix.InotifyAddWatch(w.fd, paths[len(paths)-1], fileEvents)
	}
}

// read ends when the watch is closed.
func (w *fileWatch) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			return
		}
		if w.concerns(buf[:n]) {
			select {
			case w.event <- struct{}{}:
			default: // the token is there already
			}
		}
	}
}

// concerns reports whether one of these events is of a file that is followed. An event is, in
// the byte order of the machine,
//
//	watch  mask  cookie  length    name
//	  4     4      4       4      length bytes, padded with NUL; of a file in a folder only
func (w *fileWatch) concerns(events []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if end > len(events) {
			break
		}
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		if mask&unix.IN_IGNORED == 0 && (name == "" || slices.Contains(w.names, name)) {
			return true
		}
		events = events[end:]
	}
	return false
}
