package etf

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"fmt"
	"io"
	"math"
	"reflect"
)

// Unmarshal decodes the term in data into what v points to. The term begins with the version byte
// 131. Bytes after the term are an error. Unmarshal copies all that it keeps of data.
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
//   - Integers of Go and big.Int take an integer in their range. Floats take integers too.
//   - bool takes the atoms true and false.
//   - string takes the bytes of a binary, the name of an atom, or a list of characters.
//   - A slice or an array takes a proper list. An array must have its length. A slice or an array
//     of bytes also takes a binary.
//   - A Go map takes a map or a list of 2-tuples. It keeps the associations that it has.
//   - A struct takes a map whose keys are the names of its fields, as atoms or binaries. It also
//     takes a list of properties, as in module proplists: 2-tuples, and atoms that stand for
//     {Atom, true}. Keys without a field are skipped. A field that is not named keeps its value. Of
//     equal keys the last one counts. With the option tuple it takes a tuple of exactly its fields.
//   - A pointer becomes nil for the atom undefined. Else it points to a value of its own.
//   - A type with an UnmarshalTerm method is given the term.
//
// [Marshal] says how fields are named. The first thing that does not fit ends the decoding with an
// error that says where. What was stored until then stays. [Limits] say what a term may cost.
func Unmarshal(data []byte, v any) error { return Limits{}.Unmarshal(data, v) }

// Cut decodes the term that data begins with, version byte included, as [Unmarshal] does. It
// returns what follows the term.
func Cut(data []byte, v any) (rest []byte, err error) { return Limits{}.Cut(data, v) }

// Unmarshal decodes the one term in t as the function [Unmarshal] does.
func (t Raw) Unmarshal(v any) error { return Limits{}.UnmarshalRaw(t, v) }

// Limits bound what a term may cost its receiver. A field that is 0 stands for its default.
//
// A length that a term claims is held against the bytes that are left before memory is taken. So
// decoding into an any takes at most some 24 bytes of memory for each byte of the term. Into
// other types it also takes what the Go value of each element takes.
type Limits struct {
	Depth int // tuples, lists, maps and funs within one another; default 10,000
	Size  int // bytes of the encoded term, once decompressed; default 16 MiB
	Atoms int // atoms, each occurrence counted; default 1,048,576, the size of a node's atom table
}

func (l Limits) withDefaults() Limits {
	return Limits{cmp.Or(l.Depth, 10_000), cmp.Or(l.Size, 16<<20), cmp.Or(l.Atoms, 1<<20)}
}

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
		term, rest, err := inflate(data[2:], l)
		if err == nil {
			err = l.UnmarshalRaw(term, v)
		}
		if err != nil {
			return nil, err
		}
		return rest, nil
	}
	n, err := l.decode(data, 1, v)
	if err != nil {
		return nil, err
	}
	return data[n:], nil
}

// UnmarshalRaw is the method [Raw.Unmarshal] with limits.
func (l Limits) UnmarshalRaw(term Raw, v any) error {
	n, err := l.decode(term, 0, v)
	if err == nil && n != len(term) {
		return &SyntaxError{n, fmt.Sprintf("%d bytes after the term", len(term)-n)}
	}
	return err
}

// decode decodes the term at off in data. It returns the offset of what follows.
func (l Limits) decode(data []byte, off int, v any) (int, error) {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return 0, fmt.Errorf("decode term: into %T: not a pointer that points to something", v)
	}
	d := newDecoder(data, off, l)
	target = target.Elem()
	err := d.one(planOf(target.Type()), target)
	return d.off, err
}

// one decodes the next term into v, whose plan is p.
func (d *decoder) one(p *plan, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	return p.decode(d, t, v)
}

// checkTerm returns an error unless t is one well-formed term.
func checkTerm(t Raw) error {
	return Limits{Size: math.MaxInt, Atoms: math.MaxInt}.UnmarshalRaw(t, new(nothing))
}

// nothing takes any term and keeps nothing of it.
type nothing struct{}

func (*nothing) UnmarshalTerm(Raw) error { return nil }

// inflateRatio is the most that DEFLATE makes of a byte.
const inflateRatio = 1032

// inflate returns the term of a COMPRESSED and what follows it. After the tag, data holds size=4,
// then the zlib stream.
func inflate(data []byte, limits Limits) (term, rest []byte, err error) {
	bad := func(reason string) error {
		const offset = 6 // of the stream
		return &SyntaxError{offset, reason}
	}
	if len(data) < 4 {
		return nil, nil, bad("compressed term without a size")
	}
	size, limit := int64(bigEndian(data[:4])), limits.withDefaults().Size
	if size > int64(limit) {
		return nil, nil, over("%d bytes decompressed, at most %d", size, limit)
	}
	stream := bytes.NewReader(data[4:])
	if size > inflateRatio*int64(stream.Len()) {
		return nil, nil, bad(fmt.Sprintf("compressed term claims to be of %d bytes", size))
	}
	z, err := zlib.NewReader(stream)
	if err != nil {
		return nil, nil, bad(err.Error())
	}
	term = make([]byte, size)
	if _, err := io.ReadFull(z, term); err != nil {
		return nil, nil, bad("compressed term: " + err.Error())
	}
	if _, err := io.ReadFull(z, make([]byte, 1)); err != io.EOF {
		return nil, nil, bad(fmt.Sprintf("compressed term is not of %d bytes", size))
	}
	return term, data[len(data)-stream.Len():], nil
}

// mismatch returns the error for a term that does not fit into a type.
func (d *decoder) mismatch(t token, typ reflect.Type) error {
	return &TypeError{Term: d.describe(t), Type: typ}
}

const shown = 32 // bytes of a name that an error shows

// describe describes t for an error.
func (d *decoder) describe(t token) string {
	switch t.kind {
	case kindFloat:
		return fmt.Sprintf("float %v", t.float())
	case kindAtom:
		name := d.text(t)
		return fmt.Sprintf("atom %q", name[:min(len(name), shown)])
	case kindNil, kindPid, kindPort, kindRef, kindFun:
		return described[t.kind]
	}
	return fmt.Sprintf(described[t.kind], t.n)
}

// described says what a term of a kind is. The number is its n.
var described = map[kind]string{
	kindInt: "integer %d", kindBig: "integer of %d bytes", kindTuple: "tuple of %d",
	kindNil: "empty list", kindString: "list of %d", kindList: "list of %d", kindMap: "map of %d",
	kindBinary: "binary of %d bytes", kindBits: "binary of %d bytes",
	kindPid: "pid", kindPort: "port", kindRef: "reference", kindFun: "fun",
}
