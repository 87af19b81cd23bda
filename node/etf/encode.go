package etf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"reflect"
	"slices"
	"sync"
	"unicode/utf8"
)

// Marshal returns the term for v, after the version byte 131. Where a Go value has but one natural term, the
// bytes are those of term_to_binary/1 of OTP 26 and later, but for a [Port] with an ID that fits into the form that
// nodes before OTP 24 know.
//
//   - integers of any kind and size, big.Int and finite floats are what they are
//   - bool becomes true or false
//   - string, []byte and arrays of bytes become a binary; [Charlist] a string; [Atom] an atom
//   - other slices and arrays become a list; a nil slice is empty
//   - maps of Go become a map, in the order of their keys; a nil map is empty
//   - structs become a map whose keys are atoms, in alphabetical order
//   - nil and nil pointers become the atom undefined; other pointers, and interfaces, what they point to
//   - the types of this package become what they are named for; a nil Raw is an error
//   - a type with a MarshalTerm method, of its own or of a pointer to it, becomes what that returns
//
// The fields of a struct are its exported fields and those of structs embedded in it without a tag. Tags say
// what becomes of a field:
//
//	Name string `erl:"name"`           // its key is the atom name, instead of Name
//	Name string `erl:"name,omitempty"` // left out while false, 0, nil or of no length
//	Name string `erl:"-"`              // is no field
//
// and a tag with the option tuple on a blank field makes the struct a tuple of all its fields, in their
// order, after the atom that is named, if any:
//
//	_ struct{} `erl:",tuple"`     // {A, B}
//	_ struct{} `erl:"rec,tuple"`  // {rec, A, B}, as an Erlang record
//
// Marshal returns an error for what has no term, such as channels, and for values nested deeper than 10,000,
// which are likely to contain themselves.
func Marshal(v any) ([]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b, err := Append(append((*buf)[:0], Version), v)
	if err != nil {
		return nil, err
	}
	if cap(b) <= maxBuffer {
		*buf = b
	}
	return bytes.Clone(b), nil
}

// buffers holds slices to encode into, of up to maxBuffer bytes.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 64 << 10

// Append appends the term for v to b, without the version byte, as messages between nodes hold them.
func Append(b []byte, v any) ([]byte, error) { return appendAny(b, v, 0) }

const maxEncodeDepth = 10_000

// The causes of a ValueError.
var (
	errNoTerm     = errors.New("has no term")
	errTooDeep    = fmt.Errorf("nested deeper than %d", maxEncodeDepth)
	errNotUTF8    = errors.New("not UTF-8")
	errAtomLen    = fmt.Errorf("atom of more than %d characters", maxAtomLen)
	errNotFinite  = errors.New("not finite")
	errBits       = errors.New("bitstring must have a byte or more, and use 1 to 7 bits of the last")
	errRefLen     = fmt.Errorf("reference must have 1 to %d words", maxRefLen)
	errNoFun      = errors.New("fun that came from no term")
	errTooLong    = errors.New("too long")
	errNoElements = errors.New("improper list of no elements")
)

// noValue makes a ValueError of err, unless it is nil.
func noValue(err error, t reflect.Type) error {
	if err == nil {
		return nil
	}
	return &ValueError{Type: t, Err: err}
}

// appendAny appends the term of v. Types that are common in an any are told apart without reflection.
func appendAny(b []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return appendKnown(b, atomUndefined), nil
	case bool:
		return appendBool(b, v), nil
	case int:
		return appendInt(b, int64(v)), nil
	case int64:
		return appendInt(b, v), nil
	case string:
		return appendBinary(b, v)
	case []byte:
		return appendBinary(b, v)
	case Atom:
		b, err := appendAtom(b, &v)
		return b, noValue(err, reflect.TypeFor[Atom]())
	case []any:
		return appendList(b, v, depth)
	case Tuple:
		return appendTuple(b, v, depth)
	case Map:
		return appendMap(b, v, depth)
	case ImproperList:
		return appendImproper(b, v, depth)
	}
	return appendReflected(b, reflect.ValueOf(v), depth)
}

// appendReflected appends the term of v, whose codec needs it in memory.
func appendReflected(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		depth, err := deeper(depth, v.Type())
		if err != nil {
			return b, err
		}
		return codecOf(v.Type().Elem()).encode(b, v.UnsafePointer(), depth)
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return codecOf(v.Type()).encode(b, p.UnsafePointer(), depth)
}

