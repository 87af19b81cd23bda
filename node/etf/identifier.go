package etf

import "slices"

// part reads a term that must be of kind k.
func (d *decoder) part(k kind, what string) (token, error) {
	if err := d.claim(1); err != nil {
		return token{}, err
	}
	t, err := d.next()
	if err == nil && t.kind != k {
		err = d.bad("%s is %v", what, d.describe(t))
	}
	return t, err
}

// identifier reads the node of an identifier and the size bytes after it.
func (d *decoder) identifier(size int) (node Atom, b []byte, err error) {
	t, err := d.part(kindAtom, "node of an identifier")
	if err != nil {
		return "", nil, err
	}
	b, err = d.take(int64(size))
	return Atom(d.text(t)), b, err
}

// creationSize returns the bytes of a creation.
func creationSize(old bool) int {
	if old {
		return 1
	}
	return 4
}

// pid reads what follows the tag: node, 4 bytes of ID, 4 of serial, creation.
func (d *decoder) pid(t token) (Pid, error) {
	node, b, err := d.identifier(8 + creationSize(t.extra == extPid))
	if err != nil {
		return Pid{}, err
	}
	id, serial, creation := bigEndian(b[:4]), bigEndian(b[4:8]), bigEndian(b[8:])
	return Pid{node, uint32(id), uint32(serial), uint32(creation)}, nil
}

// port reads what follows the tag: node, 4 or 8 bytes of ID, creation.
func (d *decoder) port(t token) (Port, error) {
	size := 4
	if t.extra == extV4Port {
		size = 8
	}
	node, b, err := d.identifier(size + creationSize(t.extra == extPort))
	if err != nil {
		return Port{}, err
	}
	return Port{node, bigEndian(b[:size]), uint32(bigEndian(b[size:]))}, nil
}

// ref reads what follows the tag: the number of words, node, creation, words. A REFERENCE_EXT has
// node, one word and creation.
func (d *decoder) ref(t token) (r Ref, err error) {
	n := int64(1)
	if t.extra != extReference {
		if n, err = d.uint(2); err != nil {
			return Ref{}, err
		}
	}
	if n < 1 || n > maxRefLen {
		return Ref{}, d.bad("reference of %d words", n)
	}
	first := creationSize(t.extra != extNewerReference)
	node, b, err := d.identifier(first + 4*int(n))
	if err != nil {
		return Ref{}, err
	}
	if t.extra == extReference {
		b = slices.Concat(b[4:], b[:4])
	}
	r = Ref{Node: node, Creation: uint32(bigEndian(b[:first])), Len: uint8(n)}
	for i := range int(n) {
		r.ID[i] = uint32(bigEndian(b[first+4*i:][:4]))
	}
	return r, nil
}

// discard reads all that follows t, without recursion but for funs.
func (d *decoder) discard(t token) error {
	if err := d.body(t); err != nil {
		return err
	}
	return d.discardTerms(t.parts())
}

func (d *decoder) discardTerms(n int64) error {
	for ; n > 0; n-- {
		t, err := d.next()
		if err != nil {
			return err
		}
		if err := d.body(t); err != nil {
			return err
		}
		n += t.parts()
	}
	return nil
}

// body reads what follows a token that is no container.
func (d *decoder) body(t token) (err error) {
	switch t.kind {
	case kindPid, kindPort, kindRef:
		_, err = d.value(t)
	case kindFun:
		err = d.fun(t)
	}
	return err
}

// funs are the forms of a fun after its tag. First comes a head of so many bytes. It ends in the
// number of free variables. An external fun has neither. Then come parts, then the free
// variables.
//
// The head of a NEW_FUN_EXT is size=4, arity=1, uniq=16, index=4, numfree=4. OTP ignores the
// size. It is wrong in OTP 23 and 24 if a bitstring or an external fun is among the free
// variables.
var funs = map[uint8]struct {
	head  int
	parts []kind
}{
	extExport: {0, []kind{kindAtom, kindAtom, kindInt}},          // module, name, arity
	extNewFun: {29, []kind{kindAtom, kindInt, kindInt, kindPid}}, // module, index, uniq, pid
	extFun:    {4, []kind{kindPid, kindAtom, kindInt, kindInt}},  // pid, module, index, uniq
}

// fun reads what follows the tag and checks its form.
func (d *decoder) fun(t token) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	form := funs[t.extra]
	head, err := d.take(int64(form.head))
	if err != nil {
		return err
	}
	for _, k := range form.parts {
		t, err := d.part(k, "part of a fun")
		if err != nil {
			return err
		}
		if err := d.body(t); err != nil {
			return err
		}
	}
	if len(head) == 0 {
		return nil
	}
	free := int64(bigEndian(head[len(head)-4:]))
	if err := d.claim(free); err != nil {
		return err
	}
	return d.discardTerms(free)
}
