package etf

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Unmarshal decodes the term in data, which begins with the version byte 131, into what v points to. Bytes
// after the term are an error. It copies all that it keeps of data.
//
// Into an any it stores
//
//	integer                  int64, or *big.Int if that is too small
//	float                    float64
//	atom                     Atom, true, false and undefined too
//	tuple                    Tuple
//	list                     []any, Charlist if it was sent as a string, or ImproperList
//	binary, bitstring        []byte, BitString
//	map                      Map
//	pid, port, reference     Pid, Port, Ref
//	fun                      Fun
//
// Into other types, by their kind:
//
//   - integers of Go and big.Int take an integer that is in their range; floats take integers too
//   - bool takes the atoms true and false
//   - string takes the bytes of a binary, the name of an atom, or a list of characters
//   - a slice or an array takes a proper list; an array must have its length. A slice or an array of
//     bytes also takes a binary
//   - a Go map takes a map or a list of 2-tuples; associations are added to those it has
//   - a struct takes a map whose keys are the names of its fields, as atoms or binaries, or a list of
//     properties as module proplists has it: 2-tuples, and atoms that stand for {Atom, true}. What has no
//     field is skipped, and a field that is not named keeps its value. Of equal keys the last one counts.
//     With the option tuple it takes a tuple of exactly its fields
//   - a pointer becomes nil for the atom undefined, else it points to a value of its own
//   - a type with an UnmarshalTerm method is given the term
//
// [Marshal] tells how fields are named. The first thing that does not fit ends the decoding with an error
// that says where it was; what was stored until then stays. See [Limits] for what a term may cost.
func Unmarshal(data []byte, v any) error { return Limits{}.Unmarshal(data, v) }

// Cut decodes the term that data begins with, version byte included, as [Unmarshal] does, and returns
// what follows it.
func Cut(data []byte, v any) (rest []byte, err error) { return Limits{}.Cut(data, v) }

// Unmarshal is the function [Unmarshal] with limits.
func (l Limits) Unmarshal(data []byte, v any) error {
	rest, err := l.Cut(data, v)
	if err == nil && len(rest) > 0 {
		return &SyntaxError{len(data) - len(rest), fmt.Sprintf("%d bytes after the term", len(rest))}
	}
	return err
}

// Cut is the function [Cut] with limits.
func (l Limits) Cut(data []byte, v any) (rest []byte, err error) {
	if len(data) == 0 || data[0] != Version {
		return nil, &SyntaxError{0, fmt.Sprintf("no term, which begins with %d", Version)}
	}
	if len(data) > 1 && data[1] == extCompressed {
		return l.cutCompressed(data[2:], v)
	}
	n, err := l.decode(data, 1, v)
	if err != nil {
		return nil, err
	}
	return data[n:], nil
}

func (l Limits) cutCompressed(data []byte, v any) (rest []byte, err error) {
	term, rest, err := inflate(data, l)
	if err != nil {
		return nil, err
	}
	if err := l.UnmarshalRaw(term, v); err != nil {
		return nil, err
	}
	return rest, nil
}

// UnmarshalRaw is the method [Raw.Unmarshal] with limits.
func (l Limits) UnmarshalRaw(term Raw, v any) error {
	n, err := l.decode(term, 0, v)
	if err == nil && n != len(term) {
		return &SyntaxError{n, fmt.Sprintf("%d bytes after the term", len(term)-n)}
	}
	return err
}

// Unmarshal decodes the one term in t as the function [Unmarshal] does.
func (t Raw) Unmarshal(v any) error { return Limits{}.UnmarshalRaw(t, v) }

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// decode decodes the term at off in data and returns the offset of what follows.
func (l Limits) decode(data []byte, off int, v any) (int, error) {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return 0, fmt.Errorf("decode term: into %T: not a pointer that points to something", v)
	}
	d := decoders.Get().(*decoder)
	defer d.release()
	d.reset(data, off, l)
	t, err := d.next()
	if err != nil {
		return 0, err
	}
	err = codecOf(target.Type().Elem()).decode(d, t, target.UnsafePointer())
	return d.off, err
}

