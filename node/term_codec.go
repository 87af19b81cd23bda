package node

import (
	"math/big"
	"reflect"
	"sync"
)

// codec encodes and decodes values of one Go type. encode appends to b; depth counts what the value is within.
// decode reads the term that begins with t into v, which can be set.
type codec struct {
	encode func(b []byte, v reflect.Value, depth int) ([]byte, error)
	decode func(d *decoder, t token, v reflect.Value) error
}

// codecs holds the codec of each type that was met, by reflect.Type.
var codecs sync.Map

func codecOf(t reflect.Type) *codec {
	if c, ok := codecs.Load(t); ok {
		return c.(*codec)
	}
	b := codecBuilder{}
	c := b.build(t)
	for t, c := range b {
		codecs.LoadOrStore(t, c)
	}
	return c
}

// codecBuilder makes codecs. It holds those it has begun, so that a type may contain itself.
type codecBuilder map[reflect.Type]*codec

// build returns the codec of t; it may be used only when all is built.
func (b codecBuilder) build(t reflect.Type) *codec {
	if c, ok := codecs.Load(t); ok {
		return c.(*codec)
	}
	if c, ok := b[t]; ok {
		return c
	}
	c := new(codec)
	b[t] = c
	if own, ok := special(t); ok {
		*c = own
		return c
	}
	*c = b.byKind(t)
	withMethods(c, t)
	return c
}

// special returns the codec of a type that stands for one kind of term.
func special(t reflect.Type) (c codec, ok bool) {
	switch t {
	case reflect.TypeFor[Atom]():
		return specialCodec(appendAtom, (*decoder).decodeAtom), true
	case reflect.TypeFor[Charlist]():
		return specialCodec(appendCharlist, (*decoder).decodeCharlist), true
	case reflect.TypeFor[BitString]():
		return specialCodec(appendBitString, (*decoder).decodeBitString), true
	case reflect.TypeFor[Pid]():
		return specialCodec(appendPid, (*decoder).decodePid), true
	case reflect.TypeFor[Port]():
		return specialCodec(appendPort, (*decoder).decodePort), true
	case reflect.TypeFor[Ref]():
		return specialCodec(appendRef, (*decoder).decodeRef), true
	case reflect.TypeFor[Fun]():
		return specialCodec(appendFun, (*decoder).decodeFun), true
	case reflect.TypeFor[big.Int]():
		return specialCodec(appendBig, (*decoder).decodeBig), true
	case reflect.TypeFor[Tuple]():
		return codec{encodeAny, decodeAs[Tuple]}, true
	case reflect.TypeFor[ImproperList]():
		return codec{encodeAny, decodeAs[ImproperList]}, true
	case reflect.TypeFor[Map]():
		return codec{encodeAny, decodeAs[Map]}, true
	}
	return codec{}, false
}

// specialCodec makes a codec for T of functions that know the type. decode returns false for a term of
// another kind.
func specialCodec[T any](appendT func([]byte, *T) ([]byte, error), decode func(*decoder, token, *T) (bool, error)) codec {
	return codec{
		encode: func(b []byte, v reflect.Value, _ int) ([]byte, error) {
			b, err := appendT(b, pointerTo[T](v))
			return b, noValue(err, v.Type())
		},
		decode: func(d *decoder, t token, v reflect.Value) error {
			ok, err := decode(d, t, v.Addr().Interface().(*T))
			if err == nil && !ok {
				return mismatch(t, v)
			}
			return err
		},
	}
}

// pointerTo returns a pointer to v, or to a copy of it.
func pointerTo[T any](v reflect.Value) *T {
	if v.CanAddr() {
		return v.Addr().Interface().(*T)
	}
	x := v.Interface().(T)
	return &x
}

// byKind returns the codec that t has for what it is made of.
func (b codecBuilder) byKind(t reflect.Type) codec {
	switch t.Kind() {
	case reflect.Bool:
		return codec{encodeBool, decodeBool}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return codec{encodeInt, decodeInt}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return codec{encodeUint, decodeUint}
	case reflect.Float32, reflect.Float64:
		return codec{encodeFloat, decodeFloat}
	case reflect.String:
		return codec{encodeString, decodeString}
	case reflect.Slice, reflect.Array:
		return b.sequence(t)
	case reflect.Map:
		return b.mapping(t)
	case reflect.Struct:
		return b.structure(t)
	case reflect.Pointer:
		p := pointerCodec{b.build(t.Elem())}
		return codec{p.encode, p.decode}
	case reflect.Interface:
		return codec{encodeInterface, decodeInterface}
	}
	return codec{encodeUnsupported, decodeUnsupported}
}

func (b codecBuilder) sequence(t reflect.Type) codec {
	s := sequenceCodec{b.build(t.Elem())}
	c := codec{s.encode, s.decodeSlice}
	if t.Kind() == reflect.Array {
		c.decode = s.decodeArray
	}
	if t.Elem().Kind() == reflect.Uint8 && !hasMethods(t.Elem()) {
		return codec{encodeBytes, bytesCodec{c.decode}.decode}
	}
	return c
}

var (
	marshalerType   = reflect.TypeFor[Marshaler]()
	unmarshalerType = reflect.TypeFor[Unmarshaler]()
)

func hasMethods(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(marshalerType) || p.Implements(unmarshalerType)
}

// withMethods has c use MarshalTerm and UnmarshalTerm of t or of a pointer to it.
func withMethods(c *codec, t reflect.Type) {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return // left to what they point to
	}
	p := reflect.PointerTo(t)
	if t.Implements(marshalerType) {
		c.encode = encodeMarshaler
	} else if p.Implements(marshalerType) {
		c.encode = addressedCodec{c.encode}.encode
	}
	if p.Implements(unmarshalerType) {
		c.decode = decodeUnmarshaler
	}
}

func (b codecBuilder) mapping(t reflect.Type) codec {
	m := mapCodec{b.build(t.Key()), b.build(t.Elem())}
	return codec{m.encode, m.decode}
}
