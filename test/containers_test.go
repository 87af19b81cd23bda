//go:build containers

package test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// A container engine keeps all that it has on the host's own /run.
const (
	containersConf = `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
[network]
network_backend = "netavark"
`
	storageConf = `[storage]
driver = "vfs"
graphroot = "/run/containers/graph"
runroot = "/run/containers/storage"
`
	image = "localhost/eclus"
)

// maxImage is how large the image may be, in bytes.
const maxImage = 9_000_000

// containerHost makes a host without a bus that runs containers.
func containerHost(t *testing.T) *host {
	t.Helper()
	h := addHosts(t, lan.ForTest(t, "podman", "runc", "make", "iptables"), lan.HostOptions{NoBus: true}, "hosta")[0]
	h.prepareContainers(t)
	return h
}

// prepareContainers has a host run containers. They are gone before the host is. What runs in
// cgroups of the host's goes with the network, also if the test is killed.
func (h *host) prepareContainers(t *testing.T) {
	t.Helper()
	wait.Must(t, os.MkdirAll(h.Path("/etc/containers"), 0o755))
	wait.Must(t, h.WriteFile("/etc/containers/containers.conf", containersConf, 0o644))
	wait.Must(t, h.WriteFile("/etc/containers/storage.conf", storageConf, 0o644))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait.Patience)
		defer cancel()
		if _, err := h.Output(ctx, "podman", "rm", "--all", "--force", "--depend", "--time", "0"); err != nil {
			t.Error(err)
		}
	})
}

// makeImage runs make image on the host, with the compiler's cache of the machine. Runs take turns.
func (h *host) makeImage(t *testing.T, variables ...string) {
	t.Helper()
	top, err := filepath.Abs("..")
	wait.Must(t, err)
	wait.Must(t, os.MkdirAll(filepath.Join(top, "build"), 0o755))
	h.makes(t, "flock", append([]string{filepath.Join(top, "build", "image.lock"), "make", "-C", top, "image"}, variables...)...)
}

// makes runs a command that makes the image.
func (h *host) makes(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := h.Command(wait.Soon(t), name, args...)
	cmd.Env = append(cmd.Env, "HOME="+os.Getenv("HOME"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make image: %v\n%s", err, out)
	}
}

// makeElsewhere makes the image of the same version and time in another folder, from a plain copy
// of the sources, as somebody who gives no rights to others.
func (h *host) makeElsewhere(t *testing.T) {
	t.Helper()
	top, err := filepath.Abs("..")
	wait.Must(t, err)
	version := h.podman(t, "image", "inspect", "--format", `{{index .Labels "org.opencontainers.image.version"}}`, image)
	created := h.podman(t, "image", "inspect", "--format", "{{.Created.Unix}}", image)
	script := `umask 077; mkdir /run/copy; tar -C $1 --exclude=./build --exclude=./.git -c . | tar -C /run/copy -x --no-same-permissions
make -C /run/copy image VERSION=$2 SOURCE_DATE_EPOCH=$3`
	h.podman(t, "rmi", "--all", "--force")
	h.makes(t, "sh", "-c", script, "sh", top, version, created)
}

// podman returns what podman writes, without the newline.
func (h *host) podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.Output(wait.Soon(t), "podman", args...)
	wait.Must(t, err)
	return strings.TrimSpace(out)
}

// launch runs a container in the background. args are podman's options, the image and its
// arguments.
func (h *host) launch(t *testing.T, name string, args ...string) {
	t.Helper()
	h.podman(t, append(h.runs("--detach", "--name", name, "--hostname", name), args...)...)
}

// runs returns podman's arguments for running a container in a cgroup of the host's.
func (h *host) runs(args ...string) []string {
	return append([]string{"run", "--cgroup-parent", h.Cgroup()}, args...)
}

// state returns what podman knows of a container.
func (h *host) state(t *testing.T, name, format string) string {
	t.Helper()
	return h.podman(t, "inspect", "--format", format, name)
}

