// Package orphans reaps the processes that PID 1 of a container inherits from others.
//
// It starts no goroutine, and nothing in it blocks.
package orphans

import (
	"os"
	"os/signal"
	"syscall"
)

// Notify returns a channel that holds a token when there may be something to reap, as there may be
// at once. It is nil unless this process is PID 1.
func Notify() <-chan os.Signal {
	if os.Getpid() != 1 {
		return nil
	}
	ended := make(chan os.Signal, 1)
	ended <- syscall.SIGCHLD
	signal.Notify(ended, syscall.SIGCHLD)
	return ended
}

// Reap reaps all children that have ended. It must not run while package os/exec has a child, as it
// would take that one's status too.
func Reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
