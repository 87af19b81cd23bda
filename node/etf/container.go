package etf

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"sync"
	"unsafe"
)

var errKey = errors.New("not comparable, so no key of a Go map")

// pointerCodec is for pointers.
type pointerCodec struct {
	typ  reflect.Type
	elem codec
}

func (c *pointerCodec) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	p = *(*unsafe.Pointer)(p)
	if p == nil {
		return appendKnown(b, atomUndefined), nil
	}
	depth, err := deeper(depth, c.typ) // a pointer may point to itself
	if err != nil {
		return b, err
	}
	return c.elem.encode(b, p, depth)
}

func (c *pointerCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	pointer := (*unsafe.Pointer)(p)
	if t.kind == kindAtom && t.text == string(atomUndefined) {
		*pointer = nil
		return nil
	}
	if *pointer == nil {
		*pointer = reflect.New(c.typ.Elem()).UnsafePointer()
	}
	return c.elem.decode(d, t, *pointer)
}

// interfaceCodec is for interfaces. Only those without methods can be decoded into.
type interfaceCodec struct{ typ reflect.Type }

func (c *interfaceCodec) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	if c.typ.NumMethod() == 0 {
		return appendAny(b, *(*any)(p), depth)
	}
	return appendAny(b, valueAt(c.typ, p).Interface(), depth)
}

func (c *interfaceCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if c.typ.NumMethod() > 0 {
		return mismatch(t, c.typ)
	}
	v, err := d.value(t)
	if err == nil {
		*(*any)(p) = v
	}
	return err
}

// sequence is what slices and arrays have in common: elements that follow one another in memory.
type sequence struct {
	typ  reflect.Type // of the slice or array
	elem codec
	size uintptr // bytes of an element
}

func (b codecBuilder) sequence(t reflect.Type) sequence {
	return sequence{t, b.build(t.Elem()), t.Elem().Size()}
}

// appendAll appends the n elements from first on, as a list.
func (s *sequence) appendAll(b []byte, first unsafe.Pointer, n, depth int) ([]byte, error) {
	if n == 0 {
		return append(b, extNil), nil
	}
	b, err := appendTag(b, extList, n)
	if err != nil {
		return b, noValue(err, s.typ)
	}
	if depth, err = deeper(depth, s.typ); err != nil {
		return b, err
	}
	for i := range n {
		if b, err = s.elem.encode(b, unsafe.Add(first, uintptr(i)*s.size), depth); err != nil {
			return b, within(err, "[%d]", i)
		}
	}
	return append(b, extNil), nil
}

// decodeAll decodes the elements of the list t to first and on, where there is room for some. When that is full, more is
// told their number and returns where all are then and for how many there is room now. decodeAll returns their number.
func (s *sequence) decodeAll(d *decoder, t token, first unsafe.Pointer, room int, more func(n int) (unsafe.Pointer, int)) (n int, err error) {
	if err := d.enter(); err != nil {
		return 0, err
	}
	defer d.leave()
	for l := elements(t); ; n++ {
		t, another, err := l.next(d)
		if err != nil {
			return n, err
		}
		if !another && l.improper {
			return n, &TypeError{Term: "improper list", Type: s.typ}
		}
		if !another {
			return n, nil
		}
		if n == room {
			if first, room = more(n); n == room {
				return n, mismatch(t, s.typ)
			}
		}
		if err := s.elem.decode(d, t, unsafe.Add(first, uintptr(n)*s.size)); err != nil {
			return n + 1, within(err, "[%d]", n)
		}
	}
}

// atFirst returns for how many of n values to make room that are said to come: for more there is room when they are there.
func atFirst(n int, size uintptr) int { return min(n, maxBuffer/int(max(size, 1))+1) }

// sliceCodec is for slices.
type sliceCodec struct{ sequence }

func (c *sliceCodec) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	s := *(*[]struct{})(p) // whatever its elements are
	return c.appendAll(b, unsafe.Pointer(unsafe.SliceData(s)), len(s), depth)
}

func (c *sliceCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if !t.isList() {
		return mismatch(t, c.typ)
	}
	n := len(t.text) // of a string
	if t.kind == kindList {
		n = int(t.n)
	}
	v, room := valueAt(c.typ, p), atFirst(n, c.size)
	v.Set(reflect.MakeSlice(c.typ, room, room))
	n, err := c.decodeAll(d, t, v.UnsafePointer(), room, func(int) (unsafe.Pointer, int) {
		v.Grow(1)
		v.SetLen(v.Cap())
		return v.UnsafePointer(), v.Cap()
	})
	v.SetLen(n)
	return err
}

// arrayCodec is for arrays.
type arrayCodec struct{ sequence }

