package etf

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// Limits bound what a term may cost its receiver. A field that is 0 stands for its default.
//
// Whatever the limits, a length that a term claims for itself is held against the bytes that are left before
// anything is allocated for it, so that decoding into an any takes at most some 24 bytes of memory for each
// byte of the term. Into other types it also takes what the Go value of each element takes.
type Limits struct {
	Depth int // tuples, lists, maps and funs within one another; default 10,000
	Size  int // bytes of the encoded term, once decompressed; default 16 MiB
	Atoms int // atoms, each occurrence counted; default 1,048,576, which is also the size of a node's atom table
}

func (l Limits) withDefaults() Limits {
	if l.Depth == 0 {
		l.Depth = 10_000
	}
	if l.Size == 0 {
		l.Size = 16 << 20
	}
	if l.Atoms == 0 {
		l.Atoms = 1 << 20
	}
	return l
}

// kind is what a term is, however it was encoded.
type kind uint8

const (
	kindInt    kind = iota + 1 // n: its value
	kindBig                    // an integer that needs more than 64 bits; text: little-endian; n: 1 if negative
	kindFloat                  // n: its bits
	kindAtom                   // text: its name in UTF-8
	kindTuple                  // n: elements that follow
	kindNil                    // the empty list
	kindString                 // text: elements of a list of bytes
	kindList                   // n: elements that follow, and then the tail
	kindBinary                 // text: its bytes
	kindBits                   // text: its bytes; n: bits used of the last one
	kindMap                    // n: pairs of key and value that follow
	kindPid                    // n: the tag; the rest follows
	kindPort                   // the same
	kindRef                    // the same
	kindFun                    // the same
)

// token is a term, or the head of one whose parts follow. It is small enough for a function to return in registers.
type token struct {
	kind kind
	n    int64
	text string // its bytes, in the decoder's data: to be copied by what keeps them
}

// decoder reads the tokens of one term.
//
// owed is the number of terms that are still to come by the heads that were read. Each takes a byte or more,
// so that it never exceeds the bytes left: the sum of all lengths in a term is bounded by its size.
type decoder struct {
	data   []byte
	text   string // data itself, for tokens
	kept   string // a copy of data, once a value has kept a part of it
	copied []byte // the same for values that can be changed
	off    int
	pos    int // where the last token began; -1: nowhere, it is one of the decoder's own
	owed   int64
	depth  int
	atoms  int
	limits Limits
	cut    bool // data holds no more than Limits.Size of what there is
	cache  atomCache
}

// maxShared is how long data may be, in bytes, for values to be parts of one copy of it: each keeps all of that alive.
const maxShared = 64 << 10

// string returns the text of the last token, a binary, for a value to keep.
func (d *decoder) string(t token) string {
	if len(d.data) > maxShared {
		return strings.Clone(t.text)
	}
	if d.kept == "" {
		d.kept = string(d.data)
	}
	return d.kept[d.off-len(t.text) : d.off]
}

// clone returns the bytes of the last token, a binary or a string, for a value to keep.
func (d *decoder) clone(t token) []byte {
	start := d.off - len(t.text)
	if len(d.data) > maxShared {
		return slices.Clone(d.data[start:d.off])
	}
	if d.copied == nil {
		d.copied = slices.Clone(d.data)
	}
	return d.copied[start:d.off:d.off]
}

// skip reads an atom if that one, encoded, comes next.
func (d *decoder) skip(atom []byte) bool {
	if d.atoms >= d.limits.Atoms || !bytes.HasPrefix(d.data[d.off:], atom) {
		return false
	}
	d.off += len(atom)
	d.owed--
	d.atoms++
	return true
}

// reset makes d read the term at off in data.
func (d *decoder) reset(data []byte, off int, limits Limits) {
	d.limits = limits.withDefaults()
	d.cut = len(data) > d.limits.Size
	d.data, d.off = data[:min(len(data), d.limits.Size)], off
	d.text = unsafe.String(unsafe.SliceData(d.data), len(d.data))
	d.owed, d.depth, d.atoms = 1, 0, 0
}

// release forgets the data and returns d for other terms.
func (d *decoder) release() {
	d.data, d.text, d.kept, d.copied = nil, "", "", nil
	decoders.Put(d)
}

