package lan

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed host.sh
var hostScript string

// Home is the home folder of commands on every host; each host has its own below that name.
const Home = "/run/home"

// Cookie is the Erlang cookie in Home of every host that was not given another.
const Cookie = "virtual-lan"

// HostOptions say how a host differs from the usual one, which is the zero value. The usual host
// has one address of the network's subnet and a link-local IPv6 address. It has a system bus, and
// Avahi is up on IPv4 and IPv6.
type HostOptions struct {
	Addresses []netip.Prefix // of eth0, instead of the subnet's next one
	AvahiName string         // Avahi's host name; usually the host's
	Cookie    string         // Erlang cookie; usually Cookie
	NoIPv4    bool           // Avahi does not use IPv4
	NoIPv6    bool           // Avahi does not use IPv6
	NoAvahi   bool           // Avahi is not started, but may be with Avahi.Start
	NoBus     bool           // neither bus nor Avahi is started; Bus.Start and Avahi.Start do it
}

// Host is a light host: namespaces in which commands run as on a machine of their own.
type Host struct {
	Bus   *Daemon // dbus-daemon --system; Avahi ends by itself when it does, and stays down
	Avahi *Daemon // avahi-daemon; ready when its server state is RUNNING

	name string
	ns   *anchor

	mu        sync.Mutex
	links     map[string]link // by the interface's name
	processes []*Process
}

// link is where an interface of a host leads.
type link struct {
	network *Network
	port    string // the other end, in the network's namespace
	address netip.Addr
}

// AddHost makes a host and returns when its bus and Avahi are up. name becomes the host's name,
// without a domain; Avahi announces it as name.local.
//
// The host has an empty /run and an /etc of its own. That is a copy of the machine's with other
// hosts, hostname, resolv.conf, nsswitch.conf, machine-id and avahi-daemon.conf. The rest of the
// file system is the machine's. Names in .local are resolved by mdns4_minimal (Debian:
// libnss-mdns), no others at all. What is there of a host that did not come up goes with the
// network.
func (n *Network) AddHost(ctx context.Context, name string, opt HostOptions) (*Host, error) {
	p, err := n.nextPort()
	if err != nil {
		return nil, err
	}
	return n.addHost(ctx, name, opt, p)
}

func (n *Network) addHost(ctx context.Context, name string, opt HostOptions, p port) (*Host, error) {
	ns, err := newAnchor()
	if err != nil {
		return nil, err
	}
	h := &Host{name: name, ns: ns, links: make(map[string]link)}
	h.Bus = h.NewDaemon(`(?m)^unix:`, "dbus-daemon", "--system", "--nofork", "--nopidfile", "--print-address")
	h.Avahi = h.NewDaemon(`Server startup complete`, "avahi-daemon", "--no-drop-root", "--no-chroot")
	if err := n.adopt(h); err != nil {
		return nil, err
	}
	if err := h.setUp(ctx, n, p, opt); err != nil {
		return nil, fmt.Errorf("bring up host %q: %w", name, err)
	}
	return h, nil
}

func (h *Host) setUp(ctx context.Context, n *Network, p port, opt HostOptions) error {
	script := h.ns.command(ctx, "/", "sh", "-c", hostScript, "host.sh", h.name)
	if out, err := script.CombinedOutput(); err != nil {
		return fmt.Errorf("host.sh: %s: %w", bytes.TrimSpace(out), err)
	}
	if err := h.writeFiles(opt); err != nil {
		return err
	}
	if err := h.ns.ip(ctx, "link set lo up\n"); err != nil {
		return err
	}
	if _, err := n.connect(ctx, h, p, opt.Addresses); err != nil {
		return err
	}
	return h.startDaemons(ctx, opt)
}

func (h *Host) startDaemons(ctx context.Context, opt HostOptions) error {
	if opt.NoBus {
		return nil
	}
	if err := h.Bus.Start(ctx); err != nil || opt.NoAvahi {
		return err
	}
	return h.Avahi.Start(ctx)
}

// writeFiles writes what makes a host resolve names as one on a LAN with nothing but mDNS does.
// name.local is never in /etc/hosts: it would hide what Avahi says.
func (h *Host) writeFiles(opt HostOptions) error {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	cookie := opt.Cookie
	if cookie == "" {
		cookie = Cookie
	}
	files := map[string]string{
		"/etc/hosts":                   fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost\n", h.name),
		"/etc/hostname":                h.name + "\n",
		"/etc/resolv.conf":             "",
		"/etc/nsswitch.conf":           "passwd: files\ngroup: files\nhosts: files mdns4_minimal [NOTFOUND=return] dns\n",
		"/etc/machine-id":              strings.ReplaceAll(string(id), "-", ""),
		"/etc/avahi/avahi-daemon.conf": avahiConfig(opt),
		EvaluatorPath:                  evaluator,
	}
	for path, content := range files {
		if err := h.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return h.WriteFile(Home+"/.erlang.cookie", cookie, 0o400)
}

// avahiConfig returns Debian's configuration, apart from wide-area DNS, which has nobody to ask
// here.
func avahiConfig(opt HostOptions) string {
	yes := map[bool]string{true: "yes", false: "no"}
	var b strings.Builder
	fmt.Fprintf(&b, "[server]\nuse-ipv4=%s\nuse-ipv6=%s\n", yes[!opt.NoIPv4], yes[!opt.NoIPv6])
	fmt.Fprintf(&b, "ratelimit-interval-usec=1000000\nratelimit-burst=1000\n")
	if opt.AvahiName != "" {
		fmt.Fprintf(&b, "host-name=%s\n", opt.AvahiName)
	}
	fmt.Fprintf(&b, "[wide-area]\nenable-wide-area=no\n[publish]\npublish-hinfo=no\npublish-workstation=no\n")
	return b.String()
}

// Name returns the host's name, without a domain.
func (h *Host) Name() string { return h.name }

// Address returns the first address of eth0.
func (h *Host) Address() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links["eth0"].address
}

