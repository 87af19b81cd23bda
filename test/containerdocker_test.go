//go:build containers

package test

import (
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// docker is Debian's client. Another one may be in its way that has no builder.
const docker = "/usr/bin/docker"

// dockerHost makes a host with dockerd, which keeps all that it has on the host's own /run.
func dockerHost(t *testing.T) *host {
	t.Helper()
	h := addHosts(t, lan.ForTest(t, docker, "dockerd", "containerd", "make", "iptables"), lan.HostOptions{NoBus: true}, "hosta")[0]
	limits := []string{"--default-ulimit", "nofile=4096:4096", "--default-ulimit", "nproc=4096:4096"}
	daemon := h.NewDaemon(`API listen on`, "dockerd", append(limits, "--data-root", "/run/graph", "--storage-driver", "vfs",
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/"+h.Cgroup())...)
	wait.Must(t, daemon.Start(wait.Soon(t)))
	return h
}

// docker is podman for docker.
func (h *host) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.Output(wait.Soon(t), docker, args...)
	wait.Must(t, err)
	return strings.TrimSpace(out)
}

// TestContainerDocker has docker build the image and run it. Containers and their host know nodes
// of each other. Docker looks at their health by itself: a wedged epmd turns it red. A container
// that is told to end takes its nodes along.
func TestContainerDocker(t *testing.T) {
	h := dockerHost(t)
	h.makeImage(t, "ENGINE="+docker)
	size, err := strconv.Atoi(h.docker(t, "image", "inspect", "--format", "{{.Size}}", image))
	wait.Must(t, err)
	if size > maxImage {
		t.Errorf("image of %d bytes; want %d at most", size, maxImage)
	}
	h.makeImage(t, "ENGINE="+docker, "GOARCH=arm64")
	for of, want := range map[string]string{image: runtime.GOARCH, image + ":arm64": "arm64"} {
		if got := h.docker(t, "image", "inspect", "--format", "{{.Architecture}}", of); got != want {
			t.Errorf("%s is for %s; want %s", of, got, want)
		}
	}
	h.docker(t, "network", "create", "web")
	h.start(t)
	seen := h.watch(t)
	h.register(t, "h", 4000)
	var rs []*replica
	for _, name := range []string{"w1", "w2"} {
		h.docker(t, append(append([]string{"run", "--detach", "--name", name, "--hostname", name, "--health-interval", "2s"}, web...), image)...)
		r := h.replicaOf(t, name, h.docker(t, "inspect", "--format", "{{.State.Pid}}", name))
		r.register(t, "node", 4000)
		rs = append(rs, r)
	}
	seen.until(t, known("node@w1.local"), known("node@w2.local"))
	rs[0].until(t, known("node@w2.local"), known("h@hosta.local"))
	rs[1].until(t, known("node@w1.local"), known("h@hosta.local"))

	is := func(health string) func() bool {
		return func() bool { return h.docker(t, "inspect", "--format", "{{.State.Health.Status}}", "w1") == health }
	}
	wait.True(t, "healthy", is("healthy"))
	pid, err := strconv.Atoi(h.docker(t, "inspect", "--format", "{{.State.Pid}}", "w1"))
	wait.Must(t, err)
	wait.Must(t, syscall.Kill(pid, syscall.SIGSTOP))
	begin := time.Now()
	wait.True(t, "unhealthy", is("unhealthy"))
	t.Logf("unhealthy %v after a wedge", since(begin))
	wait.Must(t, syscall.Kill(pid, syscall.SIGCONT))
	wait.True(t, "healthy again", is("healthy"))

	h.docker(t, "stop", "w1")
	allUntil(t, []*watcher{seen, rs[1].watcher}, unlisted("node@w1.local"))
	if code, logs := h.docker(t, "inspect", "--format", "{{.State.ExitCode}}", "w1"), h.docker(t, "logs", "w1"); code != "0" || logs != "" {
		t.Errorf("exit status %s, log %q; want 0 and nothing", code, logs)
	}
}
