package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/etcd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// etcdModule is the folder of the module of epmd-etcd.
const etcdModule = "../cmd/epmd-etcd"

// companionBinary returns the path of epmd-etcd as it is shipped.
func companionBinary(t *testing.T) string {
	t.Helper()
	need.Program(t, "go")
	return builtOnce(t, "epmd-etcd", func(path string) error {
		build := exec.Command("go", "-C", etcdModule, "build", "-trimpath", "-o", path, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build epmd-etcd: %w\n%s", err, out)
		}
		return nil
	})
}

// companion starts epmd-etcd on the host, whose default route says where it is found.
func (h *host) companion(t *testing.T, server *etcd.Server, args ...string) *lan.Process {
	t.Helper()
	h.sh(t, "mkdir -p /run/epmd/nodes.d; ip route replace default via "+server.Address)
	p, err := h.Start(context.WithoutCancel(t.Context()), companionBinary(t), append([]string{"-endpoints", server.URL()}, args...)...)
	wait.Must(t, err)
	return p
}

// writes waits until a process has written something, and returns when that was seen.
func writes(t *testing.T, p *lan.Process, pattern string) time.Time {
	t.Helper()
	_, err := p.WaitOutput(wait.Soon(t), pattern)
	wait.Must(t, err)
	return time.Now()
}

// outage is what etcdOutage measured.
type outage struct{ listed, meanwhile, again, unreachable, gone time.Duration }

// etcdOutage has hosts find each other by etcd, which is cut off until all leases have lapsed, and
// for so long at least. Nodes stay, and come. At last a host is cut off.
func etcdOutage(t *testing.T, ttl, away time.Duration) (m outage) {
	t.Helper()
	network := lan.ForTest(t, tools...)
	all := addHosts(t, network, lan.HostOptions{NoBus: true}, "etcd", "hosta", "hostb", "hostd")
	a, b, d := all[1], all[2], all[3]
	server := etcd.On(t, all[0].Address().String(), all[0].Command)
	server.Start(t)
	for _, h := range all[1:] {
		h.start(t, "-lan", "off")
	}
	lease := []string{"-ttl", strconv.Itoa(int(ttl / time.Second))}
	b.register(t, "b1", 4001)
	d.register(t, "d1", 4003)
	seen := a.watch(t)
	onA := a.companion(t, server, lease...)
	writes(t, onA, "this host is in etcd")

	began := time.Now()
	server.Ctl(t, "put", "/eclus/v1/epmds/hand", b.Address().String()+":4369")
	m.listed = seen.until(t, listed("b1@hostb.local", via("epmd"), reachable)).Sub(began)
	onB := b.companion(t, server, lease...)
	writes(t, onB, "this host is in etcd")
	server.Ctl(t, "del", "/eclus/v1/epmds/hand")

	began = time.Now()
	wait.Must(t, all[0].Unplug(wait.Soon(t), "eth0"))
	writes(t, onA, "etcd is away")
	writes(t, onB, "etcd is away")
	wait.Until(t, "all leases have lapsed", func() error {
		if left := server.Ctl(t, "get", "--prefix", "--keys-only", ""); left != "" {
			return fmt.Errorf("left is %q", left)
		}
		return nil
	})
	onD := d.companion(t, server, lease...) // a host that comes meanwhile
	writes(t, onD, "etcd is away")
	for left := away - time.Since(began); left > 0; left = away - time.Since(began) {
		<-time.After(left)
	}
	before := seen.many()
	began = time.Now()
	b.register(t, "b2", 4002)
	m.meanwhile = seen.until(t, listed("b2@hostb.local", via("epmd"))).Sub(began)
	began = time.Now()
	wait.Must(t, all[0].Plug(wait.Soon(t), "eth0"))
	m.again = seen.until(t, listed("d1@hostd.local", via("epmd"))).Sub(began)
	writes(t, onB, "etcd answers again")
	for _, line := range seen.linesFrom(before) {
		if strings.HasPrefix(line, "- ") || strings.Contains(line, "reachable=no") {
			t.Errorf("a node was dropped: %s", line)
		}
	}

	began = time.Now()
	wait.Must(t, d.Unplug(wait.Soon(t), "eth0"))
	unreached := listed("d1@hostd.local", unreachable)
	gone := condition{"d1@hostd.local goes", func(known map[string]registry.Node) bool {
		return !some(known, registry.Peer, "d1@hostd.local", nil)
	}}
	either := condition{"d1@hostd.local can't be reached", func(known map[string]registry.Node) bool {
		return unreached.holds(known) || gone.holds(known)
	}}
	m.unreachable = seen.until(t, either).Sub(began)
	m.gone = seen.until(t, gone).Sub(began)
	return m
}