// deeper returns the depth of what is within a value at depth.
func deeper(depth int, t reflect.Type) (int, error) {
	if depth == maxEncodeDepth {
		return 0, &ValueError{Type: t, Err: errTooDeep}
	}
	return depth + 1, nil
}

func appendTag(b []byte, tag byte, n int) ([]byte, error) {
	if int64(n) > math.MaxUint32 {
		return b, errTooLong
	}
	return appendHead(b, tag, uint32(n)), nil
}

func appendHead(b []byte, tag byte, n uint32) []byte {
	return append(b, tag, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

func appendElements(b []byte, v []any, depth int) ([]byte, error) {
	depth, err := deeper(depth, reflect.TypeFor[[]any]())
	if err != nil {
		return b, err
	}
	for i, e := range v {
		if b, err = appendAny(b, e, depth); err != nil {
			return b, within(err, "[%d]", i)
		}
	}
	return b, nil
}

func appendList(b []byte, v []any, depth int) ([]byte, error) {
	if len(v) == 0 {
		return append(b, extNil), nil
	}
	b, err := appendTag(b, extList, len(v))
	if err != nil {
		return b, noValue(err, reflect.TypeFor[[]any]())
	}
	b, err = appendElements(b, v, depth)
	return append(b, extNil), err
}

func appendImproper(b []byte, v ImproperList, depth int) ([]byte, error) {
	err := errNoElements
	if len(v.Elements) > 0 {
		b, err = appendTag(b, extList, len(v.Elements))
	}
	if err != nil {
		return b, noValue(err, reflect.TypeFor[ImproperList]())
	}
	if b, err = appendElements(b, v.Elements, depth); err != nil {
		return b, within(err, ".Elements")
	}
	b, err = appendAny(b, v.Tail, depth+1)
	return b, within(err, ".Tail")
}

func appendTuple(b []byte, v Tuple, depth int) ([]byte, error) {
	b, err := appendArity(b, len(v))
	if err != nil {
		return b, noValue(err, reflect.TypeFor[Tuple]())
	}
	return appendElements(b, v, depth)
}

func appendArity(b []byte, n int) ([]byte, error) {
	if n <= math.MaxUint8 {
		return append(b, extSmallTuple, byte(n)), nil
	}
	return appendTag(b, extLargeTuple, n)
}

func appendMap(b []byte, v Map, depth int) ([]byte, error) {
	b, err := appendTag(b, extMap, len(v))
	if err != nil {
		return b, noValue(err, reflect.TypeFor[Map]())
	}
	if depth, err = deeper(depth, reflect.TypeFor[Map]()); err != nil {
		return b, err
	}
	for i, pair := range v {
		if b, err = appendAny(b, pair.Key, depth); err != nil {
			return b, within(err, "[%d].Key", i)
		}
		if b, err = appendAny(b, pair.Value, depth); err != nil {
			return b, within(err, "[%d].Value", i)
		}
	}
	return b, nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return appendKnown(b, atomTrue)
	}
	return appendKnown(b, atomFalse)
}

// appendKnown appends an atom that is ASCII and short.
func appendKnown(b []byte, a Atom) []byte {
	return append(append(b, extSmallAtomUTF8, byte(len(a))), a...)
}

func appendAtom(b []byte, a *Atom) ([]byte, error) {
	switch {
	case !utf8.ValidString(string(*a)):
		return b, errNotUTF8
	case len(*a) <= math.MaxUint8:
		return appendKnown(b, *a), nil
	case utf8.RuneCountInString(string(*a)) > maxAtomLen:
		return b, errAtomLen
	}
	b = binary.BigEndian.AppendUint16(append(b, extAtomUTF8), uint16(len(*a)))
	return append(b, *a...), nil
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n == int64(byte(n)):
		return append(b, extSmallInteger, byte(n))
	case n == int64(int32(n)):
		return appendHead(b, extInteger, uint32(n))
	case n < 0:
		return appendMagnitude(b, 1, -uint64(n))
	default:
		return appendMagnitude(b, 0, uint64(n))
	}
}

func appendUint(b []byte, n uint64) []byte {
	if n > math.MaxInt64 {
		return appendMagnitude(b, 0, n)
	}
	return appendInt(b, int64(n))
}

