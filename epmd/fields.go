package epmd

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"time"

	"github.com/goerlang/eclus/registry"
)

// nodeField is a field by which lines and JSON tell of a node.
type nodeField struct {
	key string
	in  place
	of  func(*registry.Node) any // nil: the field is left out

	// read reads what a line has into a node. It is called in the order of the table,
	// for values that are not empty. nil: another field reads it.
	read func(n *registry.Node, s string) error
}

// place says where a field stands.
type place uint8

const (
	everywhere place = iota
	known            // not in the line of a node that has gone
	inLine           // as known, but not in JSON
	inJSON           // in JSON alone
)

// nodeFields are the fields of a node, in the order of lines and of JSON. [Line] says what they
// mean.
var nodeFields = []nodeField{
	{"node", everywhere, func(n *registry.Node) any { return n.Node }, into(func(n *registry.Node) *string { return &n.Node })},
	{"name", everywhere, func(n *registry.Node) any { return n.Name }, into(func(n *registry.Node) *string { return &n.Name })},
	{"host", everywhere, func(n *registry.Node) any { return n.Host }, into(func(n *registry.Node) *string { return &n.Host })},
	{"address", everywhere, firstAddress, nil},
	{"addresses", inJSON, severalAddresses, nil},
	{"port", everywhere, func(n *registry.Node) any { return n.Port }, number("port", func(n *registry.Node) *uint16 { return &n.Port })},
	{"type", known, func(n *registry.Node) any { return n.Type.String() }, readType},
	{"origin", everywhere, func(n *registry.Node) any { return n.Origin.String() }, readOrigin},
	{"creation", known, func(n *registry.Node) any { return ifAny(n.Creation) }, number("creation", func(n *registry.Node) *uint32 { return &n.Creation })},
	{"dist", known, func(n *registry.Node) any { return ifAny(n.Dist.String()) }, readDist},
	{"since", known, func(n *registry.Node) any { return n.Since }, readSince},
	{"sure", inJSON, func(n *registry.Node) any { return n.Sure }, nil},
	{"sure", inLine, func(n *registry.Node) any { return onlyIf(!n.Sure, false) }, readSure},
	{"addresses", inLine, severalAddresses, nil},
	{"high", known, func(n *registry.Node) any { return ifAny(n.High) }, number("high", func(n *registry.Node) *uint16 { return &n.High })},
	{"low", known, func(n *registry.Node) any { return onlyIf(n.High != 0, n.Low) }, number("low", func(n *registry.Node) *uint16 { return &n.Low })},
	{"proto", known, func(n *registry.Node) any { return onlyIf(n.High != 0, n.Protocol) }, number("proto", func(n *registry.Node) *uint8 { return &n.Protocol })},
	{"epmd", everywhere, func(n *registry.Node) any { return ifAny(n.EPMDPort) }, number("epmd", func(n *registry.Node) *uint16 { return &n.EPMDPort })},
	{"via", known, func(n *registry.Node) any { return ifAny(n.Via) }, into(func(n *registry.Node) *string { return &n.Via })},
	{"named", known, func(n *registry.Node) any { return onlyIf(n.Named, true) }, readNamed},
	{"reachable", known, reachable, readReachable},
	{"lan", known, func(n *registry.Node) any { return onlyIf(n.Why != "", false) }, readLAN},
	{"why", known, func(n *registry.Node) any { return ifAny(string(n.Why)) }, readWhy},
	{"pid", known, func(n *registry.Node) any { return ifAny(holder(n).PID) }, nil},
	{"uid", known, func(n *registry.Node) any { return onlyIf(n.Holder != nil, holder(n).UID) }, nil},
	{"unit", known, func(n *registry.Node) any { return ifAny(holder(n).Unit) }, nil},
}

// ifAny leaves the field out if v is 0 or empty.
func ifAny[T comparable](v T) any {
	var none T
	return onlyIf(v != none, v)
}

// onlyIf leaves the field out unless it is to be there.
func onlyIf(there bool, v any) any {
	if !there {
		return nil
	}
	return v
}

