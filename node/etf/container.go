package etf

import (
	"bytes"
	"cmp"
	"errors"
	"reflect"
	"slices"
)

// asList fills p for a slice or an array.
func (p *plan) asList() {
	p.encode, p.decode = p.encodeList, p.decodeSlice
	if p.typ.Kind() == reflect.Array {
		p.decode = p.decodeArray
	}
	elem := reflect.PointerTo(p.typ.Elem())
	p.bytes = p.typ.Elem().Kind() == reflect.Uint8 &&
		!elem.Implements(marshalerType) && !elem.Implements(unmarshalerType)
	if p.bytes {
		p.encode = p.encodeBytes
	}
}

func (p *plan) encodeList(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Len() == 0 {
		return append(b, extNil), nil
	}
	b, err := appendTag(b, extList, v.Len())
	if err == nil {
		b, err = p.appendElements(b, v, depth)
	}
	return append(b, extNil), noValue(err, p.typ)
}

// encodeTuple is for type Tuple.
func (p *plan) encodeTuple(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b, err := appendArity(b, v.Len())
	if err == nil {
		b, err = p.appendElements(b, v, depth)
	}
	return b, noValue(err, p.typ)
}

func (p *plan) appendElements(b []byte, v reflect.Value, depth int) ([]byte, error) {
	depth, err := deeper(depth)
	if err != nil {
		return b, err
	}
	for i := range v.Len() {
		if b, err = p.elem.encode(b, v.Index(i), depth); err != nil {
			return b, within(err, "[%d]", i)
		}
	}
	return b, nil
}

// each calls do as elements does. The list is for a value of typ, and must be proper.
func (d *decoder) each(t token, typ reflect.Type, do func(int, token) error) error {
	if !t.isList() {
		return d.mismatch(t, typ)
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	tail, err := d.elements(t, do)
	if err == nil && tail.kind != kindNil {
		err = &TypeError{Term: "improper list", Type: typ}
	}
	return err
}

// atFirst returns for how many of n claimed values to make room before they come.
func atFirst(n int64, size uintptr) int { return int(min(n, int64(maxBuffer/max(size, 1)+1))) }

func (p *plan) decodeSlice(d *decoder, t token, v reflect.Value) error {
	if p.isBytes(t) {
		v.SetBytes(bytes.Clone(d.text(t)))
		return nil
	}
	if !t.isList() {
		return d.mismatch(t, p.typ)
	}
	v.Set(reflect.MakeSlice(p.typ, 0, atFirst(t.n, p.typ.Elem().Size())))
	return d.each(t, p.typ, func(i int, t token) error {
		if i == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(i + 1)
		return p.decodeElement(d, i, t, v)
	})
}

func (p *plan) decodeElement(d *decoder, i int, t token, v reflect.Value) error {
	if err := p.elem.decode(d, t, v.Index(i)); err != nil {
		return within(err, "[%d]", i)
	}
	return nil
}

func (p *plan) decodeArray(d *decoder, t token, v reflect.Value) error {
	if p.isBytes(t) && t.n == int64(v.Len()) {
		copy(v.Bytes(), d.text(t))
		return nil
	}
	n := 0
	err := d.each(t, p.typ, func(i int, elem token) error {
		if n = i + 1; n > v.Len() {
			return d.mismatch(t, p.typ)
		}
		return p.decodeElement(d, i, elem, v)
	})
	if err == nil && n != v.Len() {
		err = d.mismatch(t, p.typ)
	}
	return err
}

func (p *plan) encodeBytes(b []byte, v reflect.Value, _ int) ([]byte, error) {
	b, err := appendBinary(b, addressable(v).Bytes())
	return b, noValue(err, p.typ)
}

// isBytes reports whether t fits into a slice or an array of bytes as it is.
func (p *plan) isBytes(t token) bool {
	return p.bytes && (t.kind == kindBinary || t.kind == kindString)
}

var errKey = errors.New("not comparable, so no key of a Go map")

// association is a key and a value of a Go map. Both have an address.
type association struct{ key, value reflect.Value }

func (p *plan) newAssociation() association {
	return association{reflect.New(p.typ.Key()).Elem(), reflect.New(p.typ.Elem()).Elem()}
}

func (p *plan) encodeMap(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b, err := appendTag(b, extMap, v.Len())
	if err == nil {
		depth, err = deeper(depth)
	}
	if err != nil {
		return b, noValue(err, p.typ)
	}
	all := p.spare.Get().(*[]association)
	n := p.gather(v, all)
	defer p.release(all, n)
	for _, a := range (*all)[:n] {
		if b, err = p.key.encode(b, a.key, depth); err != nil {
			return b, within(err, "[key %v]", a.key)
		}
		if b, err = p.elem.encode(b, a.value, depth); err != nil {
			return b, within(err, "[%v]", a.key)
		}
	}
	return b, nil
}

// gather copies the associations of the map v to all, in the order of their keys. It returns their
// number.
func (p *plan) gather(v reflect.Value, all *[]association) (n int) {
	for iter := v.MapRange(); iter.Next(); n++ {
		if n == len(*all) {
			*all = append(*all, p.newAssociation())
		}
		(*all)[n].key.SetIterKey(iter)
		(*all)[n].value.SetIterValue(iter)
	}
	slices.SortFunc((*all)[:n], byKey)
	return n
}

// release keeps all, of which n were used, for another map, unless it is large.
func (p *plan) release(all *[]association, n int) {
	for _, a := range (*all)[:n] {
		a.key.SetZero()
		a.value.SetZero()
	}
	if size := p.typ.Key().Size() + p.typ.Elem().Size(); len(*all)*int(size) <= maxBuffer {
		p.spare.Put(all)
	}
}

// byKey compares associations by keys that are strings or integers. For those Go's order is
// Erlang's too. Others have no order.
func byKey(x, y association) int {
	switch {
	case x.key.Kind() == reflect.String:
		return cmp.Compare(x.key.String(), y.key.String())
	case x.key.CanInt():
		return cmp.Compare(x.key.Int(), y.key.Int())
	case x.key.CanUint():
		return cmp.Compare(x.key.Uint(), y.key.Uint())
	}
	return 0
}

func (p *plan) decodeMap(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindMap && !t.isList() {
		return d.mismatch(t, p.typ)
	}
	if v.IsNil() {
		size := p.typ.Key().Size() + p.typ.Elem().Size()
		v.Set(reflect.MakeMapWithSize(p.typ, atFirst(t.n, size)))
	}
	a := p.newAssociation()
	if t.kind != kindMap {
		return d.each(t, p.typ, func(_ int, t token) error {
			if t.kind != kindTuple || t.n != 2 {
				return d.mismatch(t, p.typ)
			}
			return p.decodePair(d, v, a)
		})
	}
	return d.pairs(t, func() error { return p.decodePair(d, v, a) })
}

// pairs calls do for each association of the map t.
func (d *decoder) pairs(t token, do func() error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	for range t.n {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// decodePair decodes the next key and value into the map v, by way of a.
func (p *plan) decodePair(d *decoder, v reflect.Value, a association) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	a.key.SetZero()
	if err := p.key.decode(d, t, a.key); err != nil {
		return within(err, "[key]")
	}
	if !a.key.Comparable() {
		return &TypeError{Term: d.describe(t), Type: p.typ, Err: errKey}
	}
	a.value.SetZero()
	if err := d.one(p.elem, a.value); err != nil {
		return within(err, "[%v]", a.key)
	}
	v.SetMapIndex(a.key, a.value)
	return nil
}