func (c *arrayCodec) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	return c.appendAll(b, p, c.typ.Len(), depth)
}

func (c *arrayCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if !t.isList() {
		return mismatch(t, c.typ)
	}
	room := c.typ.Len()
	n, err := c.decodeAll(d, t, p, room, func(int) (unsafe.Pointer, int) { return p, room })
	if err == nil && n != room {
		err = mismatch(t, c.typ)
	}
	return err
}

// bytesCodec is for slices of bytes, which are a binary but may come as a list too.
type bytesCodec struct{ list *sliceCodec }

func (c *bytesCodec) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	b, err := appendBinary(b, *(*[]byte)(p))
	return b, noValue(err, c.list.typ)
}

func (c *bytesCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if t.kind != kindBinary && t.kind != kindString {
		return c.list.decode(d, t, p)
	}
	*(*[]byte)(p) = d.clone(t)
	return nil
}

// byteArrayCodec is for arrays of bytes.
type byteArrayCodec struct{ list *arrayCodec }

func (c *byteArrayCodec) bytes(p unsafe.Pointer) []byte {
	return unsafe.Slice((*byte)(p), c.list.typ.Len())
}

func (c *byteArrayCodec) encode(b []byte, p unsafe.Pointer, _ int) ([]byte, error) {
	b, err := appendBinary(b, c.bytes(p))
	return b, noValue(err, c.list.typ)
}

func (c *byteArrayCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if t.kind != kindBinary && t.kind != kindString {
		return c.list.decode(d, t, p)
	}
	if len(t.text) != c.list.typ.Len() {
		return mismatch(t, c.list.typ)
	}
	copy(c.bytes(p), t.text)
	return nil
}

// mapCodec is for maps of Go.
type mapCodec struct {
	typ       reflect.Type
	key, elem codec
	gather    func(*associations, unsafe.Pointer)
	sort      func(order []int, keys unsafe.Pointer) // nil if keys have no order
	spare     sync.Pool                              // of *associations
}

func (b codecBuilder) mapping(t reflect.Type) codec {
	c := &mapCodec{typ: t, key: b.build(t.Key()), elem: b.build(t.Elem()), gather: gatherOf(t), sort: sortOf(t.Key().Kind())}
	c.spare.New = func() any {
		return &associations{keys: reflect.Zero(reflect.SliceOf(t.Key())), elems: reflect.Zero(reflect.SliceOf(t.Elem()))}
	}
	return c
}

// sortOf returns what sorts indexes of keys of a kind, which for these is the order of Erlang too.
func sortOf(k reflect.Kind) func(order []int, keys unsafe.Pointer) {
	switch k {
	case reflect.String:
		return sortBy[string]
	case reflect.Int:
		return sortBy[int]
	case reflect.Int8:
		return sortBy[int8]
	case reflect.Int16:
		return sortBy[int16]
	case reflect.Int32:
		return sortBy[int32]
	case reflect.Int64:
		return sortBy[int64]
	case reflect.Uint:
		return sortBy[uint]
	case reflect.Uint8:
		return sortBy[uint8]
	case reflect.Uint16:
		return sortBy[uint16]
	case reflect.Uint32:
		return sortBy[uint32]
	case reflect.Uint64:
		return sortBy[uint64]
	case reflect.Uintptr:
		return sortBy[uintptr]
	}
	return nil
}

func sortBy[K cmp.Ordered](order []int, first unsafe.Pointer) {
	keys := unsafe.Slice((*K)(first), len(order))
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(keys[i], keys[j]) })
}

// associations are those of a map while it is encoded.
type associations struct {
	keys, elems reflect.Value // slices of the same length
	order       []int         // indexes into them
}

// room makes room for n of them and returns where it is.
func (a *associations) room(n int) (keys, elems unsafe.Pointer) {
	if n > a.keys.Len() {
		a.keys = reflect.MakeSlice(a.keys.Type(), n, n)
		a.elems = reflect.MakeSlice(a.elems.Type(), n, n)
		a.order = make([]int, n)
	}
	a.order = a.order[:n]
	for i := range a.order {
		a.order[i] = i
	}
	return a.keys.UnsafePointer(), a.elems.UnsafePointer()
}

// gatherOf returns what copies all of a map of type t.
func gatherOf(t reflect.Type) func(a *associations, p unsafe.Pointer) {
	if t.Key().Kind() == reflect.String {
		switch t.Elem().Kind() {
		case reflect.Int:
			return gather[int]
		case reflect.Int64:
			return gather[int64]
		case reflect.Float64:
			return gather[float64]
		case reflect.String:
			return gather[string]
		case reflect.Bool:
			return gather[bool]
		}
		if t.Elem() == reflect.TypeFor[any]() {
			return gather[any]
		}
	}
	return func(a *associations, p unsafe.Pointer) {
		m := valueAt(t, p)
		a.room(m.Len())
		iter := m.MapRange()
		for i := 0; iter.Next(); i++ {
			a.keys.Index(i).SetIterKey(iter)
			a.elems.Index(i).SetIterValue(iter)
		}
	}
}