// appendMagnitude appends a SMALL_BIG.
func appendMagnitude(b []byte, sign byte, n uint64) []byte {
	size := (bits.Len64(n) + 7) / 8
	b = append(b, extSmallBig, byte(size), sign)
	for ; n > 0; n >>= 8 {
		b = append(b, byte(n))
	}
	return b
}

func appendBig(b []byte, n *big.Int) ([]byte, error) {
	if n.IsInt64() {
		return appendInt(b, n.Int64()), nil
	}
	sign := byte(0)
	if n.Sign() < 0 {
		sign = 1
	}
	magnitude := n.Bytes()
	slices.Reverse(magnitude)
	if len(magnitude) <= math.MaxUint8 {
		b = append(b, extSmallBig, byte(len(magnitude)), sign)
		return append(b, magnitude...), nil
	}
	b, err := appendTag(b, extLargeBig, len(magnitude))
	if err != nil {
		return b, err
	}
	return append(append(b, sign), magnitude...), nil
}

func appendFloat(b []byte, f float64) ([]byte, error) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return b, errNotFinite
	}
	return binary.BigEndian.AppendUint64(append(b, extNewFloat), math.Float64bits(f)), nil
}

func appendBinary[T string | []byte](b []byte, v T) ([]byte, error) {
	b, err := appendTag(b, extBinary, len(v))
	if err != nil {
		return b, noValue(err, reflect.TypeFor[T]())
	}
	return append(b, v...), nil
}

// appendCharlist appends a STRING_EXT if all characters fit into one.
func appendCharlist(b []byte, v *Charlist) ([]byte, error) {
	s := string(*v)
	switch {
	case s == "":
		return append(b, extNil), nil
	case !utf8.ValidString(s):
		return b, errNotUTF8
	}
	n, most := 0, rune(0)
	for _, r := range s {
		n, most = n+1, max(most, r)
	}
	if n <= maxStringLen && most <= math.MaxUint8 {
		b = binary.BigEndian.AppendUint16(append(b, extString), uint16(n))
		for _, r := range s {
			b = append(b, byte(r))
		}
		return b, nil
	}
	b, err := appendTag(b, extList, n)
	if err != nil {
		return b, err
	}
	for _, r := range s {
		b = appendInt(b, int64(r))
	}
	return append(b, extNil), nil
}

func appendBitString(b []byte, v *BitString) ([]byte, error) {
	n := len(v.Bytes)
	if n == 0 || v.Bits == 0 || v.Bits > 7 {
		return b, errBits
	}
	b, err := appendTag(b, extBitBinary, n)
	if err != nil {
		return b, err
	}
	b = append(append(b, v.Bits), v.Bytes...)
	b[len(b)-1] &= 0xff << (8 - v.Bits)
	return b, nil
}

func appendPid(b []byte, p *Pid) ([]byte, error) {
	b, err := appendAtom(append(b, extNewPid), &p.Node)
	b = binary.BigEndian.AppendUint32(b, p.ID)
	b = binary.BigEndian.AppendUint32(b, p.Serial)
	return binary.BigEndian.AppendUint32(b, p.Creation), err
}

// appendPort uses the form with 8 bytes only where it must: nodes before OTP 24 don't know it.
func appendPort(b []byte, p *Port) ([]byte, error) {
	const before24 = 1 << 28
	if p.ID < before24 {
		b, err := appendAtom(append(b, extNewPort), &p.Node)
		b = binary.BigEndian.AppendUint32(b, uint32(p.ID))
		return binary.BigEndian.AppendUint32(b, p.Creation), err
	}
	b, err := appendAtom(append(b, extV4Port), &p.Node)
	b = binary.BigEndian.AppendUint64(b, p.ID)
	return binary.BigEndian.AppendUint32(b, p.Creation), err
}

func appendRef(b []byte, r *Ref) ([]byte, error) {
	if r.Len < 1 || r.Len > maxRefLen {
		return b, errRefLen
	}
	b = binary.BigEndian.AppendUint16(append(b, extNewerReference), uint16(r.Len))
	b, err := appendAtom(b, &r.Node)
	b = binary.BigEndian.AppendUint32(b, r.Creation)
	for _, word := range r.ID[:r.Len] {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return b, err
}

func appendFun(b []byte, f *Fun) ([]byte, error) {
	if f.term == "" {
		return b, errNoFun
	}
	return append(b, f.term...), nil
}
