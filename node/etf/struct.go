package etf

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"
)

// field is a field of a struct that has a term.
type field struct {
	name      string
	key       []byte // its name as an encoded atom
	before    []byte // what its value comes after: its key, if there is one, after the head of the term for the first field
	short     [16]byte
	offset    uintptr
	typ       reflect.Type
	omitEmpty bool
	codec     codec
}

// of returns where the field of the struct at p is.
func (f *field) of(p unsafe.Pointer) unsafe.Pointer { return unsafe.Add(p, f.offset) }

// appendBefore appends f.before. When that is short it is taken from f.short, of which all 16 bytes are copied, in a single
// instruction.
func (f *field) appendBefore(b []byte) []byte {
	if n := len(b) + len(f.before); len(f.before) <= len(f.short) {
		return append(b, f.short[:]...)[:n]
	}
	return append(b, f.before...)
}

// structure returns the codec of a struct type: that of a tuple, or of a map.
func (b codecBuilder) structure(t reflect.Type) codec {
	s := fields{typ: t, byName: make(map[string]*field)}
	if err := s.collect(b, t, 0); err != nil {
		return &brokenCodec{t, err}
	}
	if s.tuple {
		return newTupleCodec(s)
	}
	slices.SortStableFunc(s.list, func(x, y field) int { return strings.Compare(x.name, y.name) })
	for i := range s.list {
		f := &s.list[i]
		if s.byName[f.name] != nil {
			return &brokenCodec{t, fmt.Errorf("two fields named %q", f.name)}
		}
		s.byName[f.name] = f
		s.optional = s.optional || f.omitEmpty
		f.before = f.key
	}
	s.begin(appendHead(nil, extMap, uint32(len(s.list))))
	return &structCodec{s}
}

// newTupleCodec returns the codec of a struct that is a tuple.
func newTupleCodec(s fields) codec {
	head, err := appendArity(nil, s.arity())
	if err != nil {
		return &brokenCodec{s.typ, err}
	}
	s.begin(append(head, s.record...))
	return &tupleCodec{s}
}

// fields are those of a struct type.
type fields struct {
	typ      reflect.Type
	list     []field // of a map in alphabetical order, of a tuple in that of the struct
	byName   map[string]*field
	optional bool   // there are fields that may be left out of a map
	head     []byte // what the term begins with
	tuple    bool
	name     Atom   // that a tuple begins with
	record   []byte // the same, encoded; nil: none
}

// begin has the term of all fields begin with head.
func (s *fields) begin(head []byte) {
	s.head = head
	for i := range s.list {
		f := &s.list[i]
		if i == 0 {
			f.before = slices.Concat(head, f.before)
		}
		copy(f.short[:], f.before)
	}
}

