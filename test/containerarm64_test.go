//go:build containers

package test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestContainerARM64 runs the image for arm64 by an emulator of its processor. Its epmd starts,
// answers, registers a node and says farewell, and it and the epmd of the host know each other's
// nodes. The emulator has no sockets by which to ask the kernel about others' sockets.
func TestContainerARM64(t *testing.T) {
	h := containerHost(t)
	lan.Need(t, "qemu-aarch64-static")
	emulator, err := h.Output(wait.Soon(t), "sh", "-c", "command -v qemu-aarch64-static")
	wait.Must(t, err)
	h.makeImage(t, "GOARCH=arm64")
	h.podman(t, "network", "create", "web")
	h.start(t)
	h.register(t, "h", 4000)
	emulated := append([]string{"--no-healthcheck", "--volume", strings.TrimSpace(emulator) + ":/emulator:ro",
		"--entrypoint", `["/emulator", "/usr/bin/epmd"]`}, web...)
	h.launch(t, "w1", append(emulated, image+":arm64")...)
	r := h.replica(t, "w1")
	r.register(t, "node", 4000)
	asked := func(flag string) string { return h.podman(t, "exec", "w1", "/emulator", "/usr/bin/epmd", flag) }
	if names := asked("-names"); !regexp.MustCompile(`(?m)^name node at port 4000$`).MatchString(names) {
		t.Errorf("-names says\n%s", names)
	}
	seen := h.watch(t)
	r.until(t, known("h@hosta.local"))
	seen.until(t, known("node@w1.local"))
	t.Logf("%s\n%s\n%s", asked("-version"), asked("-nodes"), h.podman(t, "logs", "w1"))
	h.podman(t, "stop", "w1")
	seen.until(t, unlisted("node@w1.local"))
	if code := h.state(t, "w1", "{{.State.ExitCode}}"); code != "0" {
		t.Errorf("exit status %s", code)
	}
}