// checkTerm returns an error unless t is one well-formed term.
func checkTerm(t Raw) error {
	d := decoders.Get().(*decoder)
	defer d.release()
	d.reset(t, 0, Limits{Size: math.MaxInt, Atoms: math.MaxInt})
	first, err := d.next()
	if err != nil {
		return err
	}
	if err := d.discard(first); err != nil {
		return err
	}
	if d.left() > 0 {
		return d.bad("%d bytes after the term", d.left())
	}
	return nil
}

// atomCache holds atoms that were met lately, so that those which come again take no memory. It is bounded:
// an atom has one place, which the next one takes over.
type atomCache [256]any

const maxCached = 48 // bytes of an atom in the cache

// value returns s as an Atom in an any.
func (c *atomCache) value(s string) any {
	if len(s) == 0 || len(s) > maxCached {
		return Atom(strings.Clone(s))
	}
	place := &c[(uint(s[0])*7^uint(s[len(s)/2])*31^uint(s[len(s)-1])*101^uint(len(s))*3)%uint(len(c))]
	if a, ok := (*place).(Atom); !ok || string(a) != s {
		*place = Atom(strings.Clone(s))
	}
	return *place
}

func (c *atomCache) atom(s string) Atom { return c.value(s).(Atom) }

// Values that need no memory of their own.
var (
	emptyList  any = []any{}
	emptyTuple any = Tuple{}
)

// value decodes the term that begins with t as Unmarshal stores it in an any.
func (d *decoder) value(t token) (any, error) {
	switch t.kind {
	case kindInt:
		return t.n, nil
	case kindBig:
		return t.big(), nil
	case kindFloat:
		return t.float(), nil
	case kindAtom:
		return d.cache.value(t.text), nil
	case kindNil:
		return emptyList, nil
	case kindString:
		return Charlist(strings.Clone(latin1(t.text))), nil
	case kindBinary:
		return d.clone(t), nil
	case kindBits:
		return t.bits(), nil
	case kindPid:
		return box(d.pid(t))
	case kindPort:
		return box(d.port(t))
	case kindRef:
		return box(d.ref(t))
	case kindFun:
		return box(d.opaque(t))
	}
	return d.container(t)
}

// box returns v in an any.
func box[T any](v T, err error) (any, error) { return v, err }

func (d *decoder) container(t token) (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	switch t.kind {
	case kindTuple:
		return d.tuple(t)
	case kindList:
		return d.list(t)
	default:
		return d.mapping(t)
	}
}

// one decodes the next term.
func (d *decoder) one() (any, error) {
	t, err := d.next()
	if err != nil {
		return nil, err
	}
	return d.value(t)
}

func (d *decoder) tuple(t token) (any, error) {
	if t.n == 0 {
		return emptyTuple, nil
	}
	tuple := make(Tuple, t.n)
	var err error
	for i := range tuple {
		if tuple[i], err = d.one(); err != nil {
			return nil, err
		}
	}
	return tuple, nil
}

