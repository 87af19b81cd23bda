//go:build containers

package test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// documented returns the indented lines of docs/containers.md that begin with a word, without
// remarks.
func documented(t *testing.T, word string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/containers.md")
	wait.Must(t, err)
	for _, m := range regexp.MustCompile(`(?m)^    (`+word+` .*?)( +#.*)?$`).FindAllStringSubmatch(string(text), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// makeStandalone makes an image that has Erlang in a folder, as a distribution, the official image
// and a release have it. Programs and libraries that Erlang needs are mounted.
func (h *host) makeStandalone(t *testing.T, name, folder string) {
	t.Helper()
	dir := "/run/" + name
	script := `set -e
mkdir -p $1/root/etc $1/root$2 $1/root/root $1/root/tmp $1/root/usr/bin $1/root/usr/lib/$3 $1/root/usr/lib64
cd $1/root
ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64
cp -a /usr/lib/erlang/bin /usr/lib/erlang/releases /usr/lib/erlang/erts-* .$2/
mkdir .$2/lib; cp -a /usr/lib/erlang/lib/kernel-* /usr/lib/erlang/lib/stdlib-* .$2/lib/
sed -i "s,ROOTDIR=/usr/lib/erlang,ROOTDIR=$2," .$2/bin/erl
echo root:x:0:0::/root:/bin/sh >etc/passwd
printf 'FROM scratch\nCOPY root /\nENV HOME=/root\n' >../Containerfile`
	_, err := h.Output(wait.Soon(t), "sh", "-c", script, "sh", dir, folder, filepath.Base(libraries(t)))
	wait.Must(t, err)
	h.podman(t, "build", "--quiet", "--tag", name, dir)
}

// libraries returns the folder with the libraries of this machine's architecture.
func libraries(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/*-linux-gnu")
	wait.Must(t, err)
	if len(found) == 0 {
		t.Skip("no folder of libraries like Debian's")
	}
	return found[0]
}

// TestContainerImages puts our epmd, and the application for nodes, into images that have Erlang in
// three places, by the lines of the documentation. There erl starts it.
func TestContainerImages(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	copies, links := documented(t, "COPY"), documented(t, "RUN")
	if len(copies) != 2 || len(links) != 3 {
		t.Fatalf("the documentation has %q and %q", copies, links)
	}
	var mounts []string
	for _, dir := range []string{"/usr/bin", "/usr/lib64", libraries(t)} {
		mounts = append(mounts, "--volume", dir+":"+dir+":ro")
	}
	for i, folder := range []string{"/usr/lib/erlang", "/usr/local/lib/erlang", "/app"} {
		if !strings.Contains(links[i], " "+folder+"/erts-*") {
			t.Errorf("%q is not for %s", links[i], folder)
		}
		name := []string{"debian", "official", "release"}[i]
		h.makeStandalone(t, name, folder)
		wait.Must(t, os.CopyFS(h.Path("/run/"+name+"/ebin"), os.DirFS(application(t))))
		lines := []string{"FROM localhost/" + name, copies[0], links[i], copies[1]}
		wait.Must(t, h.WriteFile("/run/"+name+"/Ours", strings.Join(lines, "\n")+"\n", 0o644))
		h.podman(t, append(append([]string{"build", "--quiet", "--tag", "ours-" + name, "--file", "/run/" + name + "/Ours"}, mounts...), "/run/"+name)...)
		h.launch(t, name, append(mounts, "ours-"+name, folder+"/bin/erl", "-noinput", "-sname", "n",
			"-pa", "/usr/local/lib/eclus/ebin", "-epmd_module", "eclus_epmd")...)
		h.replica(t, name).until(t, local("n@"+name))
	}
}

// TestContainerCommands runs the commands of the documentation for the image of epmd alone, and has
// a container share its network.
func TestContainerCommands(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	h.makeErlang(t)
	ran := 0
	for _, line := range documented(t, "podman") {
		if strings.HasSuffix(line, "...") || strings.Contains(line, "--network host") {
			continue // other tests have these
		}
		ran++
		cmd := h.Command(wait.Soon(t), "sh", "-c", h.inCgroup(line))
		if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState.ExitCode() != nothingListed {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if ran != 5 {
		t.Errorf("ran %d commands; want 5", ran)
	}
	r := h.replica(t, "epmd")
	t.Cleanup(func() { _ = h.Command(context.Background(), "podman", "rm", "--force", "--time", "0", "node").Run() })
	h.launch(t, "node", "--volume", "/usr:/usr:ro", "--network", "container:epmd", erlang, "erl", "-noinput", "-sname", "n", "-start_epmd", "false")
	r.until(t, condition{"n registers", func(known map[string]registry.Node) bool { return len(known) == 1 }})
}

// inCgroup has a command that runs a container use the host's cgroup. Nothing here runs health
// checks by itself, and podman refuses to start a container with some.
func (h *host) inCgroup(line string) string {
	return strings.Replace(line, "podman run ", "podman run --health-interval disable --cgroup-parent "+h.Cgroup()+" ", 1)
}

// TestContainerPing asks for nodes of containers that can't be reached, and says why.
func TestContainerPing(t *testing.T) {
	h, rs, _ := containerWeb(t, "w1")
	rs[0].until(t, known("h@hosta"))
	h.watch(t).until(t, known("n@w1"))
	h.ping(t, "n@w1").checkFails(t, "trust", "w1 is 10[.]", "-prove")
	h.ping(t, "n@w2").checkFails(t, "resolve", "w2", "ECLUS_PEER=gateway")
	inside := func(node string) string {
		out, err := h.Output(wait.Soon(t), "podman", "exec", "w1", ownEPMD(t), "-ping", node)
		if err == nil {
			t.Errorf("a pong from %s:\n%s", node, out)
		}
		return out
	}
	if out := inside("h@hosta"); !regexp.MustCompile(`(?s)hosta is loopback here.*base_hosts_file`).MatchString(out) {
		t.Errorf("-ping of the host's node in a container says\n%s", out)
	}
	// A container that publishes the port of its epmd alone, at another address of the host.
	wait.Must(t, h.AddAddress(t.Context(), "eth0", netip.MustParsePrefix("198.51.100.77/24")))
	h.erlIn(t, "p1", []string{"--publish", "198.51.100.77:5369:4369", "--env", "ECLUS_ALLOW=any"}, "-sname", "n")
	h.replica(t, "p1").until(t, local("n@p1"))
	wait.Must(t, h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n198.51.100.77 p1\n", 0o644))
	out, err := h.Output(wait.Soon(t), eclusBinary(t), "-port", "5369", "-ping", "n@p1")
	if err == nil || !strings.Contains(out, "-p 9100:9100") {
		t.Errorf("-ping of a node whose port is not published: %v\n%s", err, out)
	}
	conf := strings.Replace(containersConf, "[containers]\n", "[containers]\nbase_hosts_file=\"none\"\n", 1)
	wait.Must(t, h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 hosta\n", 0o644))
	for _, has := range []bool{true, false} {
		hosts := h.podman(t, append(h.runs("--rm", "--volume", "/usr:/usr:ro", erlang), "cat", "/etc/hosts")...)
		if strings.Contains(hosts, "127.0.1.1") != has {
			t.Errorf("with containers.conf as it is (%v), or without the host's file, a container has\n%s", has, hosts)
		}
		wait.Must(t, h.WriteFile("/etc/containers/containers.conf", conf, 0o644))
	}
}

// ownEPMD returns where the images have the epmd of erts.
func ownEPMD(t *testing.T) string {
	t.Helper()
	places, err := filepath.Glob("/usr/lib/erlang/erts-*/bin/epmd")
	wait.Must(t, err)
	return places[0]
}
