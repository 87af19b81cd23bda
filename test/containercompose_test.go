//go:build containers

package test

import (
	"context"
	"os"
	"testing"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestContainerCompose brings up the compose file of packaging/container. Its images have nothing
// but epmd here, and a node is a registration. The host and all three containers know all.
func TestContainerCompose(t *testing.T) {
	h := containerHost(t)
	lan.Need(t, "podman-compose")
	h.makeImage(t)
	h.start(t)
	file, err := os.ReadFile("../packaging/container/compose.yaml")
	wait.Must(t, err)
	wait.Must(t, os.Mkdir(h.Path("/run/example"), 0o755))
	wait.Must(t, h.WriteFile("/run/example/compose.yaml", string(file), 0o644))
	wait.Must(t, h.WriteFile("/run/example/Containerfile", "FROM "+image+"\nHEALTHCHECK NONE\n", 0o644))
	for _, name := range []string{"web", "worker"} {
		h.podman(t, "build", "--quiet", "--tag", "localhost/"+name, "/run/example")
	}
	compose := func(ctx context.Context, args ...string) error {
		_, err := h.Output(ctx, "podman-compose", append([]string{"-f", "/run/example/compose.yaml",
			"--podman-run-args=--cgroup-parent " + h.Cgroup()}, args...)...)
		return err
	}
	wait.Must(t, compose(wait.Soon(t), "up", "-d"))
	t.Cleanup(func() {
		if err := compose(context.Background(), "down", "-t", "0"); err != nil {
			t.Error(err)
		}
	})
	all := []*watcher{h.watch(t)}
	var nodes []condition
	for _, name := range []string{"example_web_1", "example_web_2", "example_worker_1"} {
		r := h.replica(t, name)
		r.register(t, name, 4000)
		all = append(all, r.watcher)
		nodes = append(nodes, aliveAs(name))
	}
	for i, w := range all {
		for j, node := range nodes {
			if i != j+1 {
				w.until(t, node)
			}
		}
	}
}
