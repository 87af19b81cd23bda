package nodesd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// Limits on a line.
const (
	maxLine      = 4096 // bytes, as in the line protocol
	maxAddresses = 16
)

// entry is what a line says: a node, or whose epmd is to be asked.
type entry struct {
	node registry.Node
	who  named.Who // if node has no name
}

// keys are those of the line protocol that a line may have. Others are skipped.
var keys = map[string]bool{
	"host": true, "epmd": true, "type": true, "dist": true, "proto": true, "high": true, "low": true, "addresses": true,
}

// parseLine parses a line without its newline. It has one of two forms:
//
//	@WHO                                      as [named.Parse] has it
//	NAME@HOST ADDRESS:PORT [KEY=VALUE...]     a node, with keys of [epmd.Line]
//
// An empty line, and one that begins with "#", says nothing: ok is false then. All is checked as if
// it had come from the network.
func parseLine(s string) (e entry, ok bool, err error) {
	s = strings.TrimRight(s, "\r")
	if len(s) > maxLine {
		return entry{}, false, fmt.Errorf("more than %d bytes", maxLine)
	}
	words := strings.Fields(s)
	if len(words) == 0 || words[0][0] == '#' {
		return entry{}, false, nil
	}
	if who, is := strings.CutPrefix(words[0], "@"); is {
		if len(words) > 1 {
			return entry{}, false, fmt.Errorf("%q follows %q", words[1], words[0])
		}
		e.who, err = named.Parse(who)
		return e, err == nil, err
	}
	e.node, err = parseNode(words)
	return e, err == nil, err
}

// parseNode parses the words of a node.
func parseNode(words []string) (registry.Node, error) {
	full := words[0]
	name, host, _ := strings.Cut(full, "@")
	switch {
	case !registry.ValidNode(full):
		return registry.Node{}, fmt.Errorf("%.300q is neither the full name of a node nor @ and an epmd", full)
	case registry.IsLoopbackHost(host):
		return registry.Node{}, fmt.Errorf("%q: every host calls itself %q", full, host)
	case len(words) < 2:
		return registry.Node{}, fmt.Errorf("%q without address and port", full)
	}
	at, err := netip.ParseAddrPort(words[1])
	if err != nil || at.Port() == 0 {
		return registry.Node{}, fmt.Errorf("%.300q is not an address with a port, such as 192.0.2.7:9100", words[1])
	}
	n := registry.Node{
		Node: full, Name: name, Host: hostOf(host), Port: at.Port(), Addresses: []netip.Addr{at.Addr().Unmap()},
		Type: registry.Normal, High: 6, Low: 5, Origin: registry.Peer, Sure: true,
	}
	if len(words) > 2 {
		err = readKeys(&n, words[2:])
	}
	if err != nil {
		return registry.Node{}, err
	}
	return n, check(&n)
}

// hostOf returns the name on the LAN of the host in a node's name. Hosts are called so by their
// epmds too, so that both are one.
func hostOf(host string) string {
	if strings.Contains(host, ".") || strings.Contains(host, ":") {
		return host
	}
	return host + ".local"
}

// readKeys reads what follows the address, as the line protocol has it.
func readKeys(n *registry.Node, words []string) error {
	line := epmd.Line{Kind: epmd.NodeKnown, Fields: []epmd.Field{{Key: "node", Value: n.Node}}}
	for _, word := range words {
		if key, _, is := strings.Cut(word, "="); !is || key == "" {
			return fmt.Errorf("%.300q is not KEY=VALUE", word)
		}
	}
	all, err := epmd.ParseLine("+ " + strings.Join(words, " "))
	if err != nil {
		return err
	}
	for _, f := range all.Fields {
		if keys[f.Key] {
			line.Fields = append(line.Fields, f)
		}
	}
	line.Fields = append(line.Fields, epmd.Field{Key: "port", Value: fmt.Sprint(n.Port)})
	read, err := line.Node()
	if err != nil {
		return err
	}
	n.Type, n.Dist, n.EPMDPort = read.Type, read.Dist, read.EPMDPort
	if line.Get("high") != "" {
		n.High, n.Low, n.Protocol = read.High, read.Low, read.Protocol
	}
	if read.Host != "" {
		n.Host = read.Host
	}
	for _, a := range read.Addresses {
		if a = a.Unmap(); a != n.Addresses[0] {
			n.Addresses = append(n.Addresses, a)
		}
	}
	switch t, dist := line.Get("type"), line.Get("dist"); {
	case t != "" && t != "normal" && t != "hidden":
		return fmt.Errorf("type %.40q is neither normal nor hidden", t)
	case dist != "" && n.Dist == 0:
		return fmt.Errorf("dist %.40q is neither tcp nor tls", dist)
	}
	return nil
}

// check checks what no word says by itself.
func check(n *registry.Node) error {
	_, notIP := netip.ParseAddr(n.Host)
	switch {
	case notIP != nil && !registry.ValidHost(n.Host):
		return fmt.Errorf("host name %.300q", n.Host)
	case len(n.Addresses) > maxAddresses:
		return fmt.Errorf("more than %d addresses", maxAddresses)
	}
	for _, a := range n.Addresses {
		needsZone := a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == ""
		badZone := a.Zone() != "" && !named.IsInterfaceName(a.Zone())
		switch {
		case needsZone:
			return fmt.Errorf("%v is link-local and has no zone, as in %[1]v%%eth0", a)
		case badZone, a.IsUnspecified(), a.IsMulticast():
			return errors.New(fmt.Sprintf("%.100q", a.String()) + " is not the address of a host")
		}
	}
	return nil
}
