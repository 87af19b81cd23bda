// Package inotify watches files and folders by inotify(7).
package inotify

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Event is what the kernel reports.
type Event struct {
	Watch int32  // as Add has returned it; -1: IN_Q_OVERFLOW
	Mask  uint32 // IN_CREATE and so on
	Name  string // of a file in a folder; empty: it is what is watched itself
}

// Watch reports when something has changed that is watched. It runs one goroutine until Close.
type Watch struct {
	inotify  *os.File
	fd       int
	concerns func(Event) bool
	changed  chan struct{} // holds one token after a change
	reading  sync.WaitGroup
}

// New returns a Watch of nothing. concerns reports whether an event counts. It is called by the
// goroutine of Watch, with each event.
func New(concerns func(Event) bool) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w := &Watch{inotify: os.NewFile(uintptr(fd), "inotify"), fd: fd, concerns: concerns, changed: make(chan struct{}, 1)}
	w.reading.Go(w.read)
	return w, nil
}

// Add watches a path for the events in a mask. It returns by what they are known.
func (w *Watch) Add(path string, mask uint32) (watch int32, err error) {
	wd, err := unix.InotifyAddWatch(w.fd, path, mask)
	return int32(wd), err
}

// Changed returns a channel that yields after one or several changes.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Close ends the watch, and waits for its goroutine.
func (w *Watch) Close() {
	w.inotify.Close()
	w.reading.Wait()
}

// read ends when the watch is closed.
func (w *Watch) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.inotify.Read(buf)
		if err != nil {
			return
		}
		if w.counts(buf[:n]) {
			select {
			case w.changed <- struct{}{}:
			default: // the token is there already
			}
		}
	}
}

// counts reports whether one of these events counts. An event is, in the byte order of the machine,
//
//	watch  mask  cookie  length    name
//	  4     4      4       4      length bytes, padded with NUL; of a file in a folder only
func (w *Watch) counts(events []byte) (is bool) {
	for len(events) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if end > len(events) {
			break
		}
		e := Event{
			Watch: int32(binary.NativeEndian.Uint32(events)),
			Mask:  binary.NativeEndian.Uint32(events[4:]),
			Name:  strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00"),
		}
		if w.concerns(e) {
			is = true
		}
		events = events[end:]
	}
	return is
}
