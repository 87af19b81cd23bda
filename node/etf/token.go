package etf

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Version is the byte that each term begins with, unless it is a [Raw].
const Version = 131

// The tags of the external term format, by their names in OTP without _EXT.
const (
	extNewFloat       = 70
	extBitBinary      = 77
	extCompressed     = 80
	extNewPid         = 88
	extNewPort        = 89
	extNewerReference = 90
	extSmallInteger   = 97
	extInteger        = 98
	extFloat          = 99
	extAtom           = 100
	extReference      = 101
	extPort           = 102
	extPid            = 103
	extSmallTuple     = 104
	extLargeTuple     = 105
	extNil            = 106
	extString         = 107
	extList           = 108
	extBinary         = 109
	extSmallBig       = 110
	extLargeBig       = 111
	extNewFun         = 112
	extExport         = 113
	extNewReference   = 114
	extSmallAtom      = 115
	extMap            = 116
	extFun            = 117
	extAtomUTF8       = 118
	extSmallAtomUTF8  = 119
	extV4Port         = 120
	extLocal          = 121
)

// The limits of the format itself.
const (
	maxAtomLen   = 255   // characters of an atom
	maxStringLen = 65535 // bytes of a STRING_EXT
	maxRefLen    = 5     // words of a reference's ID
)

// kind is what a term is, however it was encoded.
type kind uint8

const (
	kindInt    kind = iota + 1 // n: its value
	kindBig                    // beyond int64; text: little-endian; extra: 1 if negative
	kindFloat                  // n: its bits
	kindAtom                   // text: its name; extra: 1 if that is in Latin-1
	kindTuple                  // n: elements that follow
	kindNil                    // the empty list
	kindString                 // text: elements of a list of bytes
	kindList                   // n: elements that follow, and then the tail
	kindBinary                 // text: its bytes
	kindBits                   // text: its bytes; extra: bits used of the last one
	kindMap                    // n: pairs of key and value that follow
	kindPid                    // extra: the tag; the rest follows
	kindPort                   // the same
	kindRef                    // the same
	kindFun                    // the same
)

// token is a term, or the head of one whose parts follow. It is small enough to be returned in
// registers.
type token struct {
	kind  kind
	extra uint8
	at    int   // where its text begins in the decoder's data
	n     int64 // bytes of its text, if it has one
}

// decoder reads the tokens of one term.
//
// owed is the number of terms that are still to come by the heads that were read. Each takes a
// byte or more, so owed must not exceed the bytes left. That bounds the sum of all lengths in a
// term.
type decoder struct {
	data   []byte
	off    int
	pos    int // where the last token began; -1 for an element of a string
	owed   int64
	depth  int
	atoms  int
	limits Limits
	cut    bool // data holds no more than Limits.Size of what there is
}

// newDecoder returns a decoder of the term at off in data.
func newDecoder(data []byte, off int, limits Limits) *decoder {
	limits = limits.withDefaults()
	size := min(len(data), limits.Size)
	return &decoder{data: data[:size], off: off, owed: 1, limits: limits, cut: size < len(data)}
}

// next reads a token. The caller reads or discards the parts that follow.
func (d *decoder) next() (token, error) {
	d.pos = d.off
	d.owed--
	if d.left() == 0 {
		return token{}, d.short(1)
	}
	tag := d.data[d.off]
	d.off++
	switch tag {
	case extSmallInteger:
		n, err := d.uint(1)
		return token{kind: kindInt, n: n}, err
	case extInteger:
		n, err := d.uint(4)
		return token{kind: kindInt, n: int64(int32(n))}, err
	case extSmallAtomUTF8:
		return d.atom(1, 0)
	case extAtomUTF8:
		return d.atom(2, 0)
	case extSmallAtom:
		return d.atom(1, 1)
	case extAtom:
		return d.atom(2, 1)
	case extBinary:
		return d.bytes(kindBinary, 4)
	case extString:
		return d.bytes(kindString, 2)
	case extNil:
		return token{kind: kindNil}, nil
	case extSmallTuple:
		return d.head(kindTuple, 1)
	case extLargeTuple:
		return d.head(kindTuple, 4)
	case extList:
		return d.head(kindList, 4)
	case extMap:
		return d.head(kindMap, 4)
	}
	return d.rare(tag)
}

