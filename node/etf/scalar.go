package etf

import (
	"math"
	"math/big"
	"reflect"
	"unsafe"
)

// mismatch returns the error for a term that does not fit into a type.
func mismatch(t token, typ reflect.Type) error { return &TypeError{Term: t.String(), Type: typ} }

// specialCodec is for a type of this package, or big.Int, by functions that know it. read returns false for a term of
// another kind.
type specialCodec[T any] struct {
	write func([]byte, *T) ([]byte, error)
	read  func(*decoder, token, *T) (bool, error)
}

func (c *specialCodec[T]) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	b, err := c.write(b, (*T)(p))
	return b, noValue(err, reflect.TypeFor[T]())
}

func (c *specialCodec[T]) decode(d *decoder, t token, p unsafe.Pointer) error {
	ok, err := c.read(d, t, (*T)(p))
	if err == nil && !ok {
		return mismatch(t, reflect.TypeFor[T]())
	}
	return err
}

// termCodec is for a type that an any gets too.
type termCodec[T any] struct {
	write func(b []byte, v T, depth int) ([]byte, error)
}

func (c *termCodec[T]) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	return c.write(b, *(*T)(p), depth)
}

func (c *termCodec[T]) decode(d *decoder, t token, p unsafe.Pointer) error {
	v, err := d.value(t)
	if err != nil {
		return err
	}
	own, ok := v.(T)
	if !ok {
		return mismatch(t, reflect.TypeFor[T]())
	}
	*(*T)(p) = own
	return nil
}

func (d *decoder) decodeAtom(t token, a *Atom) (bool, error) {
	if t.kind != kindAtom {
		return false, nil
	}
	*a = d.cache.atom(t.text)
	return true, nil
}

func (d *decoder) decodeCharlist(t token, c *Charlist) (bool, error) {
	s, ok, err := d.chars(t)
	if ok {
		*c = Charlist(s)
	}
	return ok, err
}

func (d *decoder) decodeBitString(t token, s *BitString) (bool, error) {
	if t.kind != kindBits {
		return false, nil
	}
	*s = t.bits()
	return true, nil
}

func (d *decoder) decodePid(t token, p *Pid) (_ bool, err error) {
	if t.kind != kindPid {
		return false, nil
	}
	*p, err = d.pid(t)
	return true, err
}

func (d *decoder) decodePort(t token, p *Port) (_ bool, err error) {
	if t.kind != kindPort {
		return false, nil
	}
	*p, err = d.port(t)
	return true, err
}

func (d *decoder) decodeRef(t token, r *Ref) (_ bool, err error) {
	if t.kind != kindRef {
		return false, nil
	}
	*r, err = d.ref(t)
	return true, err
}

func (d *decoder) decodeFun(t token, f *Fun) (_ bool, err error) {
	if t.kind != kindFun {
		return false, nil
	}
	*f, err = d.opaque(t)
	return true, err
}

func (d *decoder) decodeBig(t token, n *big.Int) (bool, error) {
	if t.kind != kindInt && t.kind != kindBig {
		return false, nil
	}
	n.Set(t.big())
	return true, nil
}

// boolCodec is for kind bool.
type boolCodec struct{ typ reflect.Type }

func (*boolCodec) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	return appendBool(b, *(*bool)(p)), nil
}

func (c *boolCodec) decode(_ *decoder, t token, p unsafe.Pointer) error {
	name := Atom(t.text)
	if t.kind != kindAtom || name != atomTrue && name != atomFalse {
		return mismatch(t, c.typ)
	}
	*(*bool)(p) = name == atomTrue
	return nil
}

// intCodec is for the kinds of signed integers.
type intCodec[T int | int8 | int16 | int32 | int64] struct{ typ reflect.Type }

func (*intCodec[T]) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	return appendInt(b, int64(*(*T)(p))), nil
}

func (c *intCodec[T]) decode(_ *decoder, t token, p unsafe.Pointer) error {
	n := T(t.n)
	if t.kind != kindInt || int64(n) != t.n {
		return mismatch(t, c.typ)
	}
	*(*T)(p) = n
	return nil
}

// uintCodec is for the kinds of unsigned integers.
type uintCodec[T uint | uint8 | uint16 | uint32 | uint64 | uintptr] struct{ typ reflect.Type }

func (*uintCodec[T]) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	return appendUint(b, uint64(*(*T)(p))), nil
}

func (c *uintCodec[T]) decode(_ *decoder, t token, p unsafe.Pointer) error {
	u := uint64(t.n)
	switch {
	case t.kind == kindInt && t.n >= 0:
	case t.kind == kindBig && t.n == 0 && len(t.text) == 8:
		u = littleEndian(t.text)
	default:
		return mismatch(t, c.typ)
	}
	n := T(u)
	if uint64(n) != u {
		return mismatch(t, c.typ)
	}
	*(*T)(p) = n
	return nil
}

// floatCodec is for the kinds of floats.
type floatCodec[T float32 | float64] struct{ typ reflect.Type }

func (c *floatCodec[T]) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	b, err := appendFloat(b, float64(*(*T)(p)))
	return b, noValue(err, c.typ)
}

func (c *floatCodec[T]) decode(_ *decoder, t token, p unsafe.Pointer) error {
	var f float64
	switch t.kind {
	case kindFloat:
		f = t.float()
	case kindInt:
		f = float64(t.n)
	case kindBig:
		f, _ = t.big().Float64()
	default:
		return mismatch(t, c.typ)
	}
	n := T(f)
	if math.IsInf(float64(n), 0) {
		return mismatch(t, c.typ)
	}
	*(*T)(p) = n
	return nil
}

// stringCodec is for kind string.
type stringCodec struct{ typ reflect.Type }

func (c *stringCodec) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	s := *(*string)(p)
	if int64(len(s)) > math.MaxUint32 {
		return b, noValue(errTooLong, c.typ)
	}
	return append(appendHead(b, extBinary, uint32(len(s))), s...), nil
}

func (c *stringCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	s := (*string)(p)
	switch t.kind {
	case kindBinary:
		*s = d.string(t)
		return nil
	case kindAtom:
		*s = string(d.cache.atom(t.text))
		return nil
	}
	chars, ok, err := d.chars(t)
	if err == nil && !ok {
		err = mismatch(t, c.typ)
	}
	if err == nil {
		*s = chars
	}
	return err
}
