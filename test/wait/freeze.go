package wait

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Freeze sends SIGSTOP to a process and returns when all its threads stand still. The kernel tells
// one thread, and the others run on until that one has had its turn on a processor.
func Freeze(tb testing.TB, pid int) {
	tb.Helper()
	Must(tb, syscall.Kill(pid, syscall.SIGSTOP))
	Until(tb, fmt.Sprintf("process %d stands still", pid), func() error { return frozen(pid) })
}

// frozen returns an error that names a thread of a process that may still run.
func frozen(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return fmt.Errorf("process %d has no threads: %v", pid, err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// The state follows the name, which is in parentheses.
		if state := string(stat)[strings.LastIndexByte(string(stat), ')')+1:]; !strings.HasPrefix(state, " T ") {
			return fmt.Errorf("%s: state%.2s", path, state)
		}
	}
	return nil
}
