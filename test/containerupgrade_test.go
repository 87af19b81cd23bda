//go:build containers

package test

import (
	"net"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/wait"
)

// TestContainerHostUpgraded has a host get a newer package of epmd, as dpkg installs it. Systemd
// starts the epmd of that version. Its containers report nothing down, and nodes stay known.
func TestContainerHostUpgraded(t *testing.T) {
	lan.Need(t, "podman", "runc", "make", "iptables")
	s := debian(t, machine.Options{})
	h := &host{Host: s.Link, t: t} // containers run beside systemd, in the network that is its own
	h.prepareContainers(t)
	h.makeImage(t)
	h.podman(t, "network", "create", "web")
	s.install(t, packaged(t, "1.0.0"))
	s.checkVersion(t, "1.0.0")
	wait.Must(t, s.inside(func() error { // or the nodes are not told of
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":4000")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	registers := func(name string) {
		node, err := s.tryRegister(wait.Soon(t), name, 4000)
		wait.Must(t, err)
		t.Cleanup(node.leave)
	}
	registers("h")
	rs := []*replica{h.epmdIn(t, "w1", web...), h.epmdIn(t, "w2", web...)}
	for _, r := range rs {
		r.register(t, "node", 4000)
	}
	rs[0].until(t, known("h@hosta.local"), known("node@w2.local"))
	rs[1].until(t, known("h@hosta.local"), known("node@w1.local"))
	// Containers hold nodes for 5 seconds. On a machine so busy that this was too short, the next
	// version has its turn.
	for _, version := range []string{"2.0.0", "3.0.0", "4.0.0"} {
		deb, more := packaged(t, version), "since"+version[:1]
		upgrade := func() {
			s.install(t, deb)
			s.checkVersion(t, version)
			registers(more)
		}
		if h.isUnnoticed(t, rs, upgrade, more+"@hosta.local") {
			return
		}
	}
	t.Error("each upgrade took too long")
}

// isUnnoticed replaces the host's epmd, whose node h stays. A node more is registered by that. It
// reports whether the containers have not reported anything down, which may be so if they were
// without the host's epmd for too long.
func (h *host) isUnnoticed(t *testing.T, rs []*replica, replace func(), more string) bool {
	t.Helper()
	const grace = 5 * time.Second
	var before []int
	for _, r := range rs {
		before = append(before, r.many())
	}
	began := time.Now()
	replace()
	var down []string
	for i, r := range rs {
		r.until(t, known("h@hosta.local"), known(more))
		for _, line := range r.linesFrom(before[i]) {
			down = append(down, downs(line)...)
		}
	}
	took := since(began)
	t.Logf("replaced; the containers know %s after %v, and report %q", more, took, down)
	h.watch(t).until(t, local("h@hosta.local"), known("node@w1.local"), known("node@w2.local"))
	if len(down) > 0 && took < grace {
		t.Errorf("replaced within %v: containers report %q", took, down)
	}
	return len(down) == 0
}
