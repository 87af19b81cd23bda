package way

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// What a step says when it fails: what was seen, and what that means.

const zoneAdvice = "Add the interface that leads there, as in fe80::1%eth0, or give the host's name or another address."

// resolveAdvice says why the host may have no address, and who announces the node.
func (w *Way) resolveAdvice(ctx context.Context) []string {
	known, isKnown := w.known(ctx)
	isLocal := strings.HasSuffix(w.host, ".local")
	switch resolver := w.mdnsResolver(); {
	case isLocal && resolver == mdnsNone:
		return []string{"Names in .local are resolved by multicast DNS, for which this host lacks a resolver: install libnss-mdns."}
	case isKnown && known.Host != w.host:
		return renamedAdvice(w.options.Node, w.host, known)
	case isLocal && resolver == mdnsIPv4 && !w.hasIPv4(known):
		return []string{"/etc/nsswitch.conf has mdns4_minimal, which looks for IPv4 addresses alone, and none is known: write mdns_minimal there."}
	case isLocal:
		return []string{
			"Nobody on the LAN answers to that name. Is the host up, on this network, and avahi-daemon running there and here?",
			"See: avahi-resolve -n " + w.host,
		}
	case isLong(w.host):
		return []string{"DNS and /etc/hosts don't have that host. See: getent ahosts " + w.host}
	}
	return []string{
		"A short name is looked up as it is, in /etc/hosts and the search domains of DNS.",
		"If the host is known by multicast DNS alone, start its node with -name NAME@" + w.host + ".local.",
		"If it is a container of this host, ECLUS_PEER=gateway there makes its nodes known here, on a bridge (docs/containers.md).",
	}
}

// hereAdvice says where the node is if the resolver takes its host for this one, as in a container
// that has its host's /etc/hosts.
func (w *Way) hereAdvice(ctx context.Context) []string {
	known, _ := w.known(ctx)
	isHere := !slices.ContainsFunc(w.addrs, func(a netip.Addr) bool { return !a.IsLoopback() })
	if !isHere || known.Node != w.options.Node || !known.Named {
		return nil
	}
	return []string{
		fmt.Sprintf("%s is loopback here, but what was named by -peer or in a nodes file has the node, at %s.", w.host, addrsText(known.Addresses)),
		"podman copies the host's /etc/hosts into containers. Nodes reach it with -epmd_module eclus_epmd.",
		"Or keep the file out: base_hosts_file=\"none\" in containers.conf.",
	}
}

// knownAdvice says how nodes reach the node by what our epmd knows of it, though the resolver does
// not know its host. It says nothing if they don't, as where only a link-local address is known.
func (w *Way) knownAdvice(known registry.Node) []string {
	const module = "-epmd_module eclus_epmd"
	usable := func(a netip.Addr) bool { return !(a.Is6() && a.IsLinkLocalUnicast()) }
	if known.Node != w.options.Node || known.Reach == registry.Unreachable || !slices.ContainsFunc(known.Addresses, usable) {
		return nil
	}
	_, domain, _ := strings.Cut(w.host, ".")
	isLocal := domain == "local" || strings.HasSuffix(domain, ".local")
	atPort := known.EPMDPort == 0 || known.EPMDPort == w.options.Port
	switch {
	case domain != "" && !isLocal:
		return []string{fmt.Sprintf("epmd knows it. Nodes reach it with %s and -eclus domains '[\"%s\"]'.", module, domain)}
	case atPort && (domain == "" || known.Sure || known.Host == w.host):
		return []string{
			fmt.Sprintf("epmd knows it. Nodes reach it with %s, or by the file of epmd -etc_hosts and ERL_INETRC.", module),
			"See epmd(1), HOSTS FILE.",
		}
	}
	return []string{fmt.Sprintf("epmd knows it. Nodes reach it with %s. The file of epmd -etc_hosts does not have it.", module)}
}

// known returns the node as our epmd knows it from others, else another node of its host. What the
// epmd of a named peer says counts more than an announcement.
func (w *Way) known(ctx context.Context) (found registry.Node, isKnown bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), localTime)
	defer cancel()
	neighbours, err := w.net.neighbours(ctx)
	if err != nil {
		return found, false
	}
	best := 0
	for _, n := range neighbours {
		if rank := w.rank(n); rank > best {
			found, best = n, rank
		}
	}
	return found, best > 0
}

// rank says how much a neighbour tells of where the node is. 0: nothing.
func (w *Way) rank(n registry.Node) int {
	rank := 0
	switch {
	case n.Node == w.options.Node:
		rank = 2
	case n.Host == w.host, strings.HasSuffix(n.Node, "@"+w.host):
		rank = 1
	}
	if rank > 0 && n.Named {
		rank += 2
	}
	return rank
}