// rare reads what follows a tag that is not common.
func (d *decoder) rare(tag byte) (token, error) {
	switch tag {
	case extNewFloat, extFloat:
		return d.float(tag)
	case extSmallBig:
		return d.bigInt(1)
	case extLargeBig:
		return d.bigInt(4)
	case extBitBinary:
		return d.bitString()
	case extNewPid, extPid:
		return token{kind: kindPid, extra: tag}, nil
	case extV4Port, extNewPort, extPort:
		return token{kind: kindPort, extra: tag}, nil
	case extNewerReference, extNewReference, extReference:
		return token{kind: kindRef, extra: tag}, nil
	case extNewFun, extExport, extFun:
		return token{kind: kindFun, extra: tag}, nil
	case extLocal:
		return token{}, d.bad("a term in the local encoding, which only the node that made it can read")
	case extCompressed:
		return token{}, d.bad("a compressed term within another")
	}
	return token{}, d.bad("unknown tag %d", tag)
}

// bad returns the error for a term that can't be read before d.off.
func (d *decoder) bad(format string, args ...any) error {
	return &SyntaxError{d.off, fmt.Sprintf(format, args...)}
}

// over returns the error for a term that is beyond a limit.
func over(format string, args ...any) error {
	return fmt.Errorf("decode term: %w: %s", ErrLimit, fmt.Sprintf(format, args...))
}

// left returns the number of bytes that are still to be read.
func (d *decoder) left() int64 { return int64(len(d.data) - d.off) }

// short returns the error for a term that needs n bytes, which are more than are left.
func (d *decoder) short(n int64) error {
	if d.cut {
		return over("more than %d bytes", d.limits.Size)
	}
	return d.bad("needs %d bytes or more, %d left", n, d.left())
}

// take returns the next n bytes.
func (d *decoder) take(n int64) ([]byte, error) {
	if n > d.left() {
		return nil, d.short(n)
	}
	start := d.off
	d.off += int(n)
	return d.data[start:d.off], nil
}

// uint reads an unsigned big-endian integer of 1, 2 or 4 bytes.
func (d *decoder) uint(size int) (int64, error) {
	b, err := d.take(int64(size))
	if err != nil {
		return 0, err
	}
	return int64(bigEndian(b)), nil
}

