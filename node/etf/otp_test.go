package etf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/goerlang/eclus/test/need"
)

var termCount = flag.Int("terms", 20_000, "random terms to exchange with OTP, each way, a multiple of 500")

const termBatch = 500 // terms to a frame

// TestTermsOTP exchanges random terms with a real node. Those that Go makes must come back the
// same. They must come back in the same bytes, unless they are maps or ports. Those that the node
// makes must be identical for it.
func TestTermsOTP(t *testing.T) {
	n := startTerms(t)
	seed := rand.Uint32()
	t.Logf("seed %d", seed)
	var release int
	n.ask(Tuple{Atom("seed"), seed}, &release)
	maker := termMaker{rand.New(rand.NewPCG(0, uint64(seed))), release < 24}
	t.Run("from Go", func(t *testing.T) { testTermsToOTP(t, n, maker) })
	t.Run("from OTP", func(t *testing.T) { testTermsFromOTP(t, n) })
}

func testTermsToOTP(t *testing.T, n *termPeer, m termMaker) {
	for done := 0; done < *termCount; done += termBatch {
		sent, encoded := make([]any, termBatch), make([][]byte, termBatch)
		for i := range sent {
			sent[i] = m.term(m.IntN(4))
			encoded[i] = encode(t, sent[i])
		}
		var echoed [][]byte
		n.ask(Tuple{Atom("echo"), encoded}, &echoed)
		if len(echoed) != termBatch {
			t.Fatalf("%d terms came back; want %d", len(echoed), termBatch)
		}
		for i := range sent {
			checkEcho(t, sent[i], encoded[i], echoed[i])
		}
	}
	t.Logf("%d terms, 0 differences", *termCount)
}

func checkEcho(t *testing.T, sent any, encoded, echoed []byte) {
	t.Helper()
	if !differs(sent) && !bytes.Equal(echoed, encoded) {
		t.Fatalf("%x came back as %x", encoded, echoed)
	}
	var got any
	if err := Unmarshal(echoed, &got); err != nil || !reflect.DeepEqual(inOrder(got), inOrder(sent)) {
		t.Fatalf("%#v came back as %#v, %v", sent, got, err)
	}
}

func testTermsFromOTP(t *testing.T, n *termPeer) {
	for done := 0; done < *termCount; done += termBatch {
		var terms [][]byte
		n.ask(Tuple{Atom("generate"), termBatch}, &terms)
		if len(terms) != termBatch {
			t.Fatalf("%d terms came; want %d", len(terms), termBatch)
		}
		for i, b := range terms {
			var term any
			if err := Unmarshal(b, &term); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			terms[i] = encode(t, term)
		}
		var differences []string
		n.ask(Tuple{Atom("compare"), terms}, &differences)
		if len(differences) > 0 {
			t.Fatalf("%d differences, the first: %s", len(differences), differences[0])
		}
	}
	t.Logf("%d terms, 0 differences", *termCount)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	b, err := Marshal(v)
	if err != nil {
		t.Fatalf("%#v: %v", v, err)
	}
	return b
}

// termPeer is an Erlang runtime that runs testdata/terms.erl.
type termPeer struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func startTerms(t *testing.T) *termPeer {
	t.Helper()
	source, err := filepath.Abs("testdata/terms.erl")
	if err != nil {
		t.Fatal(err)
	}
	load := fmt.Sprintf("{ok, M, B} = compile:file(%q, [binary]), code:load_binary(M, %[1]q, B), M:main().", source)
	cmd := exec.Command(need.Program(t, "erl"), "-noinput", "-boot", "start_clean", "-eval", load)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	return &termPeer{t, in, bufio.NewReader(out)}
}

// ask sends a request and decodes the answer into v.
func (p *termPeer) ask(request Tuple, v any) {
	p.t.Helper()
	b := encode(p.t, request)
	if _, err := p.in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		p.t.Fatalf("ask %v: %v", request[0], err)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(p.out, head); err != nil {
		p.t.Fatalf("ask %v: %v", request[0], err)
	}
	answer := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(p.out, answer); err != nil {
		p.t.Fatalf("ask %v: %v", request[0], err)
	}
	if err := (Limits{Size: math.MaxInt}).Unmarshal(answer, v); err != nil {
		p.t.Fatalf("ask %v: %v", request[0], err)
	}
}

// inOrder returns v with the pairs of all its maps in the order of their encoded keys.
func inOrder(v any) any {
	switch v := v.(type) {
	case []any:
		return inOrderAll(v)
	case Tuple:
		return Tuple(inOrderAll(v))
	case ImproperList:
		return ImproperList{inOrderAll(v.Elements), inOrder(v.Tail)}
	case Map:
		return mapInOrder(v)
	}
	return v
}

func mapInOrder(v Map) Map {
	pairs := make(map[string]Pair, len(v))
	for _, pair := range v {
		key := inOrder(pair.Key)
		pairs[keyOf(key)] = Pair{key, inOrder(pair.Value)}
	}
	m := make(Map, 0, len(pairs))
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		m = append(m, pairs[key])
	}
	return m
}