// TestEtcd has hosts find each other by etcd, which is away for a while.
func TestEtcd(t *testing.T) {
	t.Parallel()
	t.Logf("%+v", etcdOutage(t, 3*time.Second, 0))
}

// TestEtcdMemory has a thousand hosts in etcd, and measures the companion's own memory.
func TestEtcdMemory(t *testing.T) {
	t.Parallel()
	const hosts, most = 1000, 40 << 10 // KiB
	server := etcd.Start(t)
	for i := range hosts / 100 {
		var lines strings.Builder
		for j := range 100 {
			fmt.Fprintf(&lines, "put /eclus/v1/epmds/%032x 10.1.%d.%d:4369\n", i*100+j, i, j+1)
		}
		server.Txn(t, lines.String())
	}
	file := filepath.Join(t.TempDir(), "etcd.nodes")
	c := exec.Command(companionBinary(t), "-endpoints", server.URL(), "-advertise", "192.0.2.1", "-nodes_file", file)
	wait.Must(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	lines := func(n int) {
		t.Helper()
		wait.Until(t, fmt.Sprintf("%d hosts in the file", n), func() error {
			text, err := os.ReadFile(file)
			if got := strings.Count(string(text), "\n@"); err != nil || got != n {
				return fmt.Errorf("there are %d, %v", got, err)
			}
			return nil
		})
	}
	lines(hosts)
	server.Ctl(t, "put", "/eclus/v1/epmds/one-more", "10.2.0.1:4369")
	lines(hosts + 1)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	wait.Must(t, err)
	anon, err := strconv.Atoi(regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindStringSubmatch(string(status))[1])
	wait.Must(t, err)
	t.Logf("RssAnon with %d hosts: %d KiB", hosts, anon)
	if anon > most {
		t.Errorf("RssAnon is %d KiB; want at most %d", anon, most)
	}
	// A crash leaves the file, and a new one goes on with it while etcd is away.
	wait.Must(t, c.Process.Kill())
	c.Wait()
	lines(hosts + 1)
}

// TestEtcdApart holds that epmd has nothing of etcd: neither its go.mod nor its packages.
func TestEtcdApart(t *testing.T) {
	text, err := os.ReadFile("../go.mod")
	wait.Must(t, err)
	for _, list := range []string{string(text), outputOf(t, "go", "list", "-deps", "../cmd/epmd")} {
		if found := regexp.MustCompile(`\S*(etcd|grpc|zap|protobuf)\S*`).FindString(list); found != "" {
			t.Errorf("epmd has %s", found)
		}
	}
}

func TestEtcdUnit(t *testing.T) {
	need.Program(t, "systemd-analyze")
	const file = "../systemd/etcd/epmd-etcd.service"
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=15", file).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", regexp.MustCompile("Overall exposure.*").Find(out))
}

