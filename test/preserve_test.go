package test

import (
	"fmt"
	"os"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestSystemdPreserve stops and starts the service with the drop-in for that, which is shipped as
// an example. From release 254 on, systemd keeps all registrations until it is told to drop them.
// Earlier releases drop them.
func TestSystemdPreserve(t *testing.T) {
	s := supervise(t)
	dropIn, err := os.ReadFile("../systemd/examples/epmd.service.d/preserve.conf")
	wait.Must(t, err)
	wait.Must(t, s.WriteFile("/etc/systemd/system/epmd.service.d/preserve.conf", dropIn, 0o644))
	s.systemctl(t, "daemon-reload")
	nodes := s.register(t, "node", 20)
	s.systemctl(t, "stop", unit)
	var release int
	_, err = fmt.Sscanf(s.output(t, "systemctl", "--version"), "systemd %d", &release)
	wait.Must(t, err)
	if release >= 254 {
		s.systemctl(t, "start", unit)
		s.checkOnly(t, nodes...)
		s.systemctl(t, "stop", unit)
		s.systemctl(t, "clean", "--what=fdstore", unit)
	}
	for _, n := range nodes {
		select {
		case <-n.ended:
		case <-wait.Soon(t).Done():
			t.Fatalf("%s is not told that its registration has ended", n.name)
		}
	}
	s.checkOnly(t) // starts it
}
