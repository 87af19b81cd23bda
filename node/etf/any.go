package etf

import (
	"bytes"
	"math"
	"math/big"
	"slices"
)

var emptyList any = []any{} // takes no memory each time

// value decodes the term that begins with t as Unmarshal stores it in an any.
func (d *decoder) value(t token) (any, error) {
	switch t.kind {
	case kindInt:
		return t.n, nil
	case kindBig:
		return d.big(t), nil
	case kindFloat:
		return t.float(), nil
	case kindAtom:
		return Atom(d.text(t)), nil
	case kindNil:
		return emptyList, nil
	case kindString:
		return Charlist(latin1(d.text(t))), nil
	case kindBinary:
		return bytes.Clone(d.text(t)), nil
	case kindBits:
		return d.bits(t), nil
	case kindPid:
		return d.pid(t)
	case kindPort:
		return d.port(t)
	case kindRef:
		return d.ref(t)
	case kindFun:
		raw, err := d.raw(t)
		return Fun{string(raw)}, err
	}
	return d.container(t)
}

func (d *decoder) container(t token) (any, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	switch t.kind {
	case kindTuple:
		return d.tuple(t)
	case kindList:
		return d.list(t)
	default:
		return d.mapping(t)
	}
}

func (d *decoder) nextValue() (any, error) {
	t, err := d.next()
	if err != nil {
		return nil, err
	}
	return d.value(t)
}

func (d *decoder) tuple(t token) (any, error) {
	tuple := make(Tuple, t.n)
	var err error
	for i := range tuple {
		if tuple[i], err = d.nextValue(); err != nil {
			return nil, err
		}
	}
	return tuple, nil
}

func (d *decoder) mapping(t token) (any, error) {
	m := make(Map, t.n)
	var err error
	for i := range m {
		if m[i].Key, err = d.nextValue(); err != nil {
			return nil, err
		}
		if m[i].Value, err = d.nextValue(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (d *decoder) list(t token) (any, error) {
	list := make([]any, 0, t.n)
	tail, err := d.elements(t, func(_ int, t token) error {
		v, err := d.value(t)
		list = append(list, v)
		return err
	})
	if err != nil || tail.kind == kindNil {
		return list, err
	}
	last, err := d.value(tail)
	if err != nil || len(list) == 0 { // a node, too, takes a list of no elements for its tail
		return last, err
	}
	return ImproperList{list, last}, nil
}

// isList reports whether t is a list, empty or not, or the head of one.
func (t token) isList() bool {
	return t.kind == kindList || t.kind == kindString || t.kind == kindNil
}

// elements calls do for each element of the list t, with its index and how it begins. It returns
// how the tail begins. That is of kindNil, unless the list is improper. The list may come in
// pieces. Each is the tail of the one before.
func (d *decoder) elements(t token, do func(int, token) error) (tail token, err error) {
	n := 0
	for t.kind == kindList {
		for range t.n {
			e, err := d.next()
			if err == nil {
				err = do(n, e)
			}
			if err != nil {
				return token{}, err
			}
			n++
		}
		if t, err = d.next(); err != nil {
			return token{}, err
		}
	}
	if t.kind != kindString {
		return t, nil
	}
	for _, c := range d.text(t) {
		d.pos = -1
		if err := do(n, token{kind: kindInt, n: int64(c)}); err != nil {
			return token{}, err
		}
		n++
	}
	return token{kind: kindNil}, nil
}

// raw reads the rest of the term that began with t, the last token. It returns all of the term.
// That may be a part of the decoder's data.
func (d *decoder) raw(t token) (Raw, error) {
	pos := d.pos
	if pos < 0 {
		return appendInt(nil, t.n), nil
	}
	err := d.discard(t)
	return d.data[pos:d.off], err
}

func (t token) float() float64 { return math.Float64frombits(uint64(t.n)) }

// big returns an integer of any size.
func (d *decoder) big(t token) *big.Int {
	if t.kind == kindInt {
		return big.NewInt(t.n)
	}
	b := bytes.Clone(d.text(t))
	slices.Reverse(b)
	n := new(big.Int).SetBytes(b)
	if t.extra != 0 {
		n.Neg(n)
	}
	return n
}

func (d *decoder) bits(t token) BitString {
	b := bytes.Clone(d.text(t))
	b[len(b)-1] &= 0xff << (8 - t.extra)
	return BitString{b, t.extra}
}
