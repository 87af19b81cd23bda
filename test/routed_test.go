package test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// routedNet is two subnets with a router between them, which forwards no multicast. Hosts of the
// first are near, the others far.
type routedNet struct {
	t         *testing.T
	near, far *lan.Network
	router    *host
}

// Addresses of the router and of subnets.
const (
	nearGateway, farGateway   = "198.51.100.1", "203.0.113.1"
	nearGateway6, farGateway6 = "2001:db8:1::1", "2001:db8:2::1"
)

// beyond has an epmd answer hosts of both subnets. By default it answers private addresses alone.
const beyond = "198.51.100.0/24,203.0.113.0/24,2001:db8::/32,fe80::/10"

// newRouted makes both subnets and the router.
func newRouted(t *testing.T) *routedNet {
	t.Helper()
	r := &routedNet{t: t, near: lan.ForTest(t, append(slices.Clone(tools), "dnsmasq")...)}
	far, err := lan.New(t.Context(), lan.OtherSubnet)
	wait.Must(t, err)
	t.Cleanup(func() { wait.Must(t, far.Close()) })
	r.far = far
	prefix := func(list ...string) (all []netip.Prefix) {
		for _, p := range list {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	opt := lan.HostOptions{NoBus: true, Addresses: prefix(nearGateway+"/24", nearGateway6+"/64")}
	r.router = addHosts(t, r.near, opt, "router")[0]
	_, err = far.Attach(wait.Soon(t), r.router.Host, prefix(farGateway+"/24", farGateway6+"/64")...)
	wait.Must(t, err)
	r.router.sh(t, "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	return r
}

// host makes a host on one of the subnets, whose router is its way out. No epmd runs there yet.
func (r *routedNet) host(name string, n *lan.Network, opt lan.HostOptions) *host {
	r.t.Helper()
	h := addHosts(r.t, n, opt, name)[0]
	gateway, gateway6 := nearGateway, nearGateway6
	if n == r.far {
		gateway, gateway6 = farGateway, farGateway6
	}
	four := h.Address().As4()
	six := strings.TrimSuffix(gateway6, "1") + fmt.Sprint(four[3])
	h.sh(r.t, fmt.Sprintf("ip addr add %s/64 dev eth0 nodad; ip route add default via %s; ip -6 route add default via %s", six, gateway, gateway6))
	return h
}

// sh runs a script on the host.
func (h *host) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := h.Output(wait.Soon(t), "sh", "-ec", script)
	wait.Must(t, err)
	return out
}

// six returns the host's global IPv6 address.
func (h *host) six(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(h.sh(t, "ip -6 -o addr show dev eth0 scope global | sed 's,.*inet6 ,,; s,/.*,,'"))
}

// serveNames has a real DNS server run on the router, for the zone "test". Other hosts ask it.
// It begins to answer with what set has written.
func (r *routedNet) serveNames(t *testing.T, clients ...*host) *dnsServer {
	t.Helper()
	d := &dnsServer{host: r.router}
	d.set(t, "")
	d.Daemon = r.router.NewDaemon(`started, version`, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--pid-file=", "--no-resolv", "--no-hosts", "--addn-hosts=/run/names", "--local=/test/", "--log-facility=-", "--log-queries")
	wait.Must(t, d.Start(wait.Soon(t)))
	for _, h := range clients {
		wait.Must(t, h.WriteFile("/etc/resolv.conf", "nameserver "+nearGateway+"\n", 0o644))
	}
	return d
}

type dnsServer struct {
	*lan.Daemon
	host *host
}

// set replaces the records, which are lines of hosts(5).
func (d *dnsServer) set(t *testing.T, lines string) {
	t.Helper()
	wait.Must(t, d.host.WriteFile("/run/names", lines, 0o644))
	if d.Daemon == nil {
		return
	}
	p, err := d.Process()
	wait.Must(t, err)
	before := strings.Count(p.Output(), "read /run/names")
	d.signal(t, syscall.SIGHUP)
	wait.Must(t, lan.Wait(wait.Soon(t), "dnsmasq to read its records", func(context.Context) (bool, error) {
		return strings.Count(p.Output(), "read /run/names") > before, nil
	}))
}

func (d *dnsServer) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	p, err := d.Process()
	wait.Must(t, err)
	wait.Must(t, p.Signal(sig))
}

// changeLinks has the kernel report news of interfaces, so that names are looked up at once.
func (h *host) changeLinks(t *testing.T) {
	t.Helper()
	h.sh(t, "ip addr add 192.0.2.99/32 dev lo; ip addr del 192.0.2.99/32 dev lo")
}

// TestRoutedDNS has an epmd find others by a name, beyond a router. The answer changes, is long,
// fails and hangs.
func TestRoutedDNS(t *testing.T) {
	t.Parallel()
	r := newRouted(t)
	quiet := lan.HostOptions{NoBus: true}
	a, b, c := r.host("hosta", r.near, quiet), r.host("hostb", r.far, quiet), r.host("hostc", r.near, quiet)
	dns := r.serveNames(t, b)
	dns.set(t, fmt.Sprintf("%s epmds.test\n%s epmds.test\n", a.Address(), a.six(t)))
	a.start(t, "-allow", beyond, "-lan", "off")
	c.start(t, "-allow", beyond, "-lan", "off")
	a.register(t, "a", 4000)
	c.register(t, "c", 4000)
	b.start(t, "-allow", beyond, "-lan", "off", "-peer", "dns:epmds.test")
	seen := b.watch(t)
	seen.until(t, elsewhere("a@hosta.local", true))
	if out := a.sh(t, "ss -Htn state established '( sport = :4369 )' | grep -v 127.0.0.1"); strings.Count(out, "\n") != 1 {
		t.Errorf("not one stream, but\n%s", out)
	}

	dns.set(t, fmt.Sprintf("%s epmds.test\n", c.Address()))
	b.changeLinks(t)
	seen.until(t, elsewhere("c@hostc.local", true))
	a.stop(t)
	seen.until(t, elsewhere("a@hosta.local", false))

	lines := fmt.Sprintf("%s epmds.test\n", c.Address())
	for i := range 499 {
		lines += fmt.Sprintf("203.0.113.%d epmds.test\n10.9.%d.%d epmds.test\n", 2+i%9, 1+i/250, 1+i%250)
	}
	r.router.sh(t, "ip route add unreachable 10.9.0.0/16")
	dns.set(t, lines)
	b.changeLinks(t)
	b.awaitTable(t, `no stream from 5\d\d more`)

	for _, end := range []struct {
		how, back syscall.Signal
	}{{syscall.SIGTERM, 0}, {syscall.SIGSTOP, syscall.SIGCONT}} {
		wait.Must(t, dns.Restart(wait.Soon(t)))
		dns.set(t, fmt.Sprintf("%s epmds.test\n", c.Address()))
		b.changeLinks(t)
		b.awaitTable(t, `elsewhere\n(LAN.*\n)?\nNODE`)
		before := strings.Count(b.epmd.Output(), "not looked up")
		dns.signal(t, end.how)
		b.changeLinks(t)
		begin := time.Now()
		b.register(t, fmt.Sprintf("b%d", end.how), 4000)
		if took := time.Since(begin); took > raced(time.Second) {
			t.Errorf("a registration took %v while DNS was away", took)
		}
		wait.Must(t, lan.Wait(wait.Soon(t), "the log to say that DNS fails", func(context.Context) (bool, error) {
			return strings.Count(b.epmd.Output(), "not looked up") > before, nil
		}))
		c.registerOnly(t, fmt.Sprintf("late%d", end.how), 4000)
		seen.until(t, elsewhere("c@hostc.local", true), elsewhere(fmt.Sprintf("late%d@hostc.local", end.how), true))
		if end.back != 0 {
			dns.signal(t, end.back)
		}
	}
}

// TestRoutedGateway has an epmd find that of its gateway, of each family, and follow the route.
func TestRoutedGateway(t *testing.T) {
	t.Parallel()
	r := newRouted(t)
	quiet := lan.HostOptions{NoBus: true}
	b := r.host("hostb", r.near, quiet)
	other := r.host("other", r.near, quiet)
	r.router.start(t, "-allow", beyond, "-lan", "off")
	other.start(t, "-allow", beyond, "-lan", "off")
	r.router.register(t, "r", 4000)
	other.register(t, "o", 4000)
	b.sh(t, "ip -6 route del default")
	b.start(t, "-allow", beyond, "-lan", "off", "-peer", "gateway")
	seen := b.watch(t)
	seen.until(t, elsewhere("r@router.local", true), elsewhere("o@other.local", false))
	link := strings.TrimSpace(other.sh(t, "ip -6 -o addr show dev eth0 scope link | sed 's,.*inet6 ,,; s,/.*,,'"))
	b.sh(t, "ip -6 route add default via "+link+" dev eth0")
	seen.until(t, elsewhere("r@router.local", true), elsewhere("o@other.local", true))
	b.sh(t, "ip route del default; ip -6 route del default")
	r.router.stop(t)
	other.stop(t)
	seen.until(t, elsewhere("r@router.local", false), elsewhere("o@other.local", false))
	r.router.start(t, "-allow", beyond, "-lan", "off")
	r.router.register(t, "back", 4000)
	b.sh(t, "ip route add default via "+nearGateway)
	seen.until(t, elsewhere("back@router.local", true), elsewhere("o@other.local", false))
}

// TestRoutedNodes has real nodes of two subnets reach each other. Avahi runs on both, and no
// multicast gets through. Neither host resolves the other's name.
func TestRoutedNodes(t *testing.T) {
	t.Parallel()
	dir := application(t)
	r := newRouted(t)
	a, b := r.host("hosta", r.near, lan.HostOptions{}), r.host("hostb", r.far, lan.HostOptions{})
	nameless(t, a, b)
	a.start(t, "-allow", beyond, "-peer", b.Address().String())
	b.start(t, "-allow", beyond, "-peer", a.Address().String())
	for _, tt := range []struct{ flag, a, b string }{
		{"-name", "a@hosta.local", "b@hostb.local"},
		{"-sname", "c@hosta", "d@hostb"},
	} {
		near := a.erl(t, tt.flag, tt.a, "-pa", dir, "-epmd_module", "eclus_epmd")
		far := b.erl(t, tt.flag, tt.b, "-pa", dir, "-epmd_module", "eclus_epmd")
		a.watch(t).until(t, elsewhere(tt.b, true))
		b.watch(t).until(t, elsewhere(tt.a, true))
		awaitValue(t, near, reach(tt.b), "{true,pong}")
		awaitValue(t, far, reach(tt.a), "{true,pong}")
		checkSilent(t, near, far)
	}
}

// TestRoutedTime measures how long after it has registered a node is listed beyond a router.
func TestRoutedTime(t *testing.T) {
	r := newRouted(t)
	quiet := lan.HostOptions{NoBus: true}
	a, b := r.host("hosta", r.near, quiet), r.host("hostb", r.far, quiet)
	a.start(t, "-allow", beyond, "-lan", "off")
	b.start(t, "-allow", beyond, "-lan", "off", "-peer", a.Address().String())
	seen := b.watch(t)
	a.register(t, "first", 4000)
	seen.until(t, elsewhere("first@hosta.local", true))
	var took []time.Duration
	for i := range 40 {
		name := fmt.Sprintf("n%d", i)
		begin := time.Now()
		a.registerOnly(t, name, 4000)
		took = append(took, seen.until(t, elsewhere(name+"@hosta.local", true)).Sub(begin))
	}
	slices.Sort(took)
	p95 := took[len(took)*95/100-1]
	t.Logf("registered to listed beyond a router: median %v, p95 %v, most %v", took[len(took)/2], p95, took[len(took)-1])
	if p95 > 50*time.Millisecond && buildFlags == nil {
		t.Errorf("p95 %v; want at most 50 ms", p95)
	}
}