// next reads a token. Whoever calls it reads the parts that follow, or has them discarded.
//
// What most terms consist of is read here, at one look at the bytes, unless they are about to end.
func (d *decoder) next() (token, error) {
	d.pos = d.off
	d.owed--
	b := d.data[d.off:]
	if len(b) < 5 {
		return d.rest()
	}
	switch n := int64(binary.BigEndian.Uint32(b[1:])); b[0] {
	case extSmallInteger:
		d.off += 2
		return token{kind: kindInt, n: int64(b[1])}, nil
	case extInteger:
		d.off += 5
		return token{kind: kindInt, n: int64(int32(n))}, nil
	case extBinary:
		d.off += 5
		text, err := d.take(n)
		return token{kind: kindBinary, text: text}, err
	case extSmallAtomUTF8:
		d.off += 2
		name, err := d.take(int64(b[1]))
		if err == nil {
			err = d.checkAtom(name)
		}
		return token{kind: kindAtom, text: name}, err
	case extList:
		d.off += 5
		return token{kind: kindList, n: n}, d.claim(n + 1)
	case extMap:
		d.off += 5
		return token{kind: kindMap, n: n}, d.claim(2 * n)
	}
	return d.rest()
}

// rest reads a token of any kind.
func (d *decoder) rest() (token, error) {
	tag, err := d.length(1)
	if err != nil {
		return token{}, err
	}
	return d.read(byte(tag))
}

func (d *decoder) read(tag byte) (token, error) {
	switch tag {
	case extSmallInteger:
		n, err := d.length(1)
		return token{kind: kindInt, n: n}, err
	case extInteger:
		n, err := d.length(4)
		return token{kind: kindInt, n: int64(int32(n))}, err
	case extSmallAtomUTF8, extSmallAtom:
		return d.atom(tag, 1)
	case extAtomUTF8, extAtom:
		return d.atom(tag, 2)
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
	case extNewFloat, extFloat:
		return d.float(tag)
	case extSmallBig:
		return d.big(1)
	case extLargeBig:
		return d.big(4)
	case extBitBinary:
		return d.bits()
	}
	return d.identifier(tag)
}

func (d *decoder) identifier(tag byte) (token, error) {
	t := token{n: int64(tag)}
	switch tag {
	case extNewPid, extPid:
		t.kind = kindPid
	case extV4Port, extNewPort, extPort:
		t.kind = kindPort
	case extNewerReference, extNewReference, extReference:
		t.kind = kindRef
	case extNewFun, extExport, extFun:
		t.kind = kindFun
	case extLocal:
		return t, d.bad("a term in the local encoding, which only the node that made it can read")
	case extCompressed:
		return t, d.bad("a compressed term within another")
	default:
		return t, d.bad("unknown tag %d", tag)
	}
	return t, nil
}

// bad returns the error for a term that can't be read before d.off.
func (d *decoder) bad(format string, args ...any) error {
	return &SyntaxError{d.off, fmt.Sprintf(format, args...)}
}

func (d *decoder) over(format string, args ...any) error {
	return fmt.Errorf("decode term: %w: %s", ErrLimit, fmt.Sprintf(format, args...))
}

// left is the number of bytes that are still to be read.
func (d *decoder) left() int64 { return int64(len(d.data) - d.off) }

// short returns the error for a term that needs n bytes more than are left.
func (d *decoder) short(n int64) error {
	if d.cut {
		return d.over("more than %d bytes", d.limits.Size)
	}
	return d.bad("needs %d bytes or more, %d left", n, d.left())
}

// take returns the next n bytes.
func (d *decoder) take(n int64) (string, error) {
	if n > d.left() {
		return "", d.short(n)
	}
	start := d.off
	d.off += int(n)
	return d.text[start:d.off], nil
}

// fixed returns the next n bytes, which are no text.
func (d *decoder) fixed(n int) ([]byte, error) {
	if int64(n) > d.left() {
		return nil, d.short(int64(n))
	}
	d.off += n
	return d.data[d.off-n : d.off], nil
}

