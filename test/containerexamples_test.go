//go:build containers

package test

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestContainerQuadlet runs two containers as the quadlet of packaging/container has them. Debian
// 12 has no quadlet. The keys mean here what quadlet of podman 5.4 makes of them.
func TestContainerQuadlet(t *testing.T) {
	text, err := os.ReadFile("../packaging/container/web.container")
	wait.Must(t, err)
	_, section, _ := strings.Cut(string(text), "[Container]\n")
	section, _, _ = strings.Cut(section, "\n[")
	var args []string
	for line := range strings.Lines(section) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "Network":
			args = append(args, "--network", "systemd-"+strings.TrimSuffix(value, ".network"))
		case "PodmanArgs":
			args = append(args, strings.Fields(value)...)
		case "Environment":
			args = append(args, "--env", value)
		case "Image", "":
		default:
			t.Fatalf("nobody here knows what %s is", line)
		}
	}
	h := containerHost(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "systemd-web")
	h.start(t)
	a, b := h.epmdIn(t, "systemd-w1", args...), h.epmdIn(t, "systemd-w2", args...)
	a.register(t, "a", 4000)
	b.register(t, "b", 4000)
	h.watch(t).until(t, aliveAs("a"), aliveAs("b"))
	a.until(t, aliveAs("b"))
	b.until(t, aliveAs("a"))
}

//go:embed kubernetes/check.txt
var kubernetesCheck string

// TestContainerKubernetes decodes the objects for Kubernetes strictly, as the types of its API have
// them. Another module does it, which the test makes: ours needs nothing of Kubernetes.
func TestContainerKubernetes(t *testing.T) {
	text, err := os.ReadFile("../packaging/container/kubernetes.yaml")
	wait.Must(t, err)
	dir := t.TempDir()
	wrong := strings.Replace(string(text), "periodSeconds", "periodSecond", 1)
	for name, content := range map[string]string{"main.go": kubernetesCheck, "right.yaml": string(text), "wrong.yaml": wrong} {
		wait.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "go", args...) // compiling takes minutes
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{
		{"mod", "init", "kubernetes.test"},
		{"get", "k8s.io/api@v0.34.1", "k8s.io/apimachinery@v0.34.1", "sigs.k8s.io/yaml@v1.6.0"},
		{"run", ".", "right.yaml"},
	} {
		if out, err := run(args...); err != nil {
			t.Fatalf("go %q: %v\n%s", args, err, out)
		}
	}
	if out, err := run("run", ".", "wrong.yaml"); err == nil || !strings.Contains(out, "periodSecond") {
		t.Errorf("a field that there is not: %v\n%s", err, out)
	}
}
