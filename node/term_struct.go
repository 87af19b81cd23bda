package node

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// field is a field of a struct that has a term.
type field struct {
	name      string
	key       []byte // its name as an encoded atom
	index     []int  // where it is, through embedded structs
	omitEmpty bool
	codec     *codec
}

func (f *field) of(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	for _, i := range f.index {
		v = v.Field(i)
	}
	return v
}

// structure returns the codec of a struct type: that of a tuple, or of a map.
func (b codecBuilder) structure(t reflect.Type) codec {
	s, err := b.fields(t)
	if err != nil {
		return brokenCodec(err)
	}
	if s.tuple {
		return codec{s.encodeTuple, s.decodeTuple}
	}
	slices.SortStableFunc(s.fields, func(x, y field) int { return strings.Compare(x.name, y.name) })
	for i := range s.fields {
		f := &s.fields[i]
		if s.byName[f.name] != nil {
			return brokenCodec(fmt.Errorf("two fields named %q", f.name))
		}
		s.byName[f.name] = f
	}
	return codec{s.encodeMap, s.decodeMap}
}

// brokenCodec is for a type whose tags are wrong.
func brokenCodec(err error) codec {
	return codec{
		encode: func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			return b, &ValueError{Type: v.Type(), Err: err}
		},
		decode: func(_ *decoder, t token, v reflect.Value) error {
			return &TypeError{Term: t.String(), Type: v.Type(), Err: err}
		},
	}
}

// structCodec is for structs.
type structCodec struct {
	fields []field // of a map in alphabetical order, of a tuple in that of the struct
	byName map[string]*field
	tuple  bool
	record []byte // the atom that a tuple begins with, encoded; nil: none
}

func (b codecBuilder) fields(t reflect.Type) (*structCodec, error) {
	s := &structCodec{byName: make(map[string]*field)}
	err := s.collect(b, t, nil)
	return s, err
}

// collect adds the fields of t, which index leads to.
func (s *structCodec) collect(b codecBuilder, t reflect.Type, index []int) error {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(slices.Clip(index), i)
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
func (s *structCodec) asTuple(tag string) error {
	name, option, _ := strings.Cut(tag, ",")
	if option != "tuple" {
		return fmt.Errorf("tag %q of a blank field; want NAME,tuple", tag)
	}
	s.tuple = true
	if name == "" {
		return nil
	}
	var err error
	s.record, err = AppendTerm(nil, Atom(name))
	return err
}

func (s *structCodec) add(b codecBuilder, f reflect.StructField, tag string, index []int) error {
	name, option, _ := strings.Cut(tag, ",")
	if option != "" && option != "omitempty" {
		return fmt.Errorf("option %q of field %s; want omitempty", option, f.Name)
	}
	if name == "" {
		name = f.Name
	}
	key, err := AppendTerm(nil, Atom(name))
	if err != nil {
		return fmt.Errorf("name of field %s: %w", f.Name, err)
	}
	s.fields = append(s.fields, field{name, key, index, option != "", b.build(f.Type)})
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

func (s *structCodec) encodeMap(b []byte, v reflect.Value, depth int) ([]byte, error) {
	depth, err := deeper(depth, v.Type())
	if err != nil {
		return b, err
	}
	const arity = 4 // bytes of the number of fields, which is known at the end
	b = append(b, extMap, 0, 0, 0, 0)
	start, n := len(b), uint32(0)
	for i := range s.fields {
		f := &s.fields[i]
		value := f.of(v)
		if f.omitEmpty && empty(value) {
			continue
		}
		n++
		b = append(b, f.key...)
		if b, err = f.codec.encode(b, value, depth); err != nil {
			return b, within(err, ".%s", f.name)
		}
	}
	binary.BigEndian.PutUint32(b[start-arity:], n)
	return b, nil
}

func (s *structCodec) encodeTuple(b []byte, v reflect.Value, depth int) ([]byte, error) {
	depth, err := deeper(depth, v.Type())
	if err != nil {
		return b, err
	}
	if b, err = appendArity(b, s.arity()); err != nil {
		return b, noValue(err, v.Type())
	}
	b = append(b, s.record...)
	for i := range s.fields {
		f := &s.fields[i]
		if b, err = f.codec.encode(b, f.of(v), depth); err != nil {
			return b, within(err, ".%s", f.name)
		}
	}
	return b, nil
}

// arity is the number of elements of a struct that is a tuple.
func (s *structCodec) arity() int {
	if s.record != nil {
		return len(s.fields) + 1
	}
	return len(s.fields)
}

func (s *structCodec) decodeTuple(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindTuple || t.n != int64(s.arity()) {
		return mismatch(t, v)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if s.record != nil {
		if err := s.decodeRecord(d, v); err != nil {
			return err
		}
	}
	for i := range s.fields {
		if err := s.decodeField(d, &s.fields[i], v); err != nil {
			return err
		}
	}
	return nil
}

// decodeRecord reads the atom that a record begins with.
func (s *structCodec) decodeRecord(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	var name Atom
	if err := (RawTerm(s.record)).Unmarshal(&name); err != nil {
		return err
	}
	if t.kind != kindAtom || Atom(t.bytes) != name {
		return &TypeError{Term: "record of " + t.String(), Type: v.Type()}
	}
	return nil
}

// decodeField decodes the next term into field f of v.
func (s *structCodec) decodeField(d *decoder, f *field, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if err := f.codec.decode(d, t, f.of(v)); err != nil {
		return within(err, ".%s", f.name)
	}
	return nil
}

func (s *structCodec) decodeMap(d *decoder, t token, v reflect.Value) error {
	l, isList := elements(t)
	if !isList && t.kind != kindMap {
		return mismatch(t, v)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if isList {
		return s.decodeProperties(d, l, v)
	}
	next := 0 // field that may come next: keys that are all there come in the order in which Marshal writes them
	for range t.n {
		if next < len(s.fields) && d.skip(s.fields[next].key) {
			if err := s.decodeField(d, &s.fields[next], v); err != nil {
				return err
			}
			next++
			continue
		}
		if err := s.decodePair(d, v); err != nil {
			return err
		}
	}
	return nil
}

// decodePair reads a key and its value.
func (s *structCodec) decodePair(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if f := s.named(t); f != nil {
		return s.decodeField(d, f, v)
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
	return s.byName[string(t.bytes)]
}

// decodeProperties reads a list of properties.
func (s *structCodec) decodeProperties(d *decoder, l listReader, v reflect.Value) error {
	for {
		t, more, err := l.next(d)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := s.decodeProperty(d, t, v); err != nil {
			return err
		}
	}
	if l.improper {
		return &TypeError{Term: "improper list", Type: v.Type()}
	}
	return nil
}

func (s *structCodec) decodeProperty(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindTuple && t.n == 2 {
		return s.decodePair(d, v)
	}
	f := s.named(t)
	if t.kind != kindAtom || f == nil {
		return d.discard(t)
	}
	if err := f.codec.decode(d, trueToken, f.of(v)); err != nil {
		return within(err, ".%s", f.name)
	}
	return nil
}
