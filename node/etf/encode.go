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
	"strconv"
	"sync"
	"unicode/utf8"
)

// Marshal returns the term for v, after the version byte 131. Where a Go value has but one natural
// term, the bytes are those of term_to_binary/1 of OTP 26 and later. The one exception is a [Port]
// whose ID fits into the form of nodes before OTP 24, which is then used.
//
//   - Integers of any kind and size, big.Int and finite floats are what they are.
//   - bool becomes true or false.
//   - string, []byte and arrays of bytes become a binary, [Charlist] a string, [Atom] an atom.
//   - Other slices and arrays become a list. A nil slice is empty.
//   - Maps of Go become a map, in the order of their keys. A nil map is empty.
//   - Structs become a map whose keys are atoms, in alphabetical order.
//   - nil and nil pointers become the atom undefined. Other pointers, and interfaces, become what
//     they point to.
//   - The types of this package become what they are named for. A nil Raw is an error.
//   - A type with a MarshalTerm method, of its own or of its pointer, becomes what that returns.
//
// The fields of a struct are its exported fields and those of structs embedded in it without a
// tag. Tags say what becomes of a field:
//
//	Name string `erl:"name"`           // its key is the atom name, instead of Name
//	Name string `erl:"name,omitempty"` // left out while false, 0, nil or empty
//	Name string `erl:"-"`              // is no field
//
// A tag with the option tuple on a blank field makes the struct a tuple of all its fields, in their
// order. If the tag names an atom, that comes first:
//
//	_ struct{} `erl:",tuple"`     // {A, B}
//	_ struct{} `erl:"rec,tuple"`  // {rec, A, B}, as an Erlang record
//
// Marshal returns an error for what has no term, such as channels. It also does so for values
// nested deeper than 10,000, which are likely to contain themselves.
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

// Append appends the term for v to b, without the version byte, as messages between nodes hold
// them.
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

// appendAny appends the term of v, which is within depth others. It tells the types of an any
// apart without reflection.
func appendAny(b []byte, v any, depth int) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		b = appendKnown(b, atomUndefined)
	case bool:
		b = appendBool(b, v)
	case int:
		b = appendInt(b, int64(v))
	case int64:
		b = appendInt(b, v)
	case string:
		b, err = appendBinary(b, v)
	case []byte:
		b, err = appendBinary(b, v)
	case Atom:
		b, err = appendAtom(b, v)
	case Charlist:
		b, err = appendCharlist(b, string(v))
	case BitString:
		b, err = appendBitString(b, v)
	case Pid:
		b, err = appendPid(b, v)
	case Port:
		b, err = appendPort(b, v)
	case Ref:
		b, err = appendRef(b, v)
	case Fun:
		b, err = appendFun(b, v)
	case big.Int:
		b, err = appendBig(b, &v)
	case Map:
		b, err = appendMap(b, v, depth)
	case ImproperList:
		b, err = appendImproper(b, v, depth)
	default:
		return planOf(reflect.TypeOf(v)).encode(b, reflect.ValueOf(v), depth)
	}
	return b, noValue(err, reflect.TypeOf(v))
}

// noValue makes a ValueError of err, unless it is one or nil.
func noValue(err error, t reflect.Type) error {
	if err == nil {
		return nil
	}
	if _, ok := err.(*ValueError); ok {
		return err
	}
	return &ValueError{Type: t, Err: err}
}

// deeper returns the depth of what is within a value at depth.
func deeper(depth int) (int, error) {
	if depth == maxEncodeDepth {
		return 0, errTooDeep
	}
	return depth + 1, nil
}

// appendTag appends the head of a term with n parts or bytes.
func appendTag(b []byte, tag byte, n int) ([]byte, error) {
	if int64(n) > math.MaxUint32 {
		return b, errTooLong
	}
	return binary.BigEndian.AppendUint32(append(b, tag), uint32(n)), nil
}

func appendImproper(b []byte, v ImproperList, depth int) ([]byte, error) {
	if len(v.Elements) == 0 {
		return b, errNoElements
	}
	b, err := appendAny(b, v.Elements, depth)
	if err != nil {
		return b, within(err, ".Elements")
	}
	b = b[:len(b)-1] // without the empty list at the end
	if b, err = appendAny(b, v.Tail, depth+1); err != nil {
		return b, within(err, ".Tail")
	}
	return b, nil
}

