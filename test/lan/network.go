// Package lan brings up a virtual LAN on one Linux machine: a bridge and light hosts around it,
// each with network, mount and UTS namespaces, a D-Bus system bus and an avahi-daemon of its own.
// It is for end-to-end tests and demonstrations; it needs root and the tools that [Check] looks
// for.
//
//	n, err := lan.New(ctx, lan.DefaultSubnet)
//	if err != nil { ... }
//	defer n.Close()
//	hosts, err := n.AddHosts(ctx, lan.HostOptions{}, "hosta", "hostb")
//	node, err := hosts[0].StartErl(ctx, "-name", "a@hosta.local")
//	pong, err := node.Eval(ctx, `net_adm:ping('b@hostb.local').`)
//
// Nothing is named, bound, mounted or routed in the machine's own namespaces. All that a network
// consists of lives in namespaces held by one process each, which kills all that runs there when
// [Network.Close] is called, or when the program that made it has ended in whatever way, SIGKILL
// included. Hosts share the machine's file system except /run and /etc, its processes' ids and its
// clock.
//
// All methods may be called concurrently. Contexts bound waiting, and for commands and processes
// their life; deadlines are the caller's.
package lan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// DefaultSubnet is a subnet for a first network, OtherSubnet one for a second (RFC 5737: for
// documentation, routed nowhere).
const (
	DefaultSubnet = "198.51.100.0/24"
	OtherSubnet   = "203.0.113.0/24"
)

// Hosts are numbered from firstHost on within their subnet.
const (
	firstHost = 11
	lastHost  = 254
)

// Network is an Ethernet segment, a bridge, and the hosts that were made on it.
type Network struct {
	subnet netip.Prefix
	ns     *anchor

	mu    sync.Mutex
	ports int
	hosts []*Host
	once  sync.Once
}

// New makes a network without hosts, whose hosts get addresses of subnet, an IPv4 /24. Close it.
func New(ctx context.Context, subnet string) (*Network, error) {
	prefix, err := netip.ParsePrefix(subnet)
	if err != nil || !prefix.Addr().Is4() || prefix.Bits() != 24 {
		return nil, fmt.Errorf("subnet %q is not an IPv4 /24", subnet)
	}
	ns, err := newAnchor()
	if err != nil {
		return nil, err
	}
	n := &Network{subnet: prefix.Masked(), ns: ns}
	// Without these a bridge holds multicast back until it has learned who listens. It holds a new
	// port back for as long as it listens for loops.
	const bridge = "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n"
	if err := ns.ip(ctx, bridge); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close kills all that runs on the network's hosts. It waits until that is gone, with the
// namespaces. Calls after the first return nil.
func (n *Network) Close() (err error) {
	n.once.Do(func() { err = n.close() })
	return err
}

func (n *Network) close() error {
	n.mu.Lock()
	n.ns.release() // from here on no host is adopted
	hosts := n.hosts
	n.mu.Unlock()
	for _, h := range hosts {
		h.ns.release()
	}
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.ns.wait())
		h.join()
	}
	return errors.Join(append(errs, n.ns.wait())...)
}

// AddHosts makes hosts with the same options at the same time. They are returned, and numbered, in
// the order of names.
func (n *Network) AddHosts(ctx context.Context, opt HostOptions, names ...string) ([]*Host, error) {
	hosts := make([]*Host, len(names))
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range names {
		p, err := n.nextPort()
		if err != nil {
			return nil, errors.Join(err, group.Wait())
		}
		group.Go(func() (err error) {
			hosts[i], err = n.addHost(ctx, name, opt, p)
			return err
		})
	}
	return hosts, group.Wait()
}

// adopt makes the network responsible for taking h down, if it is not closed already.
func (n *Network) adopt(h *Host) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns.closed.Load() {
		return errors.Join(ErrClosed, h.ns.wait())
	}
	n.hosts = append(n.hosts, h)
	return nil
}

// port is a socket of the bridge, and the address that belongs to it.
type port struct {
	name    string // the bridge's end of the veth pair
	address netip.Prefix
}

// nextPort picks a port that nobody has used.
func (n *Network) nextPort() (port, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	number := firstHost + n.ports
	if number > lastHost {
		return port{}, fmt.Errorf("no address left in %v", n.subnet)
	}
	n.ports++
	ip := n.subnet.Addr().As4()
	ip[3] = byte(number)
	return port{
		name:    fmt.Sprintf("port%d", number),
		address: netip.PrefixFrom(netip.AddrFrom4(ip), n.subnet.Bits()),
	}, nil
}

// Attach connects h to the network by one more interface and returns its name: eth0, eth1 and so
// on. Without addresses it gets the subnet's next one. The host may have been made on another
// network.
func (n *Network) Attach(ctx context.Context, h *Host, addresses ...netip.Prefix) (string, error) {
	p, err := n.nextPort()
	if err != nil {
		return "", err
	}
	return n.connect(ctx, h, p, addresses)
}

// connect lays the cable between a port and a new interface of h, whose name it returns. What h
// sends from then on reaches the other hosts: the kernel lets a port begin in its own time.
func (n *Network) connect(ctx context.Context, h *Host, p port, addresses []netip.Prefix) (string, error) {
	if len(addresses) == 0 {
		addresses = []netip.Prefix{p.address}
	}
	iface := h.addLink(link{network: n, port: p.name, address: addresses[0].Addr()})
	// The host's end is made in its namespace right away and passes through no other.
	pair := fmt.Sprintf("link add %s type veth peer name %s netns %d\nlink set %[1]s master br0 up\n",
		p.name, iface, h.ns.pid())
	if err := n.ns.ip(ctx, pair); err != nil {
		return "", fmt.Errorf("attach %s: %w", h.name, err)
	}
	for _, a := range addresses {
		if err := h.AddAddress(ctx, iface, a); err != nil {
			return "", err
		}
	}
	if err := h.LinkUp(ctx, iface); err != nil {
		return "", err
	}
	return iface, Wait(ctx, h.name+"'s port of the bridge", func(ctx context.Context) (bool, error) {
		out, err := n.ns.command(ctx, "/", "ip", "-json", "-details", "link", "show", "dev", p.name).Output()
		return bytes.Contains(out, []byte(`"state":"forwarding"`)), err
	})
}

// Wait asks cond at once and then again and again. The pauses are an eighth of the wait so far, at
// least 2 ms and at most 100 ms. Wait ends when cond says true or fails, or when ctx ends. It is
// for what tells nobody when it happens. what ends the sentence "waiting for ...".
func Wait(ctx context.Context, what string, cond func(context.Context) (bool, error)) error {
	for begin := time.Now(); ; {
		ok, err := cond(ctx)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-time.After(min(max(time.Since(begin)/8, 2*time.Millisecond), 100*time.Millisecond)):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}