// collect adds the fields of t, which is at offset in the struct.
func (s *fields) collect(b codecBuilder, t reflect.Type, offset uintptr) error {
	for i := range t.NumField() {
		f := t.Field(i)
		at := offset + f.Offset
		tag, tagged := f.Tag.Lookup("erl")
		var err error
		switch {
		case tag == "-":
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			err = s.collect(b, f.Type, at)
		case f.Name == "_" && tagged:
			err = s.asTuple(tag)
		case f.IsExported():
			err = s.add(b, f, tag, at)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// asTuple takes the tag of a blank field.
func (s *fields) asTuple(tag string) error {
	name, option, _ := strings.Cut(tag, ",")
	if option != "tuple" {
		return fmt.Errorf("tag %q of a blank field; want NAME,tuple", tag)
	}
	s.tuple = true
	if name == "" {
		return nil
	}
	var err error
	s.name = Atom(name)
	s.record, err = Append(nil, s.name)
	return err
}

func (s *fields) add(b codecBuilder, f reflect.StructField, tag string, offset uintptr) error {
	name, option, _ := strings.Cut(tag, ",")
	if option != "" && option != "omitempty" {
		return fmt.Errorf("option %q of field %s; want omitempty", option, f.Name)
	}
	if name == "" {
		name = f.Name
	}
	key, err := Append(nil, Atom(name))
	if err != nil {
		return fmt.Errorf("name of field %s: %w", f.Name, err)
	}
	s.list = append(s.list, field{name: name, key: key, offset: offset, typ: f.Type, omitEmpty: option != "", codec: b.build(f.Type)})
	return nil
}

// empty tells whether omitempty leaves v out.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// encode appends the term of the struct at p.
func (s *fields) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	depth, err := deeper(depth, s.typ)
	switch {
	case err != nil:
		return b, err
	case s.optional:
		return s.encodeSome(b, p, depth)
	case len(s.list) == 0:
		return append(b, s.head...), nil
	}
	for i := range s.list {
		f := &s.list[i]
		b = f.appendBefore(b)
		if b, err = f.codec.encode(b, f.of(p), depth); err != nil {
			return b, within(err, ".%s", f.name)
		}
	}
	return b, nil
}

// encodeSome appends the map without the fields that are to be left out.
func (s *fields) encodeSome(b []byte, p unsafe.Pointer, depth int) (_ []byte, err error) {
	const arity = 4 // bytes of the number of fields, which is known at the end
	b = append(b, extMap, 0, 0, 0, 0)
	start, n := len(b), uint32(0)
	for i := range s.list {
		f := &s.list[i]
		if f.omitEmpty && empty(valueAt(f.typ, f.of(p))) {
			continue
		}
		n++
		b = append(b, f.key...)
		if b, err = f.codec.encode(b, f.of(p), depth); err != nil {
			return b, within(err, ".%s", f.name)
		}
	}
	binary.BigEndian.PutUint32(b[start-arity:], n)
	return b, nil
}

// tupleCodec is for structs that are a tuple.
type tupleCodec struct{ fields }

// arity is the number of elements of a struct that is a tuple.
func (s *fields) arity() int {
	if s.record != nil {
		return len(s.list) + 1
	}
	return len(s.list)
}

func (s *tupleCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if t.kind != kindTuple || t.n != int64(s.arity()) {
		return mismatch(t, s.typ)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if s.record != nil {
		if err := s.decodeRecord(d); err != nil {
			return err
		}
	}
	for i := range s.list {
		if err := s.decodeField(d, &s.list[i], p); err != nil {
			return err
		}
	}
	return nil
}

// decodeRecord reads the atom that a record begins with.
func (s *tupleCodec) decodeRecord(d *decoder) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if t.kind != kindAtom || Atom(t.text) != s.name {
		return &TypeError{Term: "record of " + t.String(), Type: s.typ}
	}
	return nil
}

// decodeField decodes the next term into field f of the struct at p.
func (s *fields) decodeField(d *decoder, f *field, p unsafe.Pointer) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if err := f.codec.decode(d, t, f.of(p)); err != nil {
		return within(err, ".%s", f.name)
	}
	return nil
}

// structCodec is for structs that are a map.
type structCodec struct{ fields }

func (s *structCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if t.kind != kindMap {
		return d.each(t, s.typ, func(t token) error { return s.decodeProperty(d, t, p) })
	}
	next := 0 // field that may come next: keys that are all there come in the order in which Marshal writes them
	for range t.n {
		if next < len(s.list) && d.skip(s.list[next].key) {
			if err := s.decodeField(d, &s.list[next], p); err != nil {
				return err
			}
			next++
			continue
		}
		if err := s.decodePair(d, p); err != nil {
			return err
		}
	}
	return nil
}

// decodePair reads a key and its value.
func (s *structCodec) decodePair(d *decoder, p unsafe.Pointer) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if f := s.named(t); f != nil {
		return s.decodeField(d, f, p)
	}
	if err := d.discard(t); err != nil {
		return err
	}
	if t, err = d.next(); err != nil {
		return err
	}
	return d.discard(t)
}

// named returns the field that a key names, or nil.
func (s *structCodec) named(t token) *field {
	if t.kind != kindAtom && t.kind != kindBinary {
		return nil
	}
	return s.byName[t.text]
}

// decodeProperty reads an element of a list of properties, which begins with t.
func (s *structCodec) decodeProperty(d *decoder, t token, p unsafe.Pointer) error {
	if t.kind == kindTuple && t.n == 2 {
		return s.decodePair(d, p)
	}
	f := s.named(t)
	if t.kind != kindAtom || f == nil {
		return d.discard(t)
	}
	d.pos = -1
	if err := f.codec.decode(d, token{kind: kindAtom, text: string(atomTrue)}, f.of(p)); err != nil {
		return within(err, ".%s", f.name)
	}
	return nil
}
