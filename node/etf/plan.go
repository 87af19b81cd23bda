package etf

import (
	"math/big"
	"reflect"
	"sync"
)

// plan is how the values of one Go type become terms and back. It is made once.
//
// encode appends to b. depth counts what the value is within. decode reads the term that begins
// with t into v, which is addressable.
type plan struct {
	typ       reflect.Type
	encode    func(b []byte, v reflect.Value, depth int) ([]byte, error)
	decode    func(d *decoder, t token, v reflect.Value) error
	kind      kind  // of the terms, for a type in own
	key, elem *plan // of a map, pointer, slice or array
	bytes     bool  // a slice or an array whose elements make up a binary
	fields    *fields
	spare     sync.Pool // of a map: *[]association
}

// plans holds the plan of each type that was met, by reflect.Type.
var plans sync.Map

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	made := planner{}
	p := made.plan(t)
	for t, p := range made {
		plans.LoadOrStore(t, p)
	}
	return p
}

// planner makes plans. It holds those that it has begun, because a type may contain itself.
type planner map[reflect.Type]*plan

// plan returns the plan of t, which is not finished before all are.
func (made planner) plan(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	if p := made[t]; p != nil {
		return p
	}
	p := &plan{typ: t}
	made[t] = p
	if !p.special(made) {
		p.byKind(made)
		p.byMethods()
	}
	return p
}

// own are the types that an any gets too, with the kind of their terms. It is 0 for those that may
// also come as the tail of a list of no elements.
var own = map[reflect.Type]kind{
	reflect.TypeFor[BitString](): kindBits, reflect.TypeFor[Pid](): kindPid,
	reflect.TypeFor[Port](): kindPort, reflect.TypeFor[Ref](): kindRef, reflect.TypeFor[Fun](): kindFun,
	reflect.TypeFor[Tuple](): 0, reflect.TypeFor[ImproperList](): 0, reflect.TypeFor[Map](): 0,
}

// special reports whether p is for a type that stands for one kind of term, and fills it if so.
func (p *plan) special(made planner) bool {
	if k, ok := own[p.typ]; ok {
		p.kind, p.encode, p.decode = k, p.encodeAny, p.decodeOwn
	}
	switch p.typ {
	case reflect.TypeFor[Tuple]():
		p.elem = made.plan(reflect.TypeFor[any]())
		p.encode = p.encodeTuple
	case reflect.TypeFor[Atom]():
		p.encode, p.decode = p.encodeAny, p.decodeAtom
	case reflect.TypeFor[Charlist]():
		p.encode, p.decode = p.encodeAny, p.decodeChars
	case reflect.TypeFor[big.Int]():
		p.encode, p.decode = p.encodeAny, p.decodeBig
	}
	return p.encode != nil
}

// byKind fills p for a type without methods.
func (p *plan) byKind(made planner) {
	switch p.typ.Kind() {
	case reflect.Bool:
		p.encode, p.decode = p.encodeBool, p.decodeBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		p.encode, p.decode = p.encodeInt, p.decodeInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		p.encode, p.decode = p.encodeUint, p.decodeUint
	case reflect.Float32, reflect.Float64:
		p.encode, p.decode = p.encodeFloat, p.decodeFloat
	case reflect.String:
		p.encode, p.decode = p.encodeString, p.decodeString
	case reflect.Interface:
		p.encode, p.decode = p.encodeAny, p.decodeInterface
	case reflect.Pointer:
		p.elem = made.plan(p.typ.Elem())
		p.encode, p.decode = p.encodePointer, p.decodePointer
	case reflect.Slice, reflect.Array:
		p.elem = made.plan(p.typ.Elem())
		p.asList()
	case reflect.Map:
		p.key, p.elem = made.plan(p.typ.Key()), made.plan(p.typ.Elem())
		p.spare.New = func() any { return new([]association) }
		p.encode, p.decode = p.encodeMap, p.decodeMap
	case reflect.Struct:
		p.asStruct(made)
	default:
		p.refuse(errNoTerm)
	}
}

// refuse fills p for a type that has no terms.
func (p *plan) refuse(err error) {
	p.encode = func(b []byte, _ reflect.Value, _ int) ([]byte, error) { return b, noValue(err, p.typ) }
	p.decode = func(d *decoder, t token, _ reflect.Value) error {
		return &TypeError{Term: d.describe(t), Type: p.typ, Err: err}
	}
}

var (
	marshalerType   = reflect.TypeFor[Marshaler]()
	unmarshalerType = reflect.TypeFor[Unmarshaler]()
)

// byMethods makes p use the methods that its type has. Pointers and interfaces leave that to what
// they point to.
func (p *plan) byMethods() {
	if p.typ.Kind() == reflect.Pointer || p.typ.Kind() == reflect.Interface {
		return
	}
	pointer := reflect.PointerTo(p.typ)
	if pointer.Implements(marshalerType) {
		p.encode = p.encodeByMethod
	}
	if pointer.Implements(unmarshalerType) {
		p.decode = p.decodeByMethod
	}
}

func (p *plan) encodeByMethod(b []byte, v reflect.Value, _ int) ([]byte, error) {
	term, err := addressable(v).Addr().Interface().(Marshaler).MarshalTerm()
	if err == nil {
		err = checkTerm(term)
	}
	return append(b, term...), noValue(err, p.typ)
}

// addressable returns v, or a copy of it that has an address.
func addressable(v reflect.Value) reflect.Value {
	if v.CanAddr() {
		return v
	}
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	return c
}

func (p *plan) decodeByMethod(d *decoder, t token, v reflect.Value) error {
	raw, err := d.raw(t)
	if err != nil {
		return err
	}
	if err := v.Addr().Interface().(Unmarshaler).UnmarshalTerm(raw); err != nil {
		return &TypeError{Term: d.describe(t), Type: p.typ, Err: err}
	}
	return nil
}

// encodeAny is for interfaces, and for types that are known without reflection.
func (p *plan) encodeAny(b []byte, v reflect.Value, depth int) ([]byte, error) {
	return appendAny(b, v.Interface(), depth)
}

// decodeInterface is for interfaces. Only those without methods can be decoded into.
func (p *plan) decodeInterface(d *decoder, t token, v reflect.Value) error {
	if p.typ.NumMethod() > 0 {
		return d.mismatch(t, p.typ)
	}
	x, err := d.value(t)
	if err == nil {
		v.Set(reflect.ValueOf(x))
	}
	return err
}

// decodeOwn is for the types in own.
func (p *plan) decodeOwn(d *decoder, t token, v reflect.Value) error {
	if p.kind != 0 && t.kind != p.kind {
		return d.mismatch(t, p.typ)
	}
	x, err := d.value(t)
	if err == nil && reflect.TypeOf(x) != p.typ {
		err = d.mismatch(t, p.typ)
	}
	if err == nil {
		v.Set(reflect.ValueOf(x))
	}
	return err
}

func (p *plan) encodePointer(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.IsNil() {
		return appendKnown(b, atomUndefined), nil
	}
	depth, err := deeper(depth) // a pointer may point to itself
	if err != nil {
		return b, noValue(err, p.typ)
	}
	return p.elem.encode(b, v.Elem(), depth)
}

func (p *plan) decodePointer(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindAtom && Atom(d.text(t)) == atomUndefined {
		v.SetZero()
		return nil
	}
	if v.IsNil() {
		v.Set(reflect.New(p.typ.Elem()))
	}
	return p.elem.decode(d, t, v.Elem())
}