// bigEndian returns the integer of up to 8 bytes.
func bigEndian(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// claim adds n to the terms that are to follow.
func (d *decoder) claim(n int64) error {
	if d.owed += n; d.owed > d.left() {
		return d.short(d.owed)
	}
	return nil
}

// head reads the number of parts of a container.
func (d *decoder) head(k kind, size int) (token, error) {
	n, err := d.uint(size)
	if err != nil {
		return token{}, err
	}
	t := token{kind: k, n: n}
	return t, d.claim(t.parts())
}

// parts returns the number of terms that follow the head of a container.
func (t token) parts() int64 {
	switch t.kind {
	case kindTuple:
		return t.n
	case kindList:
		return t.n + 1
	case kindMap:
		return 2 * t.n
	}
	return 0
}

// bytes reads a text after its length in size bytes.
func (d *decoder) bytes(k kind, size int) (token, error) {
	n, err := d.uint(size)
	if err != nil {
		return token{}, err
	}
	t := token{kind: k, at: d.off, n: n}
	_, err = d.take(n)
	return t, err
}

// text returns the text of t, a part of the decoder's data. Of an atom it is in UTF-8.
func (d *decoder) text(t token) []byte {
	b := d.data[t.at : t.at+int(t.n)]
	if t.kind == kindAtom && t.extra != 0 {
		return latin1(b)
	}
	return b
}

// latin1 returns b, whose bytes are characters, in UTF-8. That is b itself if it is ASCII.
func latin1(b []byte) []byte {
	if !slices.ContainsFunc(b, func(c byte) bool { return c >= utf8.RuneSelf }) {
		return b
	}
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

// atom reads the name of an atom after its length in size bytes. It counts the atom.
func (d *decoder) atom(size int, latin1 uint8) (token, error) {
	t, err := d.bytes(kindAtom, size)
	if err != nil {
		return t, err
	}
	if d.atoms++; d.atoms > d.limits.Atoms {
		return t, over("more than %d atoms", d.limits.Atoms)
	}
	t.extra = latin1
	name := d.text(t)
	if !utf8.Valid(name) {
		return t, d.bad("atom %q is not UTF-8", name[:min(len(name), shown)])
	}
	if len(name) > maxAtomLen && utf8.RuneCount(name) > maxAtomLen {
		return t, d.bad("atom of %d characters", utf8.RuneCount(name))
	}
	return t, nil
}

// bitString reads the number of bytes, the bits used of the last one, and the bytes. A bitstring
// of whole bytes is a binary.
func (d *decoder) bitString() (token, error) {
	head, err := d.take(5)
	if err != nil {
		return token{}, err
	}
	n, used := int64(bigEndian(head[:4])), head[4]
	t := token{kind: kindBits, extra: used, at: d.off, n: n}
	if _, err = d.take(n); err != nil {
		return token{}, err
	}
	switch {
	case n == 0 && used == 0, n > 0 && used == 8:
		t.kind = kindBinary
	case n == 0 || used == 0 || used > 8:
		return token{}, d.bad("bitstring of %d bytes with %d bits in the last", n, used)
	}
	return t, nil
}

// float reads 8 bytes of IEEE 754, or 31 of text, which ends at the first NUL.
func (d *decoder) float(tag byte) (token, error) {
	size := int64(8)
	if tag == extFloat {
		size = 31
	}
	b, err := d.take(size)
	if err != nil {
		return token{}, err
	}
	var f float64
	if tag == extNewFloat {
		f = math.Float64frombits(bigEndian(b))
	} else {
		text, _, _ := bytes.Cut(b, []byte{0})
		if f, err = strconv.ParseFloat(string(text), 64); err != nil {
			return token{}, d.bad("float %q", b)
		}
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return token{}, d.bad("float %v", f)
	}
	return token{kind: kindFloat, n: int64(math.Float64bits(f))}, nil
}

// bigInt reads an integer: the number of its bytes, its sign, its magnitude in little-endian.
func (d *decoder) bigInt(size int) (token, error) {
	head, err := d.take(int64(size) + 1)
	if err != nil {
		return token{}, err
	}
	n, sign := int64(bigEndian(head[:size])), head[size]
	t := token{kind: kindBig, extra: min(sign, 1), at: d.off}
	b, err := d.take(n)
	if err != nil {
		return token{}, err
	}
	b = bytes.TrimRight(b, "\x00")
	t.n = int64(len(b))
	if len(b) > 8 {
		return t, nil
	}
	u := littleEndian(b)
	switch {
	case sign == 0 && u <= math.MaxInt64:
		return token{kind: kindInt, n: int64(u)}, nil
	case sign != 0 && u <= 1<<63:
		return token{kind: kindInt, n: -int64(u)}, nil
	}
	return t, nil
}

// littleEndian returns the integer of up to 8 bytes.
func littleEndian(b []byte) uint64 {
	var u uint64
	for i, c := range b {
		u |= uint64(c) << (8 * i)
	}
	return u
}

// enter begins a container. Its reader calls leave at its end.
func (d *decoder) enter() error {
	if d.depth++; d.depth > d.limits.Depth {
		return over("nested deeper than %d", d.limits.Depth)
	}
	return nil
}

func (d *decoder) leave() { d.depth-- }