// pidOf returns the process of a container that is PID 1 in there.
func (h *host) pidOf(t *testing.T, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(h.state(t, name, "{{.State.Pid}}"))
	wait.Must(t, err)
	if pid == 0 {
		t.Fatalf("%s does not run", name)
	}
	return pid
}

// TestContainerImage looks at the image: its size, what it says of itself, and that it has the same
// digest when it is made again later, and elsewhere. Its epmd is PID 1, silent, healthy until it is
// wedged, and ends when told.
func TestContainerImage(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	digest := func() string { return h.podman(t, "image", "inspect", "--format", "{{.Id}} {{.Digest}}", image) }
	made := digest()
	size, err := strconv.Atoi(h.podman(t, "image", "inspect", "--format", "{{.Size}}", image))
	wait.Must(t, err)
	t.Logf("image of %d bytes", size)
	if size > maxImage {
		t.Errorf("image of %d bytes; want %d at most", size, maxImage)
	}
	t.Logf("image %s", made)
	h.makeElsewhere(t)
	if again := digest(); again != made {
		t.Errorf("made again elsewhere, the image is %s; want %s", again, made)
	}
	h.makeImage(t)
	if again := digest(); again != made {
		t.Errorf("made again, the image is %s; want %s", again, made)
	}
	h.makeImage(t, "GOARCH=arm64")
	for of, want := range map[string]string{image: runtime.GOARCH, image + ":arm64": "arm64"} {
		if got := h.podman(t, "image", "inspect", "--format", "{{.Architecture}}", of); got != want {
			t.Errorf("%s is for %s; want %s", of, got, want)
		}
	}
	config := h.podman(t, "image", "inspect", "--format", "{{.User}} {{.Config.StopSignal}} {{.Config.ExposedPorts}} {{.HealthCheck.Test}}", image)
	if want := "65532:65532 SIGTERM map[4369/tcp:{}] [CMD /usr/bin/epmd -names]"; config != want {
		t.Errorf("image %q; want %q", config, want)
	}
	h.launch(t, "epmd", "--health-interval", "disable", image)
	h.checkWedged(t, "epmd")
	h.podman(t, "stop", "epmd")
	if code, logs := h.state(t, "epmd", "{{.State.ExitCode}}"), h.podman(t, "logs", "epmd"); code != "0" || logs != "" {
		t.Errorf("exit status %s, log %q; want 0 and nothing", code, logs)
	}
}

// health runs the health check of a container, and returns what the container's health is then.
func (h *host) health(t *testing.T, name string) string {
	t.Helper()
	_ = h.Command(wait.Soon(t), "podman", "healthcheck", "run", name).Run() // it is the health
	return h.state(t, name, "{{.State.Health.Status}}")
}

// checkWedged has a healthy epmd stop in the middle of things, just after a check, up to three
// times, as the machine may be busy. The check, which is made every 2 s, turns red. It is green
// again when the epmd goes on.
func (h *host) checkWedged(t *testing.T, name string) {
	t.Helper()
	const interval, most = 2 * time.Second, 5 * time.Second
	took := most + 1
	for try := 0; try < 3 && took > most; try++ {
		wait.True(t, "healthy", func() bool { return h.health(t, name) == "healthy" })
		pid := h.pidOf(t, name)
		wait.Must(t, syscall.Kill(pid, syscall.SIGSTOP))
		begin := time.Now()
		for checks := time.Tick(interval); ; {
			<-checks
			if h.health(t, name) == "unhealthy" {
				break
			}
			if since(begin) > wait.Patience {
				t.Fatalf("wedged, and not unhealthy after %v", since(begin))
			}
		}
		took = since(begin)
		wait.Must(t, syscall.Kill(pid, syscall.SIGCONT))
		t.Logf("unhealthy %v after a wedge", took)
	}
	if took > most {
		t.Errorf("unhealthy %v after a wedge; want %v", took, most)
	}
	wait.True(t, "healthy again", func() bool { return h.health(t, name) == "healthy" })
}
