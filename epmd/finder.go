package epmd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Finder finds nodes by their full names, as OTP does. It resolves the host and asks the epmd
// there. The zero value is ready for use. Several goroutines may use it.
type Finder struct {
	Port uint16 // of the epmd; default [DefaultPort]
	// Resolve returns the addresses of a host, which may be an address itself. The default is
	// that of package net.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Host is the host name of this host; default os.Hostname.
	Host string
}

// maxOthers is how many bytes of its list are read from an epmd that does not know a node.
const maxOthers = 64 << 10

// NotFoundError says that a host's epmd does not know a node. It is an ErrNotRegistered.
type NotFoundError struct {
	Name   string         // alive name asked for
	At     netip.AddrPort // the epmd
	Others []NamedPort    // that it has, if it says so; names are whatever it has sent
}

// Error names the node, quoted, and how many others are registered.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("epmd at %v: %q is not registered, %d other nodes are", e.At, e.Name, len(e.Others))
}

// Is reports whether target is ErrNotRegistered.
func (e *NotFoundError) Is(target error) bool { return target == ErrNotRegistered }

// Find returns where the node with that full name listens: its port, at all addresses of its
// host. The address where the epmd answered leads. The error is a *NotFoundError if the epmd does
// not know the node.
func (f *Finder) Find(ctx context.Context, node string) ([]netip.AddrPort, error) {
	alive, host, found := strings.Cut(node, "@")
	if !found {
		return nil, fmt.Errorf("find node %q: its name has no host", node)
	}
	addrs, err := f.Addresses(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("find node %q: %w", node, err)
	}
	client := NewClient(f.ports(addrs)...)
	resp, at, err := client.LookupAt(ctx, alive)
	if errors.Is(err, ErrNotRegistered) {
		names, _ := (&Client{MaxNames: maxOthers, addrs: []netip.AddrPort{at}}).Names(ctx)
		err = &NotFoundError{alive, at, names.Nodes}
	}
	if err != nil {
		return nil, fmt.Errorf("find node %q: %w", node, err)
	}
	return AtPort(addrs, at.Addr(), resp.Port), nil
}

// AtPort returns that port at addresses, first leading.
func AtPort(addrs []netip.Addr, first netip.Addr, port uint16) []netip.AddrPort {
	list := []netip.AddrPort{netip.AddrPortFrom(first, port)}
	for _, a := range addrs {
		if a != first {
			list = append(list, netip.AddrPortFrom(a, port))
		}
	}
	return list
}

func (f *Finder) ports(addrs []netip.Addr) []netip.AddrPort {
	list := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		list[i] = netip.AddrPortFrom(a, cmp.Or(f.Port, DefaultPort))
	}
	return list
}

// Addresses returns the addresses of a host in the order to try them. IPv4 leads, as nodes use it
// by default. Link-local addresses come last. If the name of this host resolves nowhere, it
// stands for the loopback addresses.
func (f *Finder) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	resolve := f.Resolve
	if resolve == nil {
		resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := resolve(ctx, host)
	if len(addrs) == 0 && ctx.Err() == nil && f.isOwn(host) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("host %q has no address", host)
	}
	var list []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	return list, err
}

// rank is lower for the addresses that are more likely to work.
func rank(a netip.Addr) int {
	rank := a.BitLen()
	if a.IsLinkLocalUnicast() {
		rank += 1000
	}
	return rank
}

// isOwn reports whether host names this host, as kernel's inet:gethostbyname_self does. A host
// has two names: its host name up to the first dot, and that with the domain. The domain is that
// of the host name or of /etc/resolv.conf.
func (f *Finder) isOwn(host string) bool {
	own := f.Host
	if own == "" {
		own, _ = os.Hostname()
	}
	short, domain, _ := strings.Cut(own, ".")
	switch {
	case short == "":
		return false
	case strings.EqualFold(host, short), strings.EqualFold(host, own):
		return true
	case domain == "":
		domain = resolverDomain()
	}
	return domain != "" && strings.EqualFold(host, short+"."+domain)
}

// resolverDomain returns the domain of this host in /etc/resolv.conf, or "".
func resolverDomain() string {
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return ""
	}
	defer file.Close()
	return parseDomain(file)
}

// parseDomain returns the domain that a resolv.conf names, else the first of its search list.
func parseDomain(r io.Reader) (domain string) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > 1 && (words[0] == "domain" || words[0] == "search") {
			domain = words[1] // the last one counts, as for the resolver
		}
	}
	return strings.TrimSuffix(domain, ".")
}