func appendArity(b []byte, n int) ([]byte, error) {
	if n <= math.MaxUint8 {
		return append(b, extSmallTuple, byte(n)), nil
	}
	return appendTag(b, extLargeTuple, n)
}

func appendMap(b []byte, v Map, depth int) ([]byte, error) {
	b, err := appendTag(b, extMap, len(v))
	if err == nil {
		depth, err = deeper(depth)
	}
	for i := 0; i < len(v) && err == nil; i++ {
		if b, err = appendAny(b, v[i].Key, depth); err != nil {
			return b, within(err, "[%d].Key", i)
		}
		if b, err = appendAny(b, v[i].Value, depth); err != nil {
			return b, within(err, "[%d].Value", i)
		}
	}
	return b, err
}

func appendBool(b []byte, v bool) []byte {
	return appendKnown(b, Atom(strconv.FormatBool(v)))
}

// appendKnown appends an atom that is UTF-8 and short.
func appendKnown(b []byte, a Atom) []byte {
	return append(append(b, extSmallAtomUTF8, byte(len(a))), a...)
}

func appendAtom(b []byte, a Atom) ([]byte, error) {
	switch {
	case !utf8.ValidString(string(a)):
		return b, errNotUTF8
	case len(a) <= math.MaxUint8:
		return appendKnown(b, a), nil
	case utf8.RuneCountInString(string(a)) > maxAtomLen:
		return b, errAtomLen
	}
	b = binary.BigEndian.AppendUint16(append(b, extAtomUTF8), uint16(len(a)))
	return append(b, a...), nil
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n == int64(byte(n)):
		return append(b, extSmallInteger, byte(n))
	case n == int64(int32(n)):
		return binary.BigEndian.AppendUint32(append(b, extInteger), uint32(n))
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
	return binary.LittleEndian.AppendUint64(b, n)[:len(b)+size]
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
		return b, err
	}
	return append(b, v...), nil
}

// appendCharlist appends a STRING_EXT if all characters fit into one, else a list.
func appendCharlist(b []byte, s string) ([]byte, error) {
	if s == "" {
		return append(b, extNil), nil
	}
	if !utf8.ValidString(s) {
		return b, errNotUTF8
	}
	chars := []rune(s)
	if len(chars) <= maxStringLen && slices.Max(chars) <= math.MaxUint8 {
		b = binary.BigEndian.AppendUint16(append(b, extString), uint16(len(chars)))
		for _, r := range chars {
			b = append(b, byte(r))
		}
		return b, nil
	}
	b, err := appendTag(b, extList, len(chars))
	if err != nil {
		return b, err
	}
	for _, r := range chars {
		b = appendInt(b, int64(r))
	}
	return append(b, extNil), nil
}

func appendBitString(b []byte, v BitString) ([]byte, error) {
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

func appendPid(b []byte, p Pid) ([]byte, error) {
	b, err := appendAtom(append(b, extNewPid), p.Node)
	b = binary.BigEndian.AppendUint32(b, p.ID)
	b = binary.BigEndian.AppendUint32(b, p.Serial)
	return binary.BigEndian.AppendUint32(b, p.Creation), err
}

// appendPort uses the form with 8 bytes only where it must: nodes before OTP 24 don't know it.
func appendPort(b []byte, p Port) ([]byte, error) {
	const before24 = 1 << 28
	if p.ID < before24 {
		b, err := appendAtom(append(b, extNewPort), p.Node)
		b = binary.BigEndian.AppendUint32(b, uint32(p.ID))
		return binary.BigEndian.AppendUint32(b, p.Creation), err
	}
	b, err := appendAtom(append(b, extV4Port), p.Node)
	b = binary.BigEndian.AppendUint64(b, p.ID)
	return binary.BigEndian.AppendUint32(b, p.Creation), err
}

func appendRef(b []byte, r Ref) ([]byte, error) {
	if r.Len < 1 || r.Len > maxRefLen {
		return b, errRefLen
	}
	b = binary.BigEndian.AppendUint16(append(b, extNewerReference), uint16(r.Len))
	b, err := appendAtom(b, r.Node)
	b = binary.BigEndian.AppendUint32(b, r.Creation)
	for _, word := range r.ID[:r.Len] {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return b, err
}

func appendFun(b []byte, f Fun) ([]byte, error) {
	if f.term == "" {
		return b, errNoFun
	}
	return append(b, f.term...), nil
}
