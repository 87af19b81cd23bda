package etf

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// The atoms that Go values without a type of their own become.
const (
	atomTrue      Atom = "true"
	atomFalse     Atom = "false"
	atomUndefined Atom = "undefined"
)

// Atom is an Erlang atom: UTF-8, at most 255 characters.
type Atom string

// Tuple is an Erlang tuple.
type Tuple []any

// ImproperList is a list that ends in Tail instead of the empty list: [a, b | Tail]. It has at
// least one element.
type ImproperList struct {
	Elements []any
	Tail     any
}

// Charlist is an Erlang string, that is a list of characters, held as UTF-8. A node sends each
// list of 1 to 65,535 integers from 0 to 255 in the form of a string. So [1, 2, 3] decodes into an
// any as Charlist("\x01\x02\x03"). It decodes into a []int or a []byte as well.
type Charlist string

// BitString is a bitstring whose length is no multiple of 8.
type BitString struct {
	Bytes []byte // at least one
	Bits  uint8  // 1 to 7, used of the last byte from its most significant bit on; the others are 0
}

// Pid is a process of any node.
type Pid struct {
	Node                 Atom
	ID, Serial, Creation uint32
}

// String returns p as <a@host.85.0>, without its creation.
func (p Pid) String() string { return fmt.Sprintf("<%s.%d.%d>", p.Node, p.ID, p.Serial) }

// Port is a port of any node.
type Port struct {
	Node     Atom
	ID       uint64 // below 1<<28 before OTP 24
	Creation uint32
}

// String returns p as #Port<a@host.5>, without its creation.
func (p Port) String() string { return fmt.Sprintf("#Port<%s.%d>", p.Node, p.ID) }

// Ref is a reference made in any node. It is comparable.
type Ref struct {
	Node     Atom
	Creation uint32
	Len      uint8     // words used of ID, 1 to 5; up to 3 before OTP 24
	ID       [5]uint32 // as sent; those past Len are 0
}

// String returns r as #Ref<a@host.3.2.1>, without its creation.
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString("#Ref<" + string(r.Node))
	for i := min(int(r.Len), maxRefLen) - 1; i >= 0; i-- {
		b.WriteString("." + strconv.FormatUint(uint64(r.ID[i]), 10))
	}
	return b.String() + ">"
}

// Fun is an Erlang fun, local or external (fun m:f/1). It keeps its encoded form, and encodes to
// the same. It is comparable. The zero Fun can't be encoded.
type Fun struct {
	term string // without the version byte
}

// Map is an Erlang map with its associations in the order in which they were sent. Its keys may be
// of any type, also of those that can't be keys of a Go map.
type Map []Pair

// Pair is an association of a [Map].
type Pair struct {
	Key, Value any
}

// Get returns the value of the first association whose key is deeply equal to key. In a decoded
// map a key has one of the types that [Unmarshal] stores in an any.
func (m Map) Get(key any) (value any, ok bool) {
	for _, pair := range m {
		if reflect.DeepEqual(pair.Key, key) {
			return pair.Value, true
		}
	}
	return nil, false
}

// Raw is one encoded term, without the version byte 131. It is a part of a term to be decoded
// later, or was encoded before.
type Raw []byte

// MarshalTerm returns t itself. It is an error if t is not one well-formed term.
func (t Raw) MarshalTerm() (Raw, error) {
	if err := checkTerm(t); err != nil {
		return nil, err
	}
	return t, nil
}

// UnmarshalTerm makes *t a copy of term.
func (t *Raw) UnmarshalTerm(term Raw) error {
	*t = bytes.Clone(term)
	return nil
}

// Marshaler is a type that encodes itself as one term.
type Marshaler interface {
	MarshalTerm() (Raw, error)
}

// Unmarshaler is a type that decodes itself from one well-formed term. It must copy what it keeps
// of the term, and must not change the term.
type Unmarshaler interface {
	UnmarshalTerm(Raw) error
}