// length reads an unsigned big-endian integer of 1, 2 or 4 bytes.
func (d *decoder) length(size int) (int64, error) {
	if int64(size) > d.left() {
		return 0, d.short(int64(size))
	}
	b := d.data[d.off:]
	d.off += size
	switch size {
	case 1:
		return int64(b[0]), nil
	case 2:
		return int64(binary.BigEndian.Uint16(b)), nil
	default:
		return int64(binary.BigEndian.Uint32(b)), nil
	}
}

// claim has n terms follow.
func (d *decoder) claim(n int64) error {
	if d.owed += n; d.owed > d.left() {
		return d.short(d.owed)
	}
	return nil
}

// head reads the number of parts of a container.
func (d *decoder) head(k kind, size int) (token, error) {
	n, err := d.length(size)
	if err != nil {
		return token{}, err
	}
	t := token{kind: k, n: n}
	return t, d.claim(t.parts())
}

// parts is the number of terms that follow the head of a container.
func (t token) parts() int64 {
	switch t.kind {
	case kindTuple:
		return t.n
	case kindList:
		return t.n + 1
	case kindMap:
		return 2 * t.n
	default:
		return 0
	}
}

// bytes reads bytes after their number.
func (d *decoder) bytes(k kind, size int) (token, error) {
	n, err := d.length(size)
	if err != nil {
		return token{}, err
	}
	text, err := d.take(n)
	return token{kind: k, text: text}, err
}

// bits reads a bitstring: the number of bytes, the bits used of the last one, the bytes. One of whole bytes
// is a binary.
func (d *decoder) bits() (token, error) {
	n, err := d.length(4)
	if err != nil {
		return token{}, err
	}
	used, err := d.length(1)
	if err != nil {
		return token{}, err
	}
	text, err := d.take(n)
	switch {
	case err != nil:
		return token{}, err
	case n == 0 && used == 0, n > 0 && used == 8:
		return token{kind: kindBinary, text: text}, nil
	case n == 0 || used == 0 || used > 8:
		return token{}, d.bad("bitstring of %d bytes with %d bits in the last", n, used)
	}
	return token{kind: kindBits, text: text, n: used}, nil
}

// atom reads the name of an atom after its length in size bytes.
func (d *decoder) atom(tag byte, size int) (token, error) {
	t, err := d.bytes(kindAtom, size)
	if err != nil {
		return t, err
	}
	if tag == extAtom || tag == extSmallAtom {
		t.text = latin1(t.text)
	}
	return t, d.checkAtom(t.text)
}

// checkAtom counts an atom and checks its name.
func (d *decoder) checkAtom(name string) error {
	if d.atoms++; d.atoms > d.limits.Atoms {
		return d.over("more than %d atoms", d.limits.Atoms)
	}
	if !utf8.ValidString(name) {
		return d.bad("atom %q is not UTF-8", name[:min(len(name), shown)])
	}
	if len(name) > maxAtomLen && utf8.RuneCountInString(name) > maxAtomLen {
		return d.bad("atom of %d characters", utf8.RuneCountInString(name))
	}
	return nil
}

// latin1 returns s, whose bytes are characters, in UTF-8: s itself if it is ASCII.
func latin1(s string) string {
	plain := 0
	for plain < len(s) && s[plain] < utf8.RuneSelf {
		plain++
	}
	if plain == len(s) {
		return s
	}
	out := append(make([]byte, 0, 2*len(s)), s[:plain]...)
	for _, c := range []byte(s[plain:]) {
		out = utf8.AppendRune(out, rune(c))
	}
	return string(out)
}

// float reads 8 bytes of IEEE 754, or 31 of text.
func (d *decoder) float(tag byte) (token, error) {
	size := 8
	if tag == extFloat {
		size = 31
	}
	b, err := d.fixed(size)
	if err != nil {
		return token{}, err
	}
	var f float64
	if tag == extNewFloat {
		f = math.Float64frombits(binary.BigEndian.Uint64(b))
	} else if f, err = textFloat(b); err != nil {
		return token{}, d.bad("float %q", b)
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return token{}, d.bad("float %v", f)
	}
	return token{kind: kindFloat, n: int64(math.Float64bits(f))}, nil
}

