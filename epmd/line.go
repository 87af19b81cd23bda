package epmd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goerlang/eclus/registry"
)

// LineKind is the first character of a Line.
type LineKind byte

// Kinds of lines.
const (
	NodeKnown   LineKind = '+' // a node that is known, is new or has changed
	NodeGone    LineKind = '-' // a node that is known no longer
	SnapshotEnd LineKind = '=' // WatchReq only: all that follows is a change
	PeerName    LineKind = '*' // between hosts only: which epmd answers; see PeerHello
	NoStream    LineKind = '!' // WatchReq only: an epmd of another host that gives no stream
)

// Line is a line of the answer to NodesReq and WatchReq. Before the lines stands the port of the
// epmd in 4 bytes, big-endian, as in the answer to NamesReq. A line is UTF-8 and ends in "\n". A
// space stands before each field:
//
//	KIND KEY=VALUE KEY=VALUE ...
//
//	+ node=a@a1.local name=a host=a1.local address=198.51.100.11 port=41237 type=normal origin=lan
//	= nodes=1 lan=on
//	- node=a@a1.local name=a host=a1.local address=198.51.100.11 port=41237 origin=lan epmd=4369
//
// A local node is known by its name. One of another host is known by name, host and epmd. A line
// replaces what an earlier one said of the same node, even if the full name differs.
//
// Spaces, "%", control characters and what is not printable are percent-encoded in values. Skip
// keys that you don't know. Those of a node are
//
//	node       full name; what the node calls itself unless sure=no is there
//	name       alive name
//	host       host name on the LAN
//	address    the address most likely to be reached
//	addresses  if there is more than one: all, with commas
//	port       distribution port
//	type       normal or hidden
//	origin     local, lan, or peer: elsewhere, known by the address of its epmd
//	creation   in decimal, if known
//	dist       tcp or tls, if known
//	since      when it was registered or first seen, RFC 3339 in UTC
//	sure       no: node was put together from name and host
//	high, low  distribution versions spoken, if known
//	proto      if high is there: 0 for TCP/IPv4, as ALIVE2_REQ has it
//	epmd       port of the epmd that it is registered with; neighbours only
//	via        how a neighbour is known: mdns, epmd (its own says so) or a nodes file's name
//	named      yes: this host's owner has named its epmd, or the node itself
//	reachable  yes or no: the epmd of its host answers and has it; missing until it was asked
//	lan        no: no other host can reach it, and none is told of it; local nodes only
//	why        if lan=no is there: the reason, see [registry.Why]
//	pid        process that holds the name; local nodes only, if known, as the next two
//	uid        user ID of that process, in decimal
//	unit       systemd unit that it runs in
//
// Those of the end of the snapshot are
//
//	nodes      their number
//	lan        on or off
//	published  no: this host is not announced though lan is on
//	reason     why lan is off, or this host is not announced
//
// Those of a NoStream, which comes before the end of the snapshot, are
//
//	host       host name on the LAN, if known
//	address    where the epmd was asked
//	port       its port there
//	reason     why it gives no stream
//
// Between hosts a node has the keys node, name, host, port, type, dist, sure, high, low, proto, and
//
//	ip         4, 6 or 46: it listens at addresses of these IP versions
//
// A node that has gone has node, name and host there, and the end of the snapshot nodes. A line has
// at most 4,096 bytes. [PeerHello] has the keys of a PeerName.
type Line struct {
	Kind   LineKind
	Fields []Field
}

// Field is a key and its value, which is decoded.
type Field struct{ Key, Value string }

// Get returns the value of the first field of that key, or "".
func (l Line) Get(key string) string {
	for _, f := range l.Fields {
		if f.Key == key {
			return f.Value
		}
	}
	return ""
}

// has reports whether there is a field of that key.
func (l Line) has(key string) bool {
	return slices.ContainsFunc(l.Fields, func(f Field) bool { return f.Key == key })
}

// Append appends the line, its newline included, to dst.
func (l Line) Append(dst []byte) []byte {
	dst = append(dst, byte(l.Kind))
	for _, f := range l.Fields {
		dst = appendField(dst, f.Key, f.Value)
	}
	return append(dst, '\n')
}

// ParseLine parses a line, which may end in a newline.
func ParseLine(s string) (Line, error) {
	s = strings.TrimSuffix(s, "\n")
	if s == "" || len(s) > 1 && s[1] != ' ' {
		return Line{}, fmt.Errorf("line %q: no kind", s)
	}
	l := Line{Kind: LineKind(s[0])}
	for word := range strings.FieldsSeq(s[1:]) {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			continue
		}
		value, err := unescape(value)
		if err != nil {
			return Line{}, fmt.Errorf("line %q: %s: %w", s, key, err)
		}
		l.Fields = append(l.Fields, Field{key, value})
	}
	return l, nil
}