// NetNS returns the file of the host's network namespace, for setns(2). It is there until the
// network is closed.
func (h *Host) NetNS() string { return fmt.Sprintf("/proc/%d/ns/net", h.ns.pid()) }

// Cgroup returns the name of a cgroup for something on the host that has one of its own, such as a
// container. The caller makes the cgroup, directly below the root of each hierarchy where it is
// wanted. The network removes the cgroup, with all below, when it is closed.
func (h *Host) Cgroup() string { return fmt.Sprintf("lan-%d", h.ns.pid()) }

// Path returns where the host's file path is found from outside. Absolute symbolic links on the way
// lead back to the machine's own files.
func (h *Host) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", h.ns.pid()), path)
}

// WriteFile makes path a file with that content, in folders of the host's own: /etc and /run.
// A file or symbolic link that was there is replaced.
func (h *Host) WriteFile(path, content string, mode os.FileMode) error {
	outside := h.Path(path)
	if err := os.RemoveAll(outside); err != nil {
		return err
	}
	return os.WriteFile(outside, []byte(content), mode)
}

// DBusAddress returns the address at which programs outside reach the host's system bus.
func (h *Host) DBusAddress() string {
	return "unix:path=" + h.Path("/run/dbus/system_bus_socket")
}

// Command prepares a command on the host. The caller may add to its small environment (PATH, HOME,
// LANG). It starts in Home, as root, in a process group of its own. It is killed when ctx ends or
// the network is closed. The caller starts it and waits for it, as for any exec.Cmd.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := h.ns.command(ctx, Home, name, args...)
	cmd.Env = append(cmd.Env, "HOME="+Home)
	return cmd
}

// Output runs a command on the host to its end and returns its standard output. The error of one
// that fails tells what it wrote to standard error.
func (h *Host) Output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := h.Command(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s %q: %s: %w", h.name, name, args, bytes.TrimSpace(stderr.Bytes()), err)
	}
	return string(out), nil
}

// AddAddress gives one of the host's interfaces one more address, usable at once.
func (h *Host) AddAddress(ctx context.Context, iface string, address netip.Prefix) error {
	flags := ""
	if address.Addr().Is6() {
		flags = " nodad"
	}
	return h.ns.ip(ctx, fmt.Sprintf("addr add %v dev %s%s\n", address, iface, flags))
}

// LinkDown switches an interface ("eth0") off, as ip link does, and Avahi forgets what it saw
// there. Other hosts' Avahis are told nothing.
func (h *Host) LinkDown(ctx context.Context, iface string) error {
	return h.ns.ip(ctx, "link set "+iface+" down\n")
}

// LinkUp switches an interface on again after LinkDown. It has kept its addresses.
func (h *Host) LinkUp(ctx context.Context, iface string) error {
	return h.ns.ip(ctx, "link set "+iface+" up\n")
}

// Unplug pulls the cable of an interface, which stays up and has no carrier. Avahi does not look at
// that unless configured to (use-iff-running).
func (h *Host) Unplug(ctx context.Context, iface string) error {
	return h.setPort(ctx, iface, "down")
}

// Plug ends what Unplug began.
func (h *Host) Plug(ctx context.Context, iface string) error {
	return h.setPort(ctx, iface, "up")
}

// setPort changes the bridge's end of an interface.
func (h *Host) setPort(ctx context.Context, iface, setting string) error {
	h.mu.Lock()
	l, ok := h.links[iface]
	h.mu.Unlock()
	if !ok {
		return fmt.Errorf("host %s has no interface %q", h.name, iface)
	}
	return l.network.ns.ip(ctx, fmt.Sprintf("link set %s %s\n", l.port, setting))
}

// RemoveInterface takes an interface away, as when a USB adapter is pulled out.
func (h *Host) RemoveInterface(ctx context.Context, iface string) error {
	return h.ns.ip(ctx, "link del "+iface+"\n")
}

// addLink names a new interface.
func (h *Host) addLink(l link) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := fmt.Sprintf("eth%d", len(h.links))
	h.links[name] = l
	return name
}

// SetHostName gives Avahi another host name and returns when it has taken it, which a conflict may
// alter.
func (h *Host) SetHostName(ctx context.Context, name string) error {
	avahi, err := h.Avahi.Process()
	if err != nil {
		return err
	}
	before := len(avahi.Output())
	if _, err := h.Output(ctx, "avahi-set-host-name", name); err != nil {
		return err
	}
	_, err = avahi.waitOutput(ctx, before, h.Avahi.ready)
	return err
}
