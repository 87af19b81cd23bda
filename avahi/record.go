package avahi

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// epmdPort is where an epmd listens unless its TXT record says otherwise. An instance that says
// nothing but this SRV port stands for an epmd.
const epmdPort = 4369

// minEPMDPort is the lowest port at which an epmd is asked. The ports below are those of other
// services, which nobody is to be made to connect to.
const minEPMDPort = 1024

// record is a service instance that was found and resolved. Nothing in it has been checked.
type record struct {
	label string   // name of the instance
	host  string   // SRV target
	port  uint16   // SRV
	text  [][]byte // TXT
	addrs []netip.Addr
}

// version returns what the record says is the version of the host's epmd, or "".
func (r record) version() string {
	version := readText(r.text)["eclus"]
	if strings.ContainsFunc(version, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return ""
	}
	return version
}

// kind is what a record stands for.
type kind uint8

const (
	kindNode kind = iota
	kindEpmd      // the epmd of a host
	kindHost      // a host that announces its nodes itself
)

// parse checks a record and returns what it stands for. That is a node. For other kinds, only
// Host, Port and Addresses of the node are set. Beside our own form (TXT as nodeService makes
// it) it knows
//
//	node=A@H or name=A@H in TXT          the node A@H
//	name=A in TXT                        the node A of the SRV host; its full name is not sure
//	else, eclus= in TXT                  a host that announces its nodes itself
//	else, SRV port 4369                  an epmd that can be asked (Nerves' mdns_lite)
//	else, txtvers= in TXT                nothing: our form, but the name was too long
//	else, instance A@H                   the node A@H; not sure (Eclus of 2014)
//	else, instance A                     the node A of the SRV host; not sure
//
// TXT is read as RFC 6763 has it. Keys are in any case, and of several the first counts. Other
// keys say nothing: Eclus of 2014 wrote email=, jid= and status=.
func parse(r record) (kind, registry.Node, error) {
	n := registry.Node{
		Host:     strings.TrimSuffix(r.host, "."),
		Port:     r.port,
		EPMDPort: epmdPort,
		Type:     registry.Normal,
		Origin:   registry.LAN,
		Via:      registry.ViaMDNS,
	}
	switch {
	case !registry.ValidHost(n.Host):
		return 0, n, fmt.Errorf("host name %q", r.host)
	case r.port == 0:
		return 0, n, errors.New("port 0")
	}
	for _, a := range r.addrs {
		if usable(a) {
			n.Addresses = append(n.Addresses, a.Unmap())
		}
	}
	if len(n.Addresses) == 0 {
		return 0, n, fmt.Errorf("no usable address in %v", r.addrs)
	}
	text := readText(r.text)
	_, host := text["eclus"]
	_, ours := text["txtvers"]
	switch {
	case text["node"] != "" || text["name"] != "":
		n, err := nodeOfText(n, text)
		return kindNode, n, err
	case host && r.port < minEPMDPort:
		return 0, n, fmt.Errorf("epmd at port %d", r.port)
	case host:
		return kindHost, n, nil
	case r.port == epmdPort:
		return kindEpmd, n, nil
	case ours:
		return 0, n, errors.New("neither node= nor name= in TXT")
	}
	n, err := named(n, r.label)
	return kindNode, n, err
}

// nodeOfText adds to n what the TXT record says. Numbers that aren't are taken as not given.
func nodeOfText(n registry.Node, text map[string]string) (registry.Node, error) {
	full, name := text["node"], text["name"]
	if full == "" {
		full = name
	}
	n, err := named(n, full)
	if err != nil {
		return n, err
	}
	if alive, _, _ := strings.Cut(name, "@"); name != "" && alive != n.Name {
		return n, fmt.Errorf("node %q with name %q", full, name)
	}
	n.Sure = strings.Contains(full, "@")
	if text["type"] == registry.Hidden.String() {
		n.Type = registry.Hidden
	}
	n.Dist = registry.DistOf(text["dist"])
	if port := number(text["epmd"], 16); port != 0 {
		n.EPMDPort = uint16(port)
	}
	if n.EPMDPort < minEPMDPort {
		return n, fmt.Errorf("epmd at port %d", n.EPMDPort)
	}
	n.Protocol = uint8(number(text["proto"], 8))
	n.High = uint16(number(text["high"], 16))
	n.Low = uint16(number(text["low"], 16))
	return n, nil
}

// named sets the names of n from a full node name or an alive name. To the latter it adds n's
// host.
func named(n registry.Node, name string) (registry.Node, error) {
	full := name
	if !strings.Contains(name, "@") {
		full = name + "@" + n.Host
	}
	if !registry.ValidNode(full) {
		return n, fmt.Errorf("node name %q", name)
	}
	n.Node = full
	n.Name, _, _ = strings.Cut(full, "@")
	return n, nil
}

// number returns the number in s, or 0 if none of that many bits is there.
func number(s string, bits int) uint64 {
	v, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0
	}
	return v
}

// readText returns the keys and values of a TXT record. Keys are in lower case.
func readText(text [][]byte) map[string]string {
	values := make(map[string]string, len(text))
	for _, s := range text {
		key, value, _ := strings.Cut(string(s), "=")
		key = strings.ToLower(key)
		if _, again := values[key]; key != "" && !again {
			values[key] = value
		}
	}
	return values
}

// usable reports whether another host can be reached at that address. A link-local one needs
// its zone.
func usable(a netip.Addr) bool {
	u := a.Unmap()
	return u.IsValid() && !u.IsUnspecified() && !u.IsLoopback() && !u.IsMulticast() &&
		u != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && (!u.Is6() || !u.IsLinkLocalUnicast() || u.Zone() != "")
}
