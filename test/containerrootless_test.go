//go:build containers

package test

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// alice is a user of a host who runs containers of her own. Her home is on the host's own /etc, as
// podman hides /run from what is on a bridge of hers.
type alice struct {
	*host
	cgroup string // a folder
}

// becomeAlice moves a shell to the cgroup $1, and turns it into a command of alice's.
const becomeAlice = `echo $$ >"$1/cgroup.procs"; shift
export HOME=/etc/alice XDG_RUNTIME_DIR=/run/user/20001 CONTAINERS_STORAGE_CONF=/etc/alice/storage.conf
cd && exec setpriv --reuid 20001 --regid 20001 --clear-groups "$@"`

// makeAlice makes the user, with what a distribution and systemd-logind give her. Her containers
// are gone before the host is. The image is hers, too.
func makeAlice(t *testing.T, h *host) alice {
	t.Helper()
	lan.Need(t, "slirp4netns", "newuidmap", "setpriv")
	script := `set -e
echo alice:x:20001:20001::/etc/alice:/bin/sh >>/etc/passwd
echo alice:x:20001: >>/etc/group
echo alice:200000:65536 | tee /etc/subuid >/etc/subgid
install -d -o 20001 -g 20001 /etc/alice
install -d /run/user
install -d -m 700 -o 20001 -g 20001 /run/user/20001
mknod -m 666 /run/tun c 10 200
mount --bind /run/tun /dev/net/tun
podman save --quiet --output /run/eclus.tar ` + image + `
chmod 644 /run/eclus.tar
printf '[storage]\ndriver = "vfs"\n' >/etc/alice/storage.conf
cd /sys/fs/cgroup/pids 2>/dev/null || cd /sys/fs/cgroup
mkdir -p $1
echo $PWD/$1`
	cgroup, err := h.Output(wait.Soon(t), "sh", "-c", script, "sh", h.Cgroup())
	wait.Must(t, err)
	a := alice{h, strings.TrimSpace(cgroup)}
	t.Cleanup(func() {
		if out, err := a.does(context.Background(), "podman", "rm", "--all", "--force", "--time", "0"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	a.podman(t, "load", "--quiet", "--input", "/run/eclus.tar")
	return a
}

// does runs a command of alice's, and returns its standard output.
func (a alice) does(ctx context.Context, args ...string) (string, error) {
	return a.Output(ctx, "sh", append([]string{"-c", becomeAlice, "sh", a.cgroup}, args...)...)
}

// podman is as of the host, but alice's.
func (a alice) podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := a.does(wait.Soon(t), append([]string{"podman"}, args...)...)
	wait.Must(t, err)
	return strings.TrimSpace(out)
}

// run runs epmd in a container of alice's, with a node "node" that is nothing but a registration.
func (a alice) run(t *testing.T, name string, flags ...string) *replica {
	t.Helper()
	a.podman(t, append(append([]string{"run", "--detach", "--name", name, "--hostname", name, "--no-healthcheck"}, flags...), image)...)
	r := a.replicaOf(t, name, a.podman(t, "inspect", "--format", "{{.State.Pid}}", name))
	r.register(t, "node", 4000)
	return r
}

// TestContainerRootless has an ordinary user run containers. On a bridge of hers they know each
// other. Their gateway is not the host, unless it leads to the host's loopback: then the container
// counts as local there.
func TestContainerRootless(t *testing.T) {
	h := containerHost(t)
	h.makeImage(t)
	h.start(t)
	h.register(t, "h", 4000)
	a := makeAlice(t, h)
	a.podman(t, "network", "create", "web")
	w1, w2 := a.run(t, "w1", web...), a.run(t, "w2", web...)
	w1.until(t, known("node@w2.local"))
	w2.until(t, known("node@w1.local"))
	a.run(t, "usual", "--network", "slirp4netns", "--env", "ECLUS_PEER=gateway")
	for _, name := range []string{"w1", "usual"} {
		wait.True(t, name+" says that it has no stream from its gateway", func() bool {
			out, _ := a.does(wait.Soon(t), "podman", "exec", name, "/usr/bin/epmd", "-nodes")
			return regexp.MustCompile(`(?m)^no stream from 10\.`).MatchString(out) && !strings.Contains(out, "h@hosta")
		})
	}

	r := a.run(t, "open", "--network", "slirp4netns:allow_host_loopback=true", "--env", "ECLUS_PEER=gateway")
	r.until(t, known("h@hosta.local"))
	wait.Must(t, lan.Inside(r.netns, func() error {
		gateway := epmd.NewClient(netip.MustParseAddrPort("10.0.2.2:4369"))
		node, err := gateway.Register(wait.Soon(t), aliveReq("guest", 4001))
		if err == nil {
			t.Cleanup(func() { node.Close() })
		}
		return err
	}))
	h.watch(t).until(t, condition{"guest is a node of the host", func(known map[string]registry.Node) bool {
		return some(known, registry.Local, "guest@hosta.local", nil)
	}})
	if nodes := h.nodes(t); nodes["node@open.local"].Node != "" {
		t.Errorf("the host knows a node in a rootless container: %v", nodes)
	}
}

// TestContainerRootlessPort has an ordinary user publish the port of epmd, which another host asks.
// That host counts as local in the container, unless it is slirp4netns that hands connections on.
// A ping says which port is not published.
func TestContainerRootlessPort(t *testing.T) {
	hosts := addHosts(t, lan.ForTest(t, "podman", "runc", "make", "iptables"), lan.HostOptions{NoBus: true}, "hosta", "hostb")
	h, other := hosts[0], hosts[1]
	h.prepareContainers(t)
	h.makeImage(t)
	a := makeAlice(t, h)
	for i, tt := range []struct {
		network string
		local   bool
	}{
		{"slirp4netns", true},
		{"slirp4netns:port_handler=slirp4netns", false},
	} {
		name, at := fmt.Sprint("p", i), netip.AddrPortFrom(h.Address(), uint16(5369+i))
		published := fmt.Sprintf("%v:%d", at, epmd.DefaultPort)
		r := a.run(t, name, "--network", tt.network, "--publish", published, "--env", "ECLUS_ALLOW=any")
		var stranger *epmd.Registration
		err := other.inside(func() (err error) {
			stranger, err = epmd.NewClient(at).Register(wait.Soon(t), aliveReq("stranger", 4001))
			return err
		})
		if err == nil {
			r.until(t, local("stranger@"+name+".local"))
			stranger.Close()
		}
		if (err == nil) != tt.local {
			t.Errorf("%s: another host registers a node: %v", tt.network, err)
		}
		wait.Must(t, other.WriteFile("/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n%v %s\n", h.Address(), name), 0o644))
		for port, says := range map[uint16]string{at.Port(): "-p 9100:9100", epmd.DefaultPort: "4369 leads there only if it is published"} {
			out, err := other.Output(wait.Soon(t), eclusBinary(t), "-port", fmt.Sprint(port), "-ping", "node@"+name)
			if err == nil || !strings.Contains(out, says) {
				t.Errorf("%s: -ping by port %d: %v\n%s", tt.network, port, err, out)
			}
		}
	}
}