func inOrderAll(v []any) []any {
	out := make([]any, len(v))
	for i := range v {
		out[i] = inOrder(v[i])
	}
	return out
}

// keyOf returns v encoded.
func keyOf(v any) string {
	b, err := Append(nil, v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// differs reports whether a node may encode v otherwise. A map may have its keys in another
// order. A port may have the form that nodes before OTP 24 don't know. Later nodes use it even
// where the older one would do.
func differs(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, differs)
	case Tuple:
		return slices.ContainsFunc(v, differs)
	case ImproperList:
		return slices.ContainsFunc(v.Elements, differs) || differs(v.Tail)
	case Map, Port:
		return true
	}
	return false
}

// termMaker makes random terms, as Unmarshal would store them in an any.
type termMaker struct {
	*rand.Rand
	small bool // identifiers are none that nodes before OTP 24 don't know
}

func (m termMaker) term(depth int) any {
	if depth == 0 {
		return m.flat()
	}
	switch m.IntN(9) {
	case 0:
		return Tuple(m.terms(depth))
	case 1:
		return append(m.terms(depth), Atom("no string"))
	case 2:
		return ImproperList{append(m.terms(depth), m.term(depth-1)), m.identifier()}
	case 3:
		return m.mapping(depth)
	case 4:
		return m.deep()
	}
	return m.flat()
}

func (m termMaker) terms(depth int) []any {
	v := make([]any, m.IntN(6))
	for i := range v {
		v[i] = m.term(depth - 1)
	}
	return v
}

// mapping makes a map without equal keys.
func (m termMaker) mapping(depth int) Map {
	v, seen := Map{}, map[string]bool{}
	for range m.IntN(5) * m.IntN(10) {
		key := m.term(depth - 1)
		if id := keyOf(inOrder(key)); !seen[id] {
			seen[id] = true
			v = append(v, Pair{key, m.term(0)})
		}
	}
	return v
}

func (m termMaker) deep() any {
	v := m.flat()
	for range m.IntN(300) {
		switch m.IntN(3) {
		case 0:
			v = Tuple{v, int64(1)}
		case 1:
			v = []any{Atom("a"), v}
		default:
			v = Map{{int64(1), v}}
		}
	}
	return v
}

func (m termMaker) flat() any {
	switch m.IntN(10) {
	case 0:
		return int64(m.IntN(600) - 300)
	case 1:
		return int64(m.Uint64()) >> m.IntN(64)
	case 2:
		return m.bignum()
	case 3:
		return math.Ldexp(m.Float64()+0.1, m.IntN(2000)-1000)
	case 4:
		return Atom(m.text(0xd800, 256))
	case 5:
		return m.bytes(40)
	case 6:
		return m.bitString()
	case 7:
		return Charlist("a" + m.text(256, 50))
	case 8:
		return []any{}
	default:
		return m.identifier()
	}
}

func (m termMaker) identifier() any {
	name := Atom("n@" + m.text(0x800, 5))
	pid, port, ref := Pid{name, m.Uint32(), m.Uint32(), m.Uint32()}, Port{name, m.Uint64() >> m.IntN(64), m.Uint32()},
		Ref{Node: name, Creation: m.Uint32(), Len: uint8(1 + m.IntN(maxRefLen))}
	for i := range ref.Len {
		ref.ID[i] = m.Uint32()
	}
	if m.small {
		pid.ID, pid.Serial, port.ID = pid.ID>>17, pid.Serial>>19, port.ID>>36
		ref.Len, ref.ID = min(ref.Len, 3), [maxRefLen]uint32{ref.ID[0] >> 14, ref.ID[1], ref.ID[2]}
	}
	switch m.IntN(4) {
	case 0:
		return pid
	case 1:
		return port
	case 2:
		return ref
	default:
		return Fun{unhexString(exportHex)}
	}
}

func (m termMaker) bytes(most int) []byte {
	b := make([]byte, m.IntN(most))
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

// bignum makes an integer of 65 to 8,000 bits.
func (m termMaker) bignum() *big.Int {
	n := new(big.Int).SetBytes(append(m.bytes(990), 1, 2, 3, 4, 5, 6, 7, 8))
	n.SetBit(n, n.BitLen()+64, 1)
	if m.IntN(2) == 0 {
		n.Neg(n)
	}
	return n
}

func (m termMaker) bitString() BitString {
	s := BitString{append(m.bytes(10), byte(m.Uint32())), uint8(1 + m.IntN(7))}
	s.Bytes[len(s.Bytes)-1] &= 0xff << (8 - s.Bits)
	return s
}

// text makes fewer than most characters below limit.
func (m termMaker) text(limit rune, most int) string {
	r := make([]rune, m.IntN(most))
	for i := range r {
		r[i] = m.Int32N(limit)
	}
	return string(r)
}