// textFloat returns the number that a C string stands for. What follows its NUL is whatever was in memory.
func textFloat(b []byte) (float64, error) {
	text, _, _ := bytes.Cut(b, []byte{0})
	return strconv.ParseFloat(string(text), 64)
}

// big reads an integer after the number of its bytes: its sign, then its magnitude, little-endian.
func (d *decoder) big(size int) (token, error) {
	n, err := d.length(size)
	if err != nil {
		return token{}, err
	}
	sign, err := d.length(1)
	if err != nil {
		return token{}, err
	}
	text, err := d.take(n)
	if err != nil {
		return token{}, err
	}
	text = strings.TrimRight(text, "\x00")
	t := token{kind: kindBig, text: text, n: min(sign, 1)}
	if len(text) > 8 {
		return t, nil
	}
	u := littleEndian(text)
	switch {
	case sign == 0 && u <= math.MaxInt64:
		return token{kind: kindInt, n: int64(u)}, nil
	case sign != 0 && u <= 1<<63:
		return token{kind: kindInt, n: -int64(u)}, nil
	}
	return t, nil
}

// littleEndian returns the integer of up to 8 bytes.
func littleEndian(s string) uint64 {
	var u uint64
	for i := range len(s) {
		u |= uint64(s[i]) << (8 * i)
	}
	return u
}

// enter begins a container; its reader calls leave at its end.
func (d *decoder) enter() error {
	if d.depth++; d.depth > d.limits.Depth {
		return d.over("nested deeper than %d", d.limits.Depth)
	}
	return nil
}

func (d *decoder) leave() { d.depth-- }

// discard reads all that follows t, without recursion but for funs.
func (d *decoder) discard(t token) error {
	for left := int64(0); ; left-- {
		if err := d.body(t); err != nil {
			return err
		}
		if left += t.parts(); left == 0 {
			return nil
		}
		var err error
		if t, err = d.next(); err != nil {
			return err
		}
	}
}

// body reads what follows a token that is no container.
func (d *decoder) body(t token) (err error) {
	switch t.kind {
	case kindPid:
		_, err = d.pid(t)
	case kindPort:
		_, err = d.port(t)
	case kindRef:
		_, err = d.ref(t)
	case kindFun:
		err = d.fun(t)
	}
	return err
}

// part reads a term that must be of kind k.
func (d *decoder) part(k kind, what string) (token, error) {
	if err := d.claim(1); err != nil {
		return token{}, err
	}
	t, err := d.next()
	if err == nil && t.kind != k {
		err = d.bad("%s is %v", what, t)
	}
	return t, err
}

func (d *decoder) nodeName() (Atom, error) {
	t, err := d.part(kindAtom, "node of an identifier")
	if err != nil {
		return "", err
	}
	return d.cache.atom(t.text), nil
}

// creation reads 1 byte for a tag that is old, else 4.
func (d *decoder) creation(old bool) (uint32, error) {
	size := 4
	if old {
		size = 1
	}
	n, err := d.length(size)
	return uint32(n), err
}

// pid reads what follows the tag: node, 4 bytes of ID, 4 of serial, creation.
func (d *decoder) pid(t token) (Pid, error) {
	name, err := d.nodeName()
	if err != nil {
		return Pid{}, err
	}
	b, err := d.fixed(8)
	if err != nil {
		return Pid{}, err
	}
	creation, err := d.creation(t.n == extPid)
	return Pid{name, binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), creation}, err
}

// port reads what follows the tag: node, 4 or 8 bytes of ID, creation.
func (d *decoder) port(t token) (Port, error) {
	name, err := d.nodeName()
	if err != nil {
		return Port{}, err
	}
	var id [8]byte
	size := 4
	if t.n == extV4Port {
		size = 8
	}
	b, err := d.fixed(size)
	if err != nil {
		return Port{}, err
	}
	copy(id[8-size:], b)
	creation, err := d.creation(t.n == extPort)
	return Port{name, binary.BigEndian.Uint64(id[:]), creation}, err
}

