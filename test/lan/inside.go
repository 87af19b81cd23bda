package lan

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Inside calls f on a thread in a network namespace, which is named by its file. Sockets that f
// itself makes are in that namespace. The thread goes back. A process whose first thread stays in a
// host's namespace would be killed with the host.
func Inside(netns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- visit(netns, f)
	}()
	return <-done
}

// visit calls f with the thread, which is locked, in a network namespace. A thread that can't go
// back stays locked and ends with its goroutine.
func visit(netns string, f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	away, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", netns, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave %s: %w", netns, back))
	}
	runtime.UnlockOSThread()
	return err
}
