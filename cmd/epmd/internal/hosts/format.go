package hosts

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// Format is what a hosts file is for. It decides which nodes count and what the lines of epmd are.
type Format struct {
	begin, end string // the comments around the lines of epmd. All other lines belong to people
	lead       byte   // begins each line of epmd
	struck     byte   // begins it instead when it is struck out
	asks       bool   // whoever reads it asks the epmds there: nodes without one don't count

	// lines returns what stands there of nodes. own reports whether a name is one of this host.
	lines func(nodes []*registry.Node, own func(string) bool) []string
}

// World is a .hosts.erlang, which tells net_adm:world/0 where nodes may be. It has one host a line
// as an Erlang term, and comments (OTP, net_adm(3erl)).
var World = &Format{
	begin:  "%% epmd keeps the lines from here",
	end:    "%% to here: hosts of the local network that have nodes",
	lead:   '\'',
	struck: '%',
	asks:   true,
	lines:  worldLines,
}

// Table is a table of hosts and their addresses, by which names are resolved (hosts(5)). OTP reads
// it as hosts_file of ERL_INETRC. It has one address and one name a line, and comments.
var Table = &Format{
	begin:  "# epmd keeps the lines from here",
	end:    "# to here: hosts that have nodes",
	lead:   ' ',
	struck: '#',
	lines:  tableLines,
}

func worldLines(nodes []*registry.Node, _ func(string) bool) []string {
	var lines []string
	for _, n := range nodes {
		if isHostOfLAN(n.Host) {
			lines = append(lines, "'"+n.Host+"'.")
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// claim is a node that calls a host by a name.
type claim struct {
	node *registry.Node
	owns bool // the name belongs to the host
}

// compareClaims puts those first to which the name belongs, and of these what epmds have told.
func compareClaims(a, b claim) int {
	if a.owns != b.owns {
		return map[bool]int{true: -1, false: 1}[a.owns]
	}
	return cmp.Or(
		cmp.Compare(b.node.Rank, a.node.Rank), cmp.Compare(a.node.Host, b.node.Host), cmp.Compare(a.node.ID, b.node.ID))
}

// tableLines returns lines for the names of hosts. Names that belong to hosts come first. What is
// only claimed is what is left out if the file gets too large.
func tableLines(nodes []*registry.Node, own func(string) bool) []string {
	claims := make(map[string][]claim)
	for _, n := range nodes {
		for name, owns := range namesOf(n) {
			if !own(name) {
				claims[name] = append(claims[name], claim{n, owns})
			}
		}
	}
	for _, of := range claims {
		slices.SortFunc(of, compareClaims)
	}
	names := slices.SortedFunc(maps.Keys(claims), func(a, b string) int {
		if claims[a][0].owns != claims[b][0].owns {
			return compareClaims(claims[a][0], claims[b][0])
		}
		return cmp.Compare(a, b)
	})
	var lines []string
	for _, name := range names {
		for _, addr := range addressesOf(claims[name]) {
			lines = append(lines, fmt.Sprintf(" %v %s", addr, name))
		}
	}
	return lines
}

// namesOf returns how a node's host is called, in lower case, and whether the name belongs to it.
// That is its name on the LAN, and the host in the node's full name. Names of DNS are left to DNS.
// A name in .local counts only where it belongs. localhost leads everybody to themselves.
func namesOf(n *registry.Node) map[string]bool {
	names := make(map[string]bool)
	_, name, _ := strings.Cut(strings.ToLower(n.Node), "@")
	if isHostOfLAN(name) && n.Sure || isLabel(name) && !registry.IsLoopbackHost(name) {
		names[name] = n.Sure
	}
	if host := strings.ToLower(n.Host); isHostOfLAN(host) {
		names[host] = true
	}
	return names
}

// maxAddresses is how many addresses of a name stand in a table.
const maxAddresses = 8

// addressesOf returns where the best of sorted claims lead. The registry has on-link addresses
// first. Those of IPv6 that need a zone are left out, as neither the file nor OTP has zones.
func addressesOf(claims []claim) []netip.Addr {
	var addrs []netip.Addr
	best := claims[0]
	for _, c := range claims {
		if c.owns != best.owns || c.node.Rank != best.node.Rank || c.node.Host != best.node.Host {
			break
		}
		for _, a := range c.node.Addresses {
			if !(a.Is6() && a.IsLinkLocalUnicast()) && !slices.Contains(addrs, a) && len(addrs) < maxAddresses {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// isHostOfLAN reports whether a host can have that name on a LAN, and nodes be told so. It has
// one or more labels before "local" (RFC 6762 section 3). Another name would be looked up
// elsewhere than where it was announced.
func isHostOfLAN(s string) bool {
	const maxLen = 253
	name, local := strings.CutSuffix(s, ".local")
	if !local || len(s) > maxLen {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel reports whether s has only letters, digits and hyphens (RFC 1123 section 2.1).
func isLabel(s string) bool {
	const maxLabel = 63
	return s != "" && len(s) <= maxLabel && strings.Trim(s, "-") == s && !strings.ContainsFunc(s, isNoLDH)
}

func isNoLDH(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-')
}

// with returns a file that has these lines between the comments of epmd. If there are no such
// comments, it adds them at the end. Nothing else is changed.
func (f *Format) with(old []byte, lines []string) ([]byte, error) {
	b, err := f.find(old)
	if err != nil {
		return nil, err
	}
	text := slices.Clone(old[:b.from])
	if !b.found {
		text = append(endLine(text), f.begin+"\n"...)
	}
	for _, line := range lines {
		text = append(append(text, line...), '\n')
	}
	if !b.found {
		text = append(text, f.end+"\n"...)
	}
	return append(text, old[b.to:]...), nil
}

// endLine ends the last line of a text if it isn't.
func endLine(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(text, '\n')
	}
	return text
}

// block is where a file has the lines of epmd.
type block struct {
	from, to int  // after the line that begins it, and where the line begins that ends it
	found    bool // otherwise both are the size of the file
}

// find finds what epmd keeps of a file. The two comments around it must be there once each and
// in order. Else someone has edited them, which is an error.
func (f *Format) find(text []byte) (block, error) {
	var begins, ends []int
	b := block{from: len(text), to: len(text)}
	at := 0
	for line := range bytes.Lines(text) {
		switch strings.TrimRight(string(line), " \t\r\n") {
		case f.begin:
			begins = append(begins, at)
			b.from = at + len(line)
		case f.end:
			ends = append(ends, at)
			b.to = at
		}
		at += len(line)
	}
	b.found = len(begins) == 1
	if len(begins) != len(ends) || len(begins) > 1 || b.from > b.to {
		return block{}, fmt.Errorf("the lines %q and %q must be there once each, in this order, or not at all", f.begin, f.end)
	}
	return b, nil
}