// TestEtcdManPage holds that the manual page has all flags, and the catalog all messages.
func TestEtcdManPage(t *testing.T) {
	const page = etcdModule + "/epmd-etcd.8"
	if out := outputOf(t, "groff", "-man", "-ww", "-z", page); out != "" {
		t.Errorf("groff says\n%s", out)
	}
	text, err := os.ReadFile(page)
	wait.Must(t, err)
	flags := regexp.MustCompile(`(?m)^    -(\w+)`).FindAllStringSubmatch(outputOf(t, companionBinary(t), "-h"), -1)
	if len(flags) < 12 {
		t.Errorf("the usage has %d flags; want 12", len(flags))
	}
	for _, flag := range flags {
		if !regexp.MustCompile(`\\-` + flag[1] + `\b`).Match(text) {
			t.Errorf("-%s is in the usage only", flag[1])
		}
	}
	source, err := os.ReadFile(etcdModule + "/internal/state/state.go")
	wait.Must(t, err)
	catalog, err := os.ReadFile("../systemd/etcd/epmd-etcd.catalog")
	wait.Must(t, err)
	for _, id := range regexp.MustCompile(`message\.ID = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		if !strings.Contains(string(catalog), "\n-- "+id[1]+"\n") {
			t.Errorf("the catalog does not have %s", id[1])
		}
	}
}

// etcdPackage makes the package of the companion.
func etcdPackage(t *testing.T, version string) string {
	t.Helper()
	need.Program(t, "dpkg-deb")
	dir := sources(t)
	runMake(t, dir, "deb-etcd", "VERSION="+version)
	found, err := filepath.Glob(filepath.Join(dir, "build", "eclus-etcd_"+version+"_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %q, %v; want one", found, err)
	}
	return found[0]
}

// TestEtcdPackage installs the companion on a host with systemd, where an etcd runs.
func TestEtcdPackage(t *testing.T) {
	s := debian(t, machine.Options{})
	need.Program(t, "etcd")
	s.install(t, packaged(t, "1.0.0"))
	s.output(t, "systemd-run", "--quiet", "--unit=an-etcd", "--property=Type=notify", "etcd", "--data-dir=/run/an-etcd")
	s.output(t, "sh", "-c", `echo 'OPTIONS="-advertise 192.0.2.1"' >/etc/default/epmd-etcd`)
	s.output(t, "env", "ETCDCTL_API=3", "etcdctl", "put", "/eclus/v1/epmds/other", "192.0.2.7:4369")
	s.install(t, etcdPackage(t, "1.0.0"), "--force-confold")

	const nodes, service = "/run/epmd/nodes.d/etcd.nodes", "epmd-etcd.service"
	shows := func(property, pattern string) {
		t.Helper()
		wait.Until(t, property+" of the unit", func() error {
			if got, err := s.Show(t.Context(), service, property); err != nil || !regexp.MustCompile(pattern).MatchString(got) {
				return fmt.Errorf("%q, %v; want %s", got, err, pattern)
			}
			return nil
		})
	}
	shows("StatusText", `^etcd 127\.0\.0\.1:2379 at revision \d+; 1 other hosts; this host is 192\.0\.2\.1:4369$`)
	if got := s.output(t, "cat", nodes); !strings.Contains(got, "\n@192.0.2.7:4369\n") {
		t.Errorf("the nodes file is\n%s", got)
	}
	if got := s.output(t, "stat", "-c", "%U %a", nodes); got != "epmd-etcd 644\n" {
		t.Errorf("the nodes file is of %q", got)
	}
	id := strings.TrimSpace(s.output(t, "systemd-id128", "machine-id", "--app-specific=5d26a16e3f0c4b7b9c582de186470fb3"))
	if got := s.output(t, "env", "ETCDCTL_API=3", "etcdctl", "get", "--print-value-only", "/eclus/v1/epmds/"+id); got != "192.0.2.1:4369\n" {
		t.Errorf("etcd has %q of this host", got)
	}

	s.output(t, "systemctl", "stop", "an-etcd")
	shows("StatusText", `^etcd away since .*: connection refused; 1 other hosts`)
	wait.Until(t, "the journal has it", func() error {
		out, err := s.Journal(t.Context(), "-u", "epmd-etcd", "MESSAGE_ID=8e0f4a6c1b7d4f3a9a52c3d06e71b2f4", "SYSLOG_IDENTIFIER=epmd-etcd", "-o", "verbose")
		if err != nil || !regexp.MustCompile(`ERROR=connection`).MatchString(out) {
			return fmt.Errorf("%v\n%s", err, out)
		}
		return nil
	})
	pid, err := s.MainPID(t.Context(), service)
	wait.Must(t, err)
	wait.Must(t, s.Signal(t.Context(), service, syscall.SIGKILL))
	wait.Until(t, "another epmd-etcd runs", func() error {
		if now, err := s.MainPID(t.Context(), service); err != nil || now == pid {
			return fmt.Errorf("process %d, %v", now, err)
		}
		return nil
	})
	shows("StatusText", `^etcd away since .*: connection refused; 1 other hosts`)
	s.output(t, "dpkg", "--remove", "eclus-etcd")
	if got := s.output(t, "sh", "-c", "ls "+nodes+" 2>&1 || true"); !strings.Contains(got, "No such file") {
		t.Errorf("the package leaves %q", got)
	}
	s.output(t, "epmd", "-names")
}