func (d *decoder) mapping(t token) (any, error) {
	m := make(Map, t.n)
	var err error
	for i := range m {
		if m[i].Key, err = d.one(); err != nil {
			return nil, err
		}
		if m[i].Value, err = d.one(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (d *decoder) list(t token) (any, error) {
	elements := make([]any, 0, t.n)
	l := listReader{left: t.n}
	for {
		t, more, err := l.next(d)
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		v, err := d.value(t)
		if err != nil {
			return nil, err
		}
		elements = append(elements, v)
	}
	if !l.improper {
		return elements, nil
	}
	tail, err := d.value(l.tail)
	if err != nil || len(elements) == 0 { // a node, too, takes a list of no elements for its tail
		return tail, err
	}
	return ImproperList{elements, tail}, nil
}

// listReader reads the elements of a list, also of one that was sent in pieces, each the tail of the one
// before.
type listReader struct {
	left     int64
	bytes    string // elements of a string
	ended    bool   // there are no more but bytes
	improper bool   // it ended with tail
	tail     token
}

// isList tells whether t is a list, empty or not, or the head of one.
func (t token) isList() bool { return t.kind == kindList || t.kind == kindString || t.kind == kindNil }

// elements returns a reader for the list t.
func elements(t token) listReader {
	if t.kind == kindList {
		return listReader{left: t.n}
	}
	return listReader{bytes: t.text, ended: true}
}

// next returns the next element, or false at the end.
func (l *listReader) next(d *decoder) (t token, more bool, err error) {
	for {
		switch {
		case len(l.bytes) > 0:
			t = token{kind: kindInt, n: int64(l.bytes[0])}
			l.bytes, d.pos = l.bytes[1:], -1
			return t, true, nil
		case l.left > 0:
			l.left--
			t, err = d.next()
			return t, true, err
		case l.ended:
			return token{}, false, nil
		}
		if err := l.end(d); err != nil {
			return token{}, false, err
		}
	}
}

// end reads the tail.
func (l *listReader) end(d *decoder) error {
	t, err := d.next()
	if t.kind == kindList {
		l.left = t.n
		return err
	}
	l.ended, l.bytes = true, ""
	switch t.kind {
	case kindNil:
	case kindString:
		l.bytes = t.text
	default:
		l.improper, l.tail = true, t
	}
	return err
}

// raw reads the rest of the term that began with t, the last token, and returns all of it, which may be a part of the
// decoder's data.
func (d *decoder) raw(t token) (Raw, error) {
	pos := d.pos
	switch {
	case pos >= 0:
	case t.kind == kindAtom:
		return appendKnown(nil, Atom(t.text)), nil
	default:
		return appendInt(nil, t.n), nil
	}
	err := d.discard(t)
	return d.data[pos:d.off], err
}

func (d *decoder) opaque(t token) (Fun, error) {
	raw, err := d.raw(t)
	return Fun{string(raw)}, err
}

func (t token) float() float64 { return math.Float64frombits(uint64(t.n)) }

// big returns an integer of any size.
func (t token) big() *big.Int {
	if t.kind == kindInt {
		return big.NewInt(t.n)
	}
	b := []byte(t.text)
	slices.Reverse(b)
	n := new(big.Int).SetBytes(b)
	if t.n != 0 {
		n.Neg(n)
	}
	return n
}

func (t token) bits() BitString {
	b := []byte(t.text)
	b[len(b)-1] &= 0xff << (8 - t.n)
	return BitString{b, uint8(t.n)}
}

// chars returns the characters of a list of them, as UTF-8.
func (d *decoder) chars(t token) (s string, ok bool, err error) {
	if t.kind == kindString {
		return strings.Clone(latin1(t.text)), true, nil
	}
	var chars []byte
	l, ok := elements(t), t.isList()
	for ok {
		t, more, err := l.next(d)
		if err != nil || !more {
			return string(chars), err == nil && !l.improper, err
		}
		if ok = t.kind == kindInt && t.n == int64(rune(t.n)) && utf8.ValidRune(rune(t.n)); ok {
			chars = utf8.AppendRune(chars, rune(t.n))
		}
	}
	return "", false, nil
}

const shown = 32 // bytes of a name that an error shows

// String describes t for an error.
func (t token) String() string {
	name := t.text[:min(len(t.text), shown)]
	switch t.kind {
	case kindInt:
		return "integer " + strconv.FormatInt(t.n, 10)
	case kindBig:
		return fmt.Sprintf("integer of %d bytes", len(t.text))
	case kindFloat:
		return fmt.Sprintf("float %v", t.float())
	case kindAtom:
		return fmt.Sprintf("atom %q", name)
	case kindTuple:
		return fmt.Sprintf("tuple of %d", t.n)
	case kindNil:
		return "empty list"
	case kindString, kindList:
		return fmt.Sprintf("list of %d", max(t.n, int64(len(t.text))))
	case kindBinary, kindBits:
		return fmt.Sprintf("binary of %d bytes", len(t.text))
	case kindMap:
		return fmt.Sprintf("map of %d", t.n)
	}
	return map[kind]string{kindPid: "pid", kindPort: "port", kindRef: "reference", kindFun: "fun"}[t.kind]
}
