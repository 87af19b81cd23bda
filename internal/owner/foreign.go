package owner

import (
	"os"
	"strings"
)

// emulator begins the names of OTP's emulators: beam.smp, beam, beam.debug.smp.
const emulator = "beam"

// isForeign reports whether no process runs OTP's emulator. It ignores processes whose names can't
// be read. If there are no others, it returns false.
func isForeign(pids []string) bool {
	foreign := false
	for _, pid := range pids {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		switch {
		case err != nil: // ended, hidden, or 0: in another PID namespace
		case strings.HasPrefix(string(name), emulator):
			return false
		default:
			foreign = true
		}
	}
	return foreign
}

// processesOf returns the PIDs in a control group.
func processesOf(cgroup string) []string {
	pids, err := os.ReadFile(cgroup + "/cgroup.procs")
	if err != nil {
		return nil
	}
	return strings.Fields(string(pids))
}
