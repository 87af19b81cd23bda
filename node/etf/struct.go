package etf

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
	key       []byte // its name as an encoded atom; none in a tuple
	index     []int
	omitEmpty bool
	*plan
}

// of returns field f of the struct v.
func (f *field) of(v reflect.Value) reflect.Value {
	for _, i := range f.index {
		v = v.Field(i)
	}
	return v
}

// fields are those of a struct type.
type fields struct {
	list   []*field // of a map in alphabetical order, of a tuple in that of the struct
	byName map[string]*field
	tuple  bool
	record Atom   // that a tuple begins with, if any
	arity  int    // elements of the tuple
	head   []byte // what the term of all fields begins with
}

// asStruct fills p for a struct: a map, or a tuple.
func (p *plan) asStruct(made planner) {
	s := &fields{byName: make(map[string]*field)}
	p.fields = s
	p.encode, p.decode = p.encodeStruct, p.decodeStruct
	err := s.collect(made, p.typ, nil)
	if err == nil && s.tuple {
		p.decode = p.decodeTuple
		err = s.asTuple()
	} else if err == nil {
		err = s.asMap()
	}
	if err != nil {
		p.refuse(err)
	}
}

func (s *fields) asMap() (err error) {
	slices.SortStableFunc(s.list, func(x, y *field) int { return strings.Compare(x.name, y.name) })
	for _, f := range s.list {
		if s.byName[f.name] != nil {
			return fmt.Errorf("two fields named %q", f.name)
		}
		s.byName[f.name] = f
	}
	s.head, err = appendTag(nil, extMap, len(s.list))
	return err
}

func (s *fields) asTuple() (err error) {
	for _, f := range s.list {
		f.key, f.omitEmpty = nil, false
	}
	s.arity = len(s.list) + min(len(s.record), 1)
	if s.head, err = appendArity(nil, s.arity); err == nil && s.record != "" {
		s.head, err = Append(s.head, s.record)
	}
	return err
}

// collect adds the fields of t, which is at index in the struct.
func (s *fields) collect(made planner, t reflect.Type, index []int) error {
	for i := range t.NumField() {
		f := t.Field(i)
		f.Index = append(slices.Clone(index), i)
		tag, tagged := f.Tag.Lookup("erl")
		var err error
		switch {
		case tag == "-":
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			err = s.collect(made, f.Type, f.Index)
		case f.Name == "_" && tagged:
			err = s.blank(tag)
		case f.IsExported():
			err = s.add(made, f, tag)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blank takes the tag of a blank field.
func (s *fields) blank(tag string) error {
	name, option, _ := strings.Cut(tag, ",")
	if option != "tuple" {
		return fmt.Errorf("tag %q of a blank field; want NAME,tuple", tag)
	}
	s.tuple, s.record = true, Atom(name)
	return nil
}

func (s *fields) add(made planner, f reflect.StructField, tag string) error {
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
	s.list = append(s.list, &field{name, key, f.Index, option != "", made.plan(f.Type)})
	return nil
}

// empty reports whether omitempty leaves v out.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// encodeStruct is for maps and tuples.
func (p *plan) encodeStruct(b []byte, v reflect.Value, depth int) ([]byte, error) {
	depth, err := deeper(depth)
	if err != nil {
		return b, noValue(err, p.typ)
	}
	start, left := len(b), 0
	b = append(b, p.fields.head...)
	for _, f := range p.fields.list {
		part := f.of(v)
		if f.omitEmpty && empty(part) {
			left++
			continue
		}
		b = append(b, f.key...)
		if b, err = f.encode(b, part, depth); err != nil {
			return b, within(err, ".%s", f.name)
		}
	}
	if left > 0 {
		binary.BigEndian.PutUint32(b[start+1:], uint32(len(p.fields.list)-left))
	}
	return b, nil
}

func (p *plan) decodeTuple(d *decoder, t token, v reflect.Value) error {
	s := p.fields
	if t.kind != kindTuple || t.n != int64(s.arity) {
		return d.mismatch(t, p.typ)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if s.record != "" {
		t, err := d.next()
		if err != nil {
			return err
		}
		if t.kind != kindAtom || Atom(d.text(t)) != s.record {
			return &TypeError{Term: "record of " + d.describe(t), Type: p.typ}
		}
	}
	for _, f := range s.list {
		if err := d.field(f, v); err != nil {
			return err
		}
	}
	return nil
}

// field decodes the next term into field f of the struct v.
func (d *decoder) field(f *field, v reflect.Value) error {
	if err := d.one(f.plan, f.of(v)); err != nil {
		return within(err, ".%s", f.name)
	}
	return nil
}

// decodeStruct is for maps and lists of properties.
func (p *plan) decodeStruct(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindMap {
		return d.each(t, p.typ, func(_ int, t token) error { return p.decodeProperty(d, t, v) })
	}
	return d.pairs(t, func() error { return p.decodeNamed(d, v) })
}

// decodeNamed reads a key and its value.
func (p *plan) decodeNamed(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if f := p.named(d, t); f != nil {
		return d.field(f, v)
	}
	if err := d.discard(t); err != nil {
		return err
	}
	return d.discardTerms(1)
}

// named returns the field that a key names, or nil.
func (p *plan) named(d *decoder, t token) *field {
	if t.kind != kindAtom && t.kind != kindBinary {
		return nil
	}
	return p.fields.byName[string(d.text(t))]
}

// decodeProperty reads an element of a list of properties, which begins with t.
func (p *plan) decodeProperty(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindTuple && t.n == 2 {
		return p.decodeNamed(d, v)
	}
	f := p.named(d, t)
	if t.kind != kindAtom || f == nil {
		return d.discard(t)
	}
	term := newDecoder(appendKnown(nil, atomTrue), 0, Limits{})
	return term.field(f, v)
}