// portAdvice says at which other ports of its host the LAN has the node. Any user can start an epmd
// of their own.
func (w *Way) portAdvice(ctx context.Context) (advice []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), localTime)
	defer cancel()
	neighbours, err := w.net.neighbours(ctx)
	if err != nil {
		return nil
	}
	for _, n := range neighbours {
		isIt := n.Node == w.options.Node || n.Name == w.alive && n.Host == w.host
		if isIt && n.EPMDPort != 0 && n.EPMDPort != w.options.Port {
			advice = append(advice, fmt.Sprintf("The LAN has it at the epmd on port %d of %s: epmd -port %[1]d -ping %[3]s, and ERL_EPMD_PORT=%[1]d for nodes.",
				n.EPMDPort, n.Host, n.Node))
		}
	}
	return advice
}

// renamedAdvice says what to do if the LAN has a host under another name.
func renamedAdvice(node, host string, known registry.Node) []string {
	alive, _, _ := strings.Cut(node, "@")
	addrs := make([]string, len(known.Addresses))
	for i, a := range known.Addresses {
		addrs[i] = a.String()
	}
	advice := []string{fmt.Sprintf("The host that has it announces itself as %s (%s).", known.Host, strings.Join(addrs, ", "))}
	if strings.HasSuffix(host, ".local") {
		advice = append(advice, "Avahi renames a host whose name another one has, or that has an underscore in its name.")
	}
	return append(advice, fmt.Sprintf("Start the node with -name %s@%s, or put %s and its address into /etc/hosts.", alive, known.Host, host))
}

// mdnsKind is what the system looks up by multicast DNS.
type mdnsKind int

const (
	mdnsNone mdnsKind = iota
	mdnsIPv4
	mdnsBoth
)

// mdnsResolver returns what nsswitch.conf says. Where it can't be read it is no suspect.
func (w *Way) mdnsResolver() mdnsKind {
	text, err := w.net.switching()
	if err != nil {
		return mdnsBoth
	}
	kind := mdnsNone
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		hosts, found := strings.CutPrefix(strings.TrimSpace(line), "hosts:")
		if !found {
			continue
		}
		for _, word := range strings.Fields(hosts) {
			switch {
			case strings.HasPrefix(word, "mdns4"):
				kind = max(kind, mdnsIPv4)
			case strings.HasPrefix(word, "mdns"), word == "resolve":
				kind = mdnsBoth
			}
		}
	}
	return kind
}

// hasIPv4 reports whether a neighbour has an IPv4 address. If that is not known, it reports whether
// this host has one for others.
func (w *Way) hasIPv4(known registry.Node) bool {
	is4 := func(a netip.Addr) bool { return a.Is4() && !a.IsLoopback() }
	if len(known.Addresses) > 0 {
		return slices.ContainsFunc(known.Addresses, is4)
	}
	prefixes, err := w.net.prefixes()
	return err != nil || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return is4(p.Addr()) })
}

// eachFailed returns what came of each address of the host, and all different advice.
func (w *Way) eachFailed(ctx context.Context, err error, of func(context.Context, *epmd.AddrError) Failure) Failure {
	var errs epmd.AddrErrors
	if !errors.As(err, &errs) {
		return Failure{found: err.Error()}
	}
	var all Failure
	var found []string
	for _, e := range errs {
		f := of(ctx, e)
		found = append(found, f.found)
		for _, line := range f.advice {
			if !slices.Contains(all.advice, line) {
				all.advice = append(all.advice, line)
			}
		}
	}
	all.found = strings.Join(found, "; ")
	return all
}

// epmdFailure says what became of asking the epmd at an address.
func (w *Way) epmdFailure(ctx context.Context, e *epmd.AddrError) Failure {
	at := e.Addr
	switch {
	case lacksZone(at.Addr()):
		return Failed(fmt.Sprintf("%v is a link-local address without its zone", at.Addr()), zoneAdvice)
	case errors.Is(e, syscall.ECONNREFUSED):
		return Failed(fmt.Sprintf("nothing listens on %v for us", at), append(w.portAdvice(ctx),
			"The host is up, but no epmd takes connections there. Does one run (systemctl status epmd.socket; epmd -names on that host)?",
			"It may listen on loopback only: see its -address, and ERL_EPMD_ADDRESS.",
			fmt.Sprintf("If it is in a container, the host's port %d leads there only if it is published.", at.Port()))...)
	case tcp.IsTimeout(e.Err):
		return Failed(fmt.Sprintf("no answer from %v", at),
			fmt.Sprintf("The host is down, or a firewall drops what is for TCP port %d.", at.Port()))
	case errors.Is(e, epmd.ErrNoAnswer), tcp.IsClosed(e.Err):
		return Failed(fmt.Sprintf("%v closes the connection without an answer", at),
			"The epmd there refuses this host, as -allow has it; its log says so (journalctl -u epmd). Or another program listens there.")
	case errors.Is(e, syscall.EHOSTUNREACH):
		return w.unreachable(ctx, e)
	case errors.Is(e, syscall.ENETUNREACH):
		return Failed(fmt.Sprintf("no way to %v", at), "This host has no route to that address: "+e.Err.Error())
	}
	return Failed(e.Error(), "What listens there may be no epmd.")
}

