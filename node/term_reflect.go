package node

import (
	"fmt"
	"math"
	"math/big"
	"reflect"
)

// mismatch returns the error for a term that does not fit into v.
func mismatch(t token, v reflect.Value) error { return &TypeError{Term: t.String(), Type: v.Type()} }

func (d *decoder) decodeAtom(t token, a *Atom) (bool, error) {
	if t.kind != kindAtom {
		return false, nil
	}
	*a = d.cache.atom(t.bytes)
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

// decodeAs decodes into a T if that is what an any would get.
func decodeAs[T any](d *decoder, t token, v reflect.Value) error {
	x, err := d.value(t)
	if err != nil {
		return err
	}
	own, ok := x.(T)
	if !ok {
		return mismatch(t, v)
	}
	*v.Addr().Interface().(*T) = own
	return nil
}

func decodeBool(_ *decoder, t token, v reflect.Value) error {
	name := Atom(t.bytes)
	if t.kind != kindAtom || name != atomTrue && name != atomFalse {
		return mismatch(t, v)
	}
	v.SetBool(name == atomTrue)
	return nil
}

func decodeInt(_ *decoder, t token, v reflect.Value) error {
	if t.kind != kindInt || v.OverflowInt(t.n) {
		return mismatch(t, v)
	}
	v.SetInt(t.n)
	return nil
}

func decodeUint(_ *decoder, t token, v reflect.Value) error {
	u := uint64(t.n)
	switch {
	case t.kind == kindInt && t.n >= 0:
	case t.kind == kindBig && t.n == 0 && len(t.bytes) == 8:
		u = littleEndian(t.bytes)
	default:
		return mismatch(t, v)
	}
	if v.OverflowUint(u) {
		return mismatch(t, v)
	}
	v.SetUint(u)
	return nil
}

func decodeFloat(_ *decoder, t token, v reflect.Value) error {
	var f float64
	switch t.kind {
	case kindFloat:
		f = t.float()
	case kindInt:
		f = float64(t.n)
	case kindBig:
		f, _ = t.big().Float64()
	default:
		return mismatch(t, v)
	}
	if math.IsInf(f, 0) || v.OverflowFloat(f) {
		return mismatch(t, v)
	}
	v.SetFloat(f)
	return nil
}

func decodeString(d *decoder, t token, v reflect.Value) error {
	switch t.kind {
	case kindBinary:
		v.SetString(d.string(t))
		return nil
	case kindAtom:
		v.SetString(string(d.cache.atom(t.bytes)))
		return nil
	}
	s, ok, err := d.chars(t)
	if err == nil && !ok {
		err = mismatch(t, v)
	}
	if err == nil {
		v.SetString(string(s))
	}
	return err
}

func decodeInterface(d *decoder, t token, v reflect.Value) error {
	if v.NumMethod() > 0 {
		return mismatch(t, v)
	}
	x, err := d.value(t)
	if err == nil {
		v.Set(reflect.ValueOf(x))
	}
	return err
}

func decodeUnsupported(_ *decoder, t token, v reflect.Value) error { return mismatch(t, v) }

func decodeUnmarshaler(d *decoder, t token, v reflect.Value) error {
	raw, err := d.raw(t)
	if err != nil {
		return err
	}
	if err := v.Addr().Interface().(Unmarshaler).UnmarshalTerm(raw); err != nil {
		return &TypeError{Term: t.String(), Type: v.Type(), Err: err}
	}
	return nil
}

func (c pointerCodec) decode(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindAtom && Atom(t.bytes) == atomUndefined {
		v.SetZero()
		return nil
	}
	if v.IsNil() {
		v.Set(reflect.New(v.Type().Elem()))
	}
	return c.elem.decode(d, t, v.Elem())
}

// bytesCodec is for slices and arrays of bytes, which other has as lists.
type bytesCodec struct {
	other func(*decoder, token, reflect.Value) error
}

func (c bytesCodec) decode(d *decoder, t token, v reflect.Value) error {
	switch {
	case t.kind != kindBinary && t.kind != kindString:
		return c.other(d, t, v)
	case v.Kind() == reflect.Slice:
		v.SetBytes(d.clone(t))
	case v.Len() != len(t.bytes):
		return mismatch(t, v)
	default:
		copy(v.Bytes(), t.bytes)
	}
	return nil
}

func (c sequenceCodec) decodeSlice(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindList && t.kind != kindString && t.kind != kindNil {
		return mismatch(t, v)
	}
	n := len(t.bytes) // of a string
	if t.kind == kindList {
		n = int(t.n)
	}
	list := reflect.MakeSlice(v.Type(), 0, n)
	grown := reflect.New(v.Type()).Elem() // can be set, other than list
	grown.Set(list)
	err := c.each(d, t, v, func(i int) (reflect.Value, bool) {
		if i == grown.Cap() {
			grown.Grow(1)
		}
		grown.SetLen(i + 1)
		return grown.Index(i), true
	})
	v.Set(grown)
	return err
}

func (c sequenceCodec) decodeArray(d *decoder, t token, v reflect.Value) error {
	n := 0
	err := c.each(d, t, v, func(i int) (reflect.Value, bool) {
		if n = i + 1; n > v.Len() {
			return reflect.Value{}, false
		}
		return v.Index(i), true
	})
	if err == nil && n != v.Len() {
		err = mismatch(t, v)
	}
	return err
}

// each decodes the elements of the list t, each into the place for it. v is where all of them go, for errors.
func (c sequenceCodec) each(d *decoder, t token, v reflect.Value, place func(int) (reflect.Value, bool)) error {
	l, ok := elements(t)
	if !ok {
		return mismatch(t, v)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	for i := 0; ; i++ {
		t, more, err := l.next(d)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		elem, ok := place(i)
		if !ok {
			return mismatch(t, v)
		}
		if err := c.elem.decode(d, t, elem); err != nil {
			return within(err, "[%d]", i)
		}
	}
	if l.improper {
		return &TypeError{Term: "improper list", Type: v.Type()}
	}
	return nil
}

func (c mapCodec) decode(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindMap && t.kind != kindList && t.kind != kindNil {
		return mismatch(t, v)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	if t.kind == kindMap {
		for range t.n {
			if err := c.pair(d, v); err != nil {
				return err
			}
		}
		return nil
	}
	return c.properties(d, t, v)
}

// pair decodes a key and a value, which come next, into v.
func (c mapCodec) pair(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	key := reflect.New(v.Type().Key()).Elem()
	if err := c.key.decode(d, t, key); err != nil {
		return within(err, "[key]")
	}
	if !key.Comparable() {
		return &TypeError{Term: t.String(), Type: v.Type(), Err: fmt.Errorf("not comparable, so no key of a Go map")}
	}
	if t, err = d.next(); err != nil {
		return err
	}
	elem := reflect.New(v.Type().Elem()).Elem()
	if err := c.elem.decode(d, t, elem); err != nil {
		return within(err, "[%v]", key)
	}
	v.SetMapIndex(key, elem)
	return nil
}

// properties decodes a list of 2-tuples into v.
func (c mapCodec) properties(d *decoder, t token, v reflect.Value) error {
	l, _ := elements(t)
	for {
		t, more, err := l.next(d)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if t.kind != kindTuple || t.n != 2 {
			return mismatch(t, v)
		}
		if err := c.pair(d, v); err != nil {
			return err
		}
	}
	if l.improper {
		return &TypeError{Term: "improper list", Type: v.Type()}
	}
	return nil
}