func firstAddress(n *registry.Node) any {
	if len(n.Addresses) == 0 {
		return nil
	}
	return n.Addresses[0]
}

func severalAddresses(n *registry.Node) any { return onlyIf(len(n.Addresses) > 1, n.Addresses) }

func reachable(n *registry.Node) any {
	return onlyIf(n.Reach != registry.Unchecked, n.Reach == registry.Reachable)
}

// holder returns the process behind a node, or one of which nothing is known.
func holder(n *registry.Node) registry.Holder {
	if n.Holder == nil {
		return registry.Holder{}
	}
	return *n.Holder
}

// lineValue returns the value of a field as lines have it, not encoded.
func lineValue(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case []netip.Addr:
		list := make([]string, len(v))
		for i, a := range v {
			list[i] = a.String()
		}
		return strings.Join(list, ",")
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// JSONFields returns the fields by which JSON tells of a node, in order. What is not known is left
// out. [Line] says what the keys mean. A value is a string, a number, an address, a list of these
// or a time. false and true stand for no and yes.
func JSONFields(n *registry.Node) iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for i := range nodeFields {
			f := &nodeFields[i]
			if f.in == inLine {
				continue
			}
			if v := f.of(n); v != nil && !yield(f.key, v) {
				return
			}
		}
	}
}

// appendNode appends the line about n to dst.
func appendNode(dst []byte, kind LineKind, n *registry.Node) []byte {
	dst = append(dst, byte(kind))
	for i := range nodeFields {
		f := &nodeFields[i]
		if f.in == inJSON || f.in != everywhere && kind != NodeKnown {
			continue
		}
		if v := f.of(n); v != nil {
			dst = appendField(dst, f.key, lineValue(v))
		}
	}
	return append(dst, '\n')
}

// appendNodes appends the port and a line for each node, as an answer has them.
func appendNodes(dst []byte, port uint16, nodes []*registry.Node) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(port))
	for _, n := range nodes {
		dst = appendNode(dst, NodeKnown, n)
	}
	return dst
}

// into reads a text as it is.
func into(field func(*registry.Node) *string) func(*registry.Node, string) error {
	return func(n *registry.Node, s string) error {
		*field(n) = s
		return nil
	}
}

func number[T uint8 | uint16 | uint32](key string, field func(*registry.Node) *T) func(*registry.Node, string) error {
	return func(n *registry.Node, s string) error { return parseNumber(key, s, field(n)) }
}

func readType(n *registry.Node, s string) error {
	if s == registry.Hidden.String() {
		n.Type = registry.Hidden
	}
	return nil
}

func readDist(n *registry.Node, s string) error {
	n.Dist = registry.DistOf(s)
	return nil
}

func readOrigin(n *registry.Node, s string) error {
	for _, o := range []registry.Origin{registry.LAN, registry.Peer} {
		if s == o.String() {
			n.Origin = o
		}
	}
	return nil
}

func readSince(n *registry.Node, s string) (err error) {
	n.Since, err = time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("since: %w", err)
	}
	return nil
}

func readSure(n *registry.Node, s string) error {
	n.Sure = s != "no"
	return nil
}

func readNamed(n *registry.Node, s string) error {
	n.Named = s == "yes"
	return nil
}

func readReachable(n *registry.Node, s string) error {
	switch s {
	case registry.Reachable.String():
		n.Reach = registry.Reachable
	case registry.Unreachable.String():
		n.Reach = registry.Unreachable
	}
	return nil
}

func readLAN(n *registry.Node, s string) error {
	if s == "no" {
		n.Why = "unknown"
	}
	return nil
}

// readWhy replaces what lan=no has entered.
func readWhy(n *registry.Node, s string) error {
	if n.Why != "" {
		n.Why = registry.Why(s)
	}
	return nil
}

// readAddresses reads the list that a line has, or its only address.
func (l Line) readAddresses(n *registry.Node) error {
	for s := range strings.SplitSeq(cmp.Or(l.Get("addresses"), l.Get("address")), ",") {
		if s == "" {
			continue
		}
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("address: %w", err)
		}
		n.Addresses = append(n.Addresses, addr)
	}
	return nil
}