// Node returns the node that a line of kind NodeKnown or NodeGone is about.
func (l Line) Node() (registry.Node, error) {
	n := registry.Node{Node: l.Get("node"), Type: registry.Normal, Sure: true}
	if n.Node == "" {
		return registry.Node{}, errors.New("line without node=")
	}
	if err := l.readNode(&n); err != nil {
		return registry.Node{}, fmt.Errorf("node %q: %w", n.Node, err)
	}
	return n, nil
}

func (l Line) readNode(n *registry.Node) (err error) {
	for _, f := range nodeFields {
		s := l.Get(f.key)
		if f.read == nil || s == "" && f.key != "port" {
			continue
		}
		if err := f.read(n, s); err != nil {
			return err
		}
	}
	if n.Holder, err = l.holder(); err != nil {
		return err
	}
	return l.readAddresses(n)
}

// parseNumber parses the decimal number in s. An error says that it does not fit.
func parseNumber[T uint8 | uint16 | uint32](key, s string, number *T) error {
	v, err := strconv.ParseUint(s, 10, binary.Size(*number)*8)
	if err != nil {
		return fmt.Errorf("%s %q: %w", key, s, errors.Unwrap(err))
	}
	*number = T(v)
	return nil
}

// holder returns what the line says of the process that holds a name, or nil.
func (l Line) holder() (*registry.Holder, error) {
	s := l.Get("uid")
	if s == "" {
		return nil, nil
	}
	h := &registry.Holder{Unit: l.Get("unit")}
	if err := parseNumber("uid", s, &h.UID); err != nil {
		return nil, err
	}
	if s := l.Get("pid"); s != "" {
		pid, err := strconv.ParseUint(s, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("pid %q: %w", s, errors.Unwrap(err))
		}
		h.PID = int32(pid)
	}
	return h, nil
}

// appendNoStream appends the line of an epmd that gives no stream.
func appendNoStream(dst []byte, n registry.NoStream) []byte {
	l := Line{Kind: NoStream}
	if n.Host != "" {
		l.Fields = []Field{{"host", n.Host}}
	}
	l.Fields = append(l.Fields, Field{"address", n.EPMD.Addr().String()}, Field{"port", strconv.Itoa(int(n.EPMD.Port()))}, Field{"reason", n.Why})
	return l.Append(dst)
}

// NoStream returns the epmd that a line of kind NoStream is about.
func (l Line) NoStream() (n registry.NoStream, err error) {
	n = registry.NoStream{Host: l.Get("host"), Why: l.Get("reason")}
	addr, err := netip.ParseAddr(l.Get("address"))
	if err != nil {
		return registry.NoStream{}, fmt.Errorf("no stream: %w", err)
	}
	var port uint16
	if err := parseNumber("port", l.Get("port"), &port); err != nil {
		return registry.NoStream{}, fmt.Errorf("no stream: %w", err)
	}
	n.EPMD = netip.AddrPortFrom(addr, port)
	return n, nil
}

// appendSnapshotEnd appends the line that ends a snapshot of that many nodes.
func appendSnapshotEnd(dst []byte, nodes int, lan registry.LANState) []byte {
	end := Line{SnapshotEnd, []Field{{"nodes", strconv.Itoa(nodes)}, {"lan", "on"}}}
	if off := lan.Off(); off != "" {
		end.Fields[1].Value = "off"
		end.Fields = append(end.Fields, Field{"reason", off})
	} else if unpublished := lan.Unpublished(); unpublished != "" {
		end.Fields = append(end.Fields, Field{"published", "no"}, Field{"reason", unpublished})
	}
	return end.Append(dst)
}

func appendField(dst []byte, key, value string) []byte {
	dst = append(append(append(dst, ' '), key...), '=')
	for len(value) > 0 {
		size := 1
		plain := isPlain[value[0]]
		if value[0] >= utf8.RuneSelf {
			var r rune
			r, size = utf8.DecodeRuneInString(value)
			plain = size > 1 && unicode.IsPrint(r)
		}
		if plain {
			dst = append(dst, value[:size]...)
		} else {
			dst = appendEscaped(dst, value[:size])
		}
		value = value[size:]
	}
	return dst
}

// isPlain has the ASCII characters that values have as they are.
var isPlain = func() (plain [256]bool) {
	for c := byte('!'); c <= '~'; c++ {
		plain[c] = c != '%'
	}
	return plain
}()

// appendEscaped percent-encodes all of s.
func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		dst = append(dst, '%', digits[s[i]>>4], digits[s[i]&15])
	}
	return dst
}

// unescape undoes the percent-encoding of a value.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "%") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 > len(s) {
			return "", fmt.Errorf("%q ends within an encoded byte", s)
		}
		c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", fmt.Errorf("%q has %q, which encodes no byte", s, s[i:i+3])
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}
