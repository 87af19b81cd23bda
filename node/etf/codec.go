package etf

import (
	"math/big"
	"reflect"
	"sync"
	"unsafe"
)

// codec encodes and decodes the values of one Go type. It is told where in memory a value is: a field or an element is
// then found by an addition, where a [reflect.Value] for each takes checks and copies.
//
// Every such pointer leads to a value of the codec's type, or comes from one that does by adding the offset that package
// reflect has for a part of it. It is read as that type or one of the same memory layout. Both are patterns that package
// unsafe has as valid.
//
// encode appends to b; depth counts what the value is within. decode reads the term that begins with t.
type codec interface {
	encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error)
	decode(d *decoder, t token, p unsafe.Pointer) error
}

// valueAt returns the value of type t at p.
func valueAt(t reflect.Type, p unsafe.Pointer) reflect.Value { return reflect.NewAt(t, p).Elem() }

// codecs holds the codec of each type that was met, by reflect.Type.
var codecs sync.Map

func codecOf(t reflect.Type) codec {
	if c, ok := codecs.Load(t); ok {
		return c.(codec)
	}
	b := codecBuilder{}
	c := b.build(t)
	for t, c := range b {
		codecs.LoadOrStore(t, c.codec)
	}
	return c
}

// codecBuilder makes codecs. It holds those it has begun, so that a type may contain itself.
type codecBuilder map[reflect.Type]*pendingCodec

// pendingCodec is a codec that is still to be made.
type pendingCodec struct{ codec }

// build returns the codec of t; it may be used only when all is built.
func (b codecBuilder) build(t reflect.Type) codec {
	if c, ok := codecs.Load(t); ok {
		return c.(codec)
	}
	if c, ok := b[t]; ok {
		if c.codec != nil {
			return c.codec
		}
		return c
	}
	pending := new(pendingCodec)
	b[t] = pending
	c := special(t)
	if c == nil {
		c = withMethods(b.byKind(t), t)
	}
	pending.codec = c
	return c
}

// special returns the codec of a type that stands for one kind of term, or nil.
func special(t reflect.Type) codec {
	switch t {
	case reflect.TypeFor[Atom]():
		return &specialCodec[Atom]{appendAtom, (*decoder).decodeAtom}
	case reflect.TypeFor[Charlist]():
		return &specialCodec[Charlist]{appendCharlist, (*decoder).decodeCharlist}
	case reflect.TypeFor[BitString]():
		return &specialCodec[BitString]{appendBitString, (*decoder).decodeBitString}
	case reflect.TypeFor[Pid]():
		return &specialCodec[Pid]{appendPid, (*decoder).decodePid}
	case reflect.TypeFor[Port]():
		return &specialCodec[Port]{appendPort, (*decoder).decodePort}
	case reflect.TypeFor[Ref]():
		return &specialCodec[Ref]{appendRef, (*decoder).decodeRef}
	case reflect.TypeFor[Fun]():
		return &specialCodec[Fun]{appendFun, (*decoder).decodeFun}
	case reflect.TypeFor[big.Int]():
		return &specialCodec[big.Int]{appendBig, (*decoder).decodeBig}
	case reflect.TypeFor[Tuple]():
		return &termCodec[Tuple]{appendTuple}
	case reflect.TypeFor[ImproperList]():
		return &termCodec[ImproperList]{appendImproper}
	case reflect.TypeFor[Map]():
		return &termCodec[Map]{appendMap}
	}
	return nil
}

// byKind returns the codec that t has for what it is made of.
func (b codecBuilder) byKind(t reflect.Type) codec {
	switch t.Kind() {
	case reflect.Bool:
		return &boolCodec{t}
	case reflect.Int:
		return &intCodec[int]{t}
	case reflect.Int8:
		return &intCodec[int8]{t}
	case reflect.Int16:
		return &intCodec[int16]{t}
	case reflect.Int32:
		return &intCodec[int32]{t}
	case reflect.Int64:
		return &intCodec[int64]{t}
	case reflect.Uint:
		return &uintCodec[uint]{t}
	case reflect.Uint8:
		return &uintCodec[uint8]{t}
	case reflect.Uint16:
		return &uintCodec[uint16]{t}
	case reflect.Uint32:
		return &uintCodec[uint32]{t}
	case reflect.Uint64:
		return &uintCodec[uint64]{t}
	case reflect.Uintptr:
		return &uintCodec[uintptr]{t}
	case reflect.Float32:
		return &floatCodec[float32]{t}
	case reflect.Float64:
		return &floatCodec[float64]{t}
	case reflect.String:
		return &stringCodec{t}
	case reflect.Slice:
		return b.slice(t)
	case reflect.Array:
		return b.array(t)
	case reflect.Map:
		return b.mapping(t)
	case reflect.Struct:
		return b.structure(t)
	case reflect.Pointer:
		return &pointerCodec{t, b.build(t.Elem())}
	case reflect.Interface:
		return &interfaceCodec{t}
	}
	return &brokenCodec{t, errNoTerm}
}

func (b codecBuilder) slice(t reflect.Type) codec {
	c := &sliceCodec{b.sequence(t)}
	if ofBytes(t) {
		return &bytesCodec{c}
	}
	return c
}

func (b codecBuilder) array(t reflect.Type) codec {
	c := &arrayCodec{b.sequence(t)}
	if ofBytes(t) {
		return &byteArrayCodec{c}
	}
	return c
}

// ofBytes tells whether a slice or an array is a binary.
func ofBytes(t reflect.Type) bool {
	elem := reflect.PointerTo(t.Elem())
	return t.Elem().Kind() == reflect.Uint8 && !elem.Implements(marshalerType) && !elem.Implements(unmarshalerType)
}

var (
	marshalerType   = reflect.TypeFor[Marshaler]()
	unmarshalerType = reflect.TypeFor[Unmarshaler]()
)

// withMethods returns the codec of a type that c would be right for if it had no methods.
func withMethods(c codec, t reflect.Type) codec {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return c // left to what they point to
	}
	p := reflect.PointerTo(t)
	if p.Implements(marshalerType) {
		c = &marshalerCodec{c, t}
	}
	if p.Implements(unmarshalerType) {
		c = &unmarshalerCodec{c, t}
	}
	return c
}

// marshalerCodec encodes by MarshalTerm.
type marshalerCodec struct {
	codec
	typ reflect.Type
}

func (c *marshalerCodec) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	term, err := reflect.NewAt(c.typ, p).Interface().(Marshaler).MarshalTerm()
	if err == nil {
		err = checkTerm(term)
	}
	return append(b, term...), noValue(err, c.typ)
}

// unmarshalerCodec decodes by UnmarshalTerm.
type unmarshalerCodec struct {
	codec
	typ reflect.Type
}

func (c *unmarshalerCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	raw, err := d.raw(t)
	if err != nil {
		return err
	}
	if err := reflect.NewAt(c.typ, p).Interface().(Unmarshaler).UnmarshalTerm(raw); err != nil {
		return &TypeError{Term: t.String(), Type: c.typ, Err: err}
	}
	return nil
}

// brokenCodec is for a type that has no terms.
type brokenCodec struct {
	typ reflect.Type
	err error // why
}

func (c *brokenCodec) encode(b []byte, _ unsafe.Pointer, _ int) ([]byte, error) {
	return b, &ValueError{Type: c.typ, Err: c.err}
}

func (c *brokenCodec) decode(_ *decoder, t token, _ unsafe.Pointer) error {
	return &TypeError{Term: t.String(), Type: c.typ, Err: c.err}
}
