package owner

import (
	"os"
	"strings"
)

// emulator begins the names of all programs that are OTP's emulator: beam.smp, beam, beam.debug.smp.
const emulator = "beam"

// isForeign reports whether none of the processes runs OTP's emulator. Processes whose names can't be read
// say nothing: if that is so of all of them, it returns false.
func isForeign(pids []string) bool {
	foreign := false
	for _, pid := range pids {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		switch {
		case err != nil: // it has ended, or is hidden, or is in another PID namespace and has number 0 here
		case strings.HasPrefix(string(name), emulator):
			return false
		default:
			foreign = true
		}
	}
	return foreign
}

// processesOf returns the processes in a control group, as numbers.
func processesOf(cgroup string) []string {
	pids, err := os.ReadFile(cgroup + "/cgroup.procs")
	if err != nil {
		return nil
	}
	return strings.Fields(string(pids))
}