// gather is for maps of the most common kinds, in less than half the time.
func gather[V any](a *associations, p unsafe.Pointer) {
	m := *(*map[string]V)(p)
	keys, elems := a.room(len(m))
	i := 0
	for k, v := range m {
		unsafe.Slice((*string)(keys), len(m))[i] = k
		unsafe.Slice((*V)(elems), len(m))[i] = v
		i++
	}
}

// release keeps a for another map.
func (c *mapCodec) release(a *associations) {
	if uintptr(a.keys.Len())*(c.typ.Key().Size()+c.typ.Elem().Size()) > maxBuffer {
		return
	}
	a.keys.Clear()
	a.elems.Clear()
	c.spare.Put(a)
}

func (c *mapCodec) encode(b []byte, p unsafe.Pointer, depth int) ([]byte, error) {
	depth, err := deeper(depth, c.typ)
	if err != nil {
		return b, err
	}
	a := c.spare.Get().(*associations)
	defer c.release(a)
	c.gather(a, p)
	if c.sort != nil {
		c.sort(a.order, a.keys.UnsafePointer())
	}
	if b, err = appendTag(b, extMap, len(a.order)); err != nil {
		return b, noValue(err, c.typ)
	}
	keys, keySize := a.keys.UnsafePointer(), c.typ.Key().Size()
	elems, elemSize := a.elems.UnsafePointer(), c.typ.Elem().Size()
	for _, i := range a.order {
		if b, err = c.key.encode(b, unsafe.Add(keys, uintptr(i)*keySize), depth); err != nil {
			return b, within(err, "[key %v]", a.keys.Index(i))
		}
		if b, err = c.elem.encode(b, unsafe.Add(elems, uintptr(i)*elemSize), depth); err != nil {
			return b, within(err, "[%v]", a.keys.Index(i))
		}
	}
	return b, nil
}

func (c *mapCodec) decode(d *decoder, t token, p unsafe.Pointer) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	m := valueAt(c.typ, p)
	if m.IsNil() && (t.kind == kindMap || t.isList()) {
		m.Set(reflect.MakeMapWithSize(c.typ, atFirst(int(t.n), c.typ.Key().Size()+c.typ.Elem().Size())))
	}
	pair := pairReader{c, m, reflect.New(c.typ.Key()), reflect.New(c.typ.Elem())}
	if t.kind != kindMap {
		return pair.properties(d, t)
	}
	for range t.n {
		if err := pair.read(d); err != nil {
			return err
		}
	}
	return nil
}

// pairReader decodes associations into a map.
type pairReader struct {
	*mapCodec
	m         reflect.Value
	key, elem reflect.Value // pointers to one of each, used again and again
}

// read decodes a key and a value, which come next.
func (r *pairReader) read(d *decoder) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	key, elem := r.key.Elem(), r.elem.Elem()
	key.SetZero()
	if err := r.mapCodec.key.decode(d, t, r.key.UnsafePointer()); err != nil {
		return within(err, "[key]")
	}
	if !key.Comparable() {
		return &TypeError{Term: t.String(), Type: r.typ, Err: errKey}
	}
	if t, err = d.next(); err != nil {
		return err
	}
	elem.SetZero()
	if err := r.mapCodec.elem.decode(d, t, r.elem.UnsafePointer()); err != nil {
		return within(err, "[%v]", key)
	}
	r.m.SetMapIndex(key, elem)
	return nil
}

// properties decodes a list of 2-tuples.
func (r *pairReader) properties(d *decoder, t token) error {
	return d.each(t, r.typ, func(t token) error {
		if t.kind != kindTuple || t.n != 2 {
			return mismatch(t, r.typ)
		}
		return r.read(d)
	})
}

// each has do read the elements of a list, given how each begins. The list is for a value of type typ.
func (d *decoder) each(t token, typ reflect.Type, do func(token) error) error {
	if !t.isList() {
		return mismatch(t, typ)
	}
	for l := elements(t); ; {
		t, more, err := l.next(d)
		switch {
		case err != nil:
			return err
		case !more && l.improper:
			return &TypeError{Term: "improper list", Type: typ}
		case !more:
			return nil
		}
		if err := do(t); err != nil {
			return err
		}
	}
}