// ref reads what follows the tag: the number of words, node, creation, words; of a REFERENCE_EXT the node,
// one word and the creation.
func (d *decoder) ref(t token) (r Ref, err error) {
	n := int64(1)
	if t.n != extReference {
		if n, err = d.length(2); err != nil {
			return Ref{}, err
		}
	}
	if n < 1 || n > maxRefLen {
		return Ref{}, d.bad("reference of %d words", n)
	}
	r.Len = uint8(n)
	if r.Node, err = d.nodeName(); err != nil {
		return Ref{}, err
	}
	if t.n == extReference {
		if err = d.words(&r); err != nil {
			return Ref{}, err
		}
		r.Creation, err = d.creation(true)
		return r, err
	}
	if r.Creation, err = d.creation(t.n == extNewReference); err != nil {
		return Ref{}, err
	}
	return r, d.words(&r)
}

func (d *decoder) words(r *Ref) error {
	b, err := d.fixed(4 * int(r.Len))
	if err != nil {
		return err
	}
	for i := range int(r.Len) {
		r.ID[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return nil
}

// fun reads what follows the tag and checks its form.
func (d *decoder) fun(t token) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	switch t.n {
	case extExport:
		return d.kinds(kindAtom, kindAtom, kindInt)
	case extNewFun:
		return d.newFun()
	default:
		return d.oldFun()
	}
}

// newFun reads size=4 (itself included), arity=1, uniq=16, index=4, numfree=4, then module, old index,
// old uniq, pid and the free variables. OTP ignores the size, which is wrong in OTP 23 and 24 when a
// bitstring or an external fun is among the free variables.
func (d *decoder) newFun() error {
	b, err := d.fixed(4 + 1 + 16 + 4 + 4)
	if err != nil {
		return err
	}
	if err := d.kinds(kindAtom, kindInt, kindInt, kindPid); err != nil {
		return err
	}
	return d.discardAll(int64(binary.BigEndian.Uint32(b[25:])))
}

// oldFun reads numfree=4, then pid, module, index, uniq and the free variables.
func (d *decoder) oldFun() error {
	n, err := d.length(4)
	if err != nil {
		return err
	}
	if err := d.kinds(kindPid, kindAtom, kindInt, kindInt); err != nil {
		return err
	}
	return d.discardAll(n)
}

// kinds reads parts of a fun.
func (d *decoder) kinds(kinds ...kind) error {
	for _, k := range kinds {
		t, err := d.part(k, "part of a fun")
		if err != nil {
			return err
		}
		if err := d.body(t); err != nil {
			return err
		}
	}
	return nil
}

// discardAll discards n terms.
func (d *decoder) discardAll(n int64) error {
	if err := d.claim(n); err != nil {
		return err
	}
	for range n {
		t, err := d.next()
		if err != nil {
			return err
		}
		if err := d.discard(t); err != nil {
			return err
		}
	}
	return nil
}

// inflateRatio is the most that DEFLATE makes of a byte.
const inflateRatio = 1032

// inflate returns the term of a COMPRESSED, whose data follows the tag: its size=4, then the zlib stream. It
// also returns what follows that.
func inflate(data []byte, limits Limits) (term, rest []byte, err error) {
	const head = 6 // of all
	if len(data) < 4 {
		return nil, nil, &SyntaxError{head, "compressed term without a size"}
	}
	size, limit := int64(binary.BigEndian.Uint32(data)), limits.withDefaults().Size
	if size > int64(limit) {
		return nil, nil, fmt.Errorf("decode term: %w: %d bytes decompressed, at most %d", ErrLimit, size, limit)
	}
	stream := bytes.NewReader(data[4:])
	if size > inflateRatio*int64(stream.Len()) {
		return nil, nil, &SyntaxError{head, fmt.Sprintf("compressed term claims to be of %d bytes", size)}
	}
	z, err := zlib.NewReader(stream)
	if err != nil {
		return nil, nil, &SyntaxError{head, err.Error()}
	}
	term = make([]byte, size)
	if _, err := io.ReadFull(z, term); err != nil {
		return nil, nil, &SyntaxError{head, "compressed term: " + err.Error()}
	}
	if _, err := io.ReadFull(z, make([]byte, 1)); err != io.EOF {
		return nil, nil, &SyntaxError{head, fmt.Sprintf("compressed term is not of %d bytes", size)}
	}
	return term, data[len(data)-stream.Len():], nil
}
