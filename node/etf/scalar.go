package etf

import (
	"math"
	"math/big"
	"reflect"
	"unicode/utf8"
)

func (p *plan) encodeBool(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return appendBool(b, v.Bool()), nil
}

func (p *plan) decodeBool(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindAtom {
		if name := Atom(d.text(t)); name == atomTrue || name == atomFalse {
			v.SetBool(name == atomTrue)
			return nil
		}
	}
	return d.mismatch(t, p.typ)
}

func (p *plan) encodeInt(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return appendInt(b, v.Int()), nil
}

func (p *plan) decodeInt(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindInt || v.OverflowInt(t.n) {
		return d.mismatch(t, p.typ)
	}
	v.SetInt(t.n)
	return nil
}

func (p *plan) encodeUint(b []byte, v reflect.Value, _ int) ([]byte, error) {
	return appendUint(b, v.Uint()), nil
}

func (p *plan) decodeUint(d *decoder, t token, v reflect.Value) error {
	u, ok := uint64(t.n), t.kind == kindInt && t.n >= 0
	if t.kind == kindBig && t.extra == 0 && t.n == 8 {
		u, ok = littleEndian(d.text(t)), true
	}
	if !ok || v.OverflowUint(u) {
		return d.mismatch(t, p.typ)
	}
	v.SetUint(u)
	return nil
}

func (p *plan) encodeFloat(b []byte, v reflect.Value, _ int) ([]byte, error) {
	b, err := appendFloat(b, v.Float())
	return b, noValue(err, p.typ)
}

func (p *plan) decodeFloat(d *decoder, t token, v reflect.Value) error {
	f, ok := t.float(), t.kind == kindFloat
	if t.kind == kindInt || t.kind == kindBig {
		f, _ = d.big(t).Float64()
		ok = true
	}
	if !ok || math.IsInf(f, 0) || v.OverflowFloat(f) {
		return d.mismatch(t, p.typ)
	}
	v.SetFloat(f)
	return nil
}

func (p *plan) encodeString(b []byte, v reflect.Value, _ int) ([]byte, error) {
	b, err := appendBinary(b, v.String())
	return b, noValue(err, p.typ)
}

func (p *plan) decodeString(d *decoder, t token, v reflect.Value) error {
	if t.kind == kindBinary || t.kind == kindAtom {
		v.SetString(string(d.text(t)))
		return nil
	}
	return p.decodeChars(d, t, v)
}

// decodeChars is for a list of characters.
func (p *plan) decodeChars(d *decoder, t token, v reflect.Value) error {
	var chars []byte
	err := d.each(t, p.typ, func(_ int, e token) error {
		if e.kind != kindInt || e.n != int64(rune(e.n)) || !utf8.ValidRune(rune(e.n)) {
			return d.mismatch(t, p.typ)
		}
		chars = utf8.AppendRune(chars, rune(e.n))
		return nil
	})
	if err == nil {
		v.SetString(string(chars))
	}
	return err
}

func (p *plan) decodeAtom(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindAtom {
		return d.mismatch(t, p.typ)
	}
	v.SetString(string(d.text(t)))
	return nil
}

func (p *plan) decodeBig(d *decoder, t token, v reflect.Value) error {
	if t.kind != kindInt && t.kind != kindBig {
		return d.mismatch(t, p.typ)
	}
	v.Addr().Interface().(*big.Int).Set(d.big(t))
	return nil
}
