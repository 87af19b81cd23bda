package epmd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/goerlang/eclus/registry"
)

// PeerID tells an epmd from all others, whatever its addresses are. It is random, and new at each
// start unless state was restored. The zero PeerID stands for one that is not known.
type PeerID [16]byte

// String returns 32 hexadecimal digits.
func (id PeerID) String() string { return hex.EncodeToString(id[:]) }

// ParsePeerID parses 32 hexadecimal digits. Not all of them are 0.
func ParsePeerID(s string) (PeerID, error) {
	var id PeerID
	if len(s) != hex.EncodedLen(len(id)) {
		return PeerID{}, fmt.Errorf("id %.40q: not 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id == (PeerID{}) {
		return PeerID{}, fmt.Errorf("id %q: not 32 hexadecimal digits, or all are 0", s)
	}
	return id, nil
}

// maxVersion is how many bytes of a version are taken.
const maxVersion = 64

// PeerHello is what an epmd says of itself to another. It is text in a [WatchReq], of fields as
// [Line] has them:
//
//	eclus=VERSION id=ID host=HOST port=PORT
//
// The answer begins with a line of it, without the port. The 4 bytes before all lines tell that.
//
//   - eclus=VERSION id=ID host=HOST
type PeerHello struct {
	Version string // of Eclus; printable, at most 64 bytes
	ID      PeerID
	Host    string // DNS name of its host, as in its lines about nodes; see registry.ValidHost
	Port    uint16 // where it listens
}

// fields returns the fields of a hello that are in both of its forms.
func (h PeerHello) fields() []Field {
	var fields []Field
	if h.ID != (PeerID{}) {
		fields = append(fields, Field{"eclus", h.Version}, Field{"id", h.ID.String()})
	}
	return append(fields, Field{"host", h.Host})
}

// appendRequest appends a hello as a WatchReq has it.
func (h PeerHello) appendRequest(dst []byte) []byte {
	start := len(dst)
	for _, f := range h.fields() {
		dst = appendField(dst, f.Key, f.Value)
	}
	dst = fmt.Appendf(dst, " port=%d", h.Port)
	return append(dst[:start], dst[start+1:]...)
}

// readHello returns what a line or a request says of an epmd, without its port. An answer may be
// without an id.
func readHello(l Line) (h PeerHello, err error) {
	h.Version, h.Host = l.Get("eclus"), l.Get("host")
	if id := l.Get("id"); id != "" {
		if h.ID, err = ParsePeerID(id); err != nil {
			return PeerHello{}, err
		}
	}
	switch {
	case len(h.Version) > maxVersion || strings.ContainsFunc(h.Version, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }):
		return PeerHello{}, fmt.Errorf("version %.80q", h.Version)
	case !registry.ValidHost(h.Host):
		return PeerHello{}, fmt.Errorf("host name %.80q", h.Host)
	}
	return h, nil
}

// parseHello parses the text of a WatchReq. It returns nil if no epmd says it.
func parseHello(text string) (*PeerHello, error) {
	l, err := ParseLine("* " + text)
	if err != nil {
		return nil, err
	}
	if !l.has("eclus") {
		return nil, nil
	}
	h, err := readHello(l)
	if err != nil {
		return nil, err
	}
	if h.ID == (PeerID{}) {
		return nil, errors.New("no id")
	}
	if err := parseNumber("port", l.Get("port"), &h.Port); err != nil || h.Port == 0 {
		return nil, fmt.Errorf("port %.40q", l.Get("port"))
	}
	return &h, nil
}

// PeerAsk is a WatchReq of an epmd of another host.
type PeerAsk struct {
	Hello PeerHello      // what it says of itself; nothing of that is proven
	From  netip.AddrPort // its end of the connection; a link-local address has its zone
	Local netip.Addr     // our end; a link-local address has its zone
}

// IPs says at addresses of which IP versions a node listens.
type IPs uint8

// IP versions. Both are IP4|IP6.
const (
	IP4 IPs = 1 << iota
	IP6
)

// String returns "4", "6", "46" or "".
func (ips IPs) String() string { return [...]string{"", "4", "6", "46"}[ips&(IP4|IP6)] }

// parseIPs parses what String returns. It is not empty.
func parseIPs(s string) (IPs, error) {
	for _, ips := range []IPs{IP4, IP6, IP4 | IP6} {
		if s == ips.String() {
			return ips, nil
		}
	}
	return 0, fmt.Errorf("ip %.40q", s)
}

// PeerNode returns the node that a line of a peer is about, and where it listens. The line is of
// kind NodeKnown or NodeGone. A NodeGone line tells Node, Name and Host alone. All is checked:
// names as registry.ValidNode and ValidHost have it, numbers, and that the alive name is the one
// of the full name. The node has no addresses and no EPMDPort: who asked knows them.
func PeerNode(l Line) (registry.Node, IPs, error) {
	n := registry.Node{
		Node: l.Get("node"), Name: l.Get("name"), Host: l.Get("host"),
		Type: registry.Normal, Origin: registry.LAN, Sure: l.Get("sure") != "no",
	}
	alive, _, _ := strings.Cut(n.Node, "@")
	switch {
	case !registry.ValidNode(n.Node):
		return registry.Node{}, 0, fmt.Errorf("node name %.300q", n.Node)
	case n.Name != alive:
		return registry.Node{}, 0, fmt.Errorf("node %q with name %.300q", n.Node, n.Name)
	case !registry.ValidHost(n.Host):
		return registry.Node{}, 0, fmt.Errorf("node %q: host name %.300q", n.Node, n.Host)
	case l.Kind == NodeGone:
		return n, 0, nil
	}
	ips, err := parseIPs(l.Get("ip"))
	if err == nil {
		err = readPeerNode(l, &n)
	}
	if err != nil {
		return registry.Node{}, 0, fmt.Errorf("node %q: %w", n.Node, err)
	}
	return n, ips, nil
}

// readPeerNode reads what the line of a node has beside names and addresses.
func readPeerNode(l Line, n *registry.Node) error {
	if err := parseNumber("port", l.Get("port"), &n.Port); err != nil || n.Port == 0 {
		return fmt.Errorf("port %.40q", l.Get("port"))
	}
	if l.Get("type") == registry.Hidden.String() {
		n.Type = registry.Hidden
	}
	n.Dist = registry.DistOf(l.Get("dist"))
	if !l.has("high") {
		return nil
	}
	return errors.Join(
		parseNumber("high", l.Get("high"), &n.High),
		parseNumber("low", l.Get("low"), &n.Low),
		parseNumber("proto", l.Get("proto"), &n.Protocol))
}