// rejectTime is how long a packet filter takes to reject a connection, there and back. Without one,
// a host of the LAN is found missing after about 3 s.
const rejectTime = 700 * time.Millisecond

// unreachable distinguishes a missing host from a packet filter that rejects with the same error.
// The filter does so at once, and again. A search for a missing host that began earlier can end at
// once too, but once.
func (w *Way) unreachable(ctx context.Context, e *epmd.AddrError) Failure {
	found := fmt.Sprintf("no way to %v", e.Addr)
	down := Failed(found, "The host is down or on another network: "+e.Err.Error())
	if e.After > rejectTime {
		return down
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rejectTime)
	defer cancel()
	if _, err := w.net.connect(ctx, []netip.AddrPort{e.Addr}); !errors.Is(err, syscall.EHOSTUNREACH) {
		return down
	}
	if w.isOnLink(e.Addr.Addr()) {
		return Failed(fmt.Sprintf("connections to %v are rejected", e.Addr),
			fmt.Sprintf("The host is there, and a firewall rejects what is for TCP port %d (with \"host unreachable\"): open it there.", e.Addr.Port()))
	}
	return Failed(found, fmt.Sprintf("A router says so at once: the host is down, or a firewall rejects what is for TCP port %d.", e.Addr.Port()))
}

func (w *Way) isOnLink(a netip.Addr) bool {
	prefixes, err := w.net.prefixes()
	return err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
}

// othersAdvice says which names are registered.
func othersAdvice(names epmd.Names, err error) []string {
	const most = 20
	if err != nil {
		return []string{"Which nodes are can't be told: " + err.Error()}
	}
	var list []string
	for _, n := range names.Nodes {
		list = append(list, n.Name)
	}
	switch n := len(list); {
	case n == 0:
		return []string{"Nor is any other: is the node started with -name or -sname, and not with -start_epmd false or another epmd module?"}
	case n > most && names.Cut:
		return []string{"These are, and many more: " + strings.Join(list[:most], ", ")}
	case n > most:
		return []string{fmt.Sprintf("These are, and %d more: %s", n-most, strings.Join(list[:most], ", "))}
	}
	return []string{"These are: " + strings.Join(list, ", ")}
}

// connectFailure says what became of connecting to the node's port at an address.
func (w *Way) connectFailure(_ context.Context, e *epmd.AddrError) Failure {
	at := e.Addr
	switch {
	case lacksZone(at.Addr()):
		return Failed(fmt.Sprintf("%v is a link-local address without its zone", at.Addr()))
	case errors.Is(e, syscall.ECONNREFUSED):
		return Failed(fmt.Sprintf("nothing listens on %v for us", at),
			"The node may listen on one address only (inet_dist_use_interface), or a firewall rejects the port.", publishAdvice)
	case tcp.IsTimeout(e.Err):
		return Failed(fmt.Sprintf("no answer from %v", at), "A firewall drops what is for that port. "+portRangeAdvice)
	case errors.Is(e, syscall.EHOSTUNREACH) && at.Addr() == w.epmd.Addr():
		return Failed(fmt.Sprintf("connections to %v are rejected", at), "The epmd answers there, so a firewall rejects that port. "+portRangeAdvice)
	case errors.Is(e, syscall.EHOSTUNREACH), errors.Is(e, syscall.ENETUNREACH):
		return Failed(fmt.Sprintf("no way to %v", at))
	}
	return Failed(e.Error())
}

// publishAdvice is for a node whose epmd can be reached from outside its container.
const publishAdvice = "If it is in a container, give it one port (-kernel inet_dist_listen_min 9100 inet_dist_listen_max 9100), and publish that (-p 9100:9100)."

const portRangeAdvice = "Nodes take any port unless told a range (-kernel inet_dist_listen_min and _max): open it."

// nameAdvice says what it means that the node has another name.
func (w *Way) nameAdvice(ctx context.Context) []string {
	const patience = 2 * time.Second
	_, host, _ := strings.Cut(w.Identity.Name, "@")
	advice := []string{"Nodes talk to it by that name only: epmd -ping " + w.Identity.Name}
	if isLong(host) != isLong(w.host) {
		advice = append(advice, "Nodes with short names (-sname) and nodes with long ones (-name) can't be connected.")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := w.net.addresses(ctx, host); err != nil {
		advice[0] = fmt.Sprintf("Nodes talk to it by that name only, and %s resolves nowhere here: its host is known as %s.", host, w.host)
		advice = append(advice, fmt.Sprintf("Start the node with -name %s, or put %s and its address %v into /etc/hosts.", w.options.Node, host, w.addr.Addr()))
	}
	return advice
}
