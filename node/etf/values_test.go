package etf

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

type inner struct {
	A int    `erl:"a"`
	B string `erl:"b,omitempty"`
}

type record struct {
	_    struct{} `erl:"rec,tuple"`
	X, Y int
}

type point struct {
	_    struct{} `erl:",tuple"`
	X, Y int
}

type embedded struct {
	inner
	C    bool `erl:"c"`
	Skip int  `erl:"-"`
	inner2
}

type inner2 struct{ D *int }

type tree struct {
	Value int     `erl:"v"`
	Left  *tree   `erl:"l"`
	Right []*tree `erl:"r"`
}

// celsius has methods of its own: a tuple {celsius, N}.
type celsius float64

var errCold = errors.New("too cold")

func (c celsius) MarshalTerm() (Raw, error) {
	if c < -273.15 {
		return nil, errCold
	}
	return Append(nil, Tuple{Atom("celsius"), float64(c)})
}

func (c *celsius) UnmarshalTerm(term Raw) error {
	var t struct {
		_ struct{} `erl:"celsius,tuple"`
		N float64
	}
	err := term.Unmarshal(&t)
	if err == nil && t.N < -273.15 {
		err = errCold
	}
	*c = celsius(t.N)
	return err
}

// kelvin has its methods on the pointer: a tuple {kelvin, N}.
type kelvin struct{ n int }

func (k *kelvin) MarshalTerm() (Raw, error) { return Append(nil, Tuple{Atom("kelvin"), k.n}) }

func (k *kelvin) UnmarshalTerm(term Raw) error {
	var t struct {
		_ struct{} `erl:"kelvin,tuple"`
		N int
	}
	err := term.Unmarshal(&t)
	k.n = t.N
	return err
}

func ptr[T any](v T) *T { return &v }

// valueTests are Go values and their terms, shown as an any.
var valueTests = []struct {
	name  string
	value any
	term  any
}{
	{"bool", true, Atom("true")},
	{"int8", int8(-128), -128},
	{"int64", int64(math.MinInt64), int64(math.MinInt64)},
	{"uint64", uint64(math.MaxUint64), new(big.Int).SetUint64(math.MaxUint64)},
	{"uintptr", uintptr(7), 7},
	{"float32", float32(1.5), 1.5},
	{"big", new(big.Int).Lsh(big.NewInt(1), 100), new(big.Int).Lsh(big.NewInt(1), 100)},
	{"string", "høst", []byte("høst")},
	{"bytes", []byte{0, 255}, []byte{0, 255}},
	{"array of bytes", [2]byte{1, 2}, []byte{1, 2}},
	{"atom", Atom("a"), Atom("a")},
	{"charlist", Charlist("abc"), Charlist("abc")},
	{"slice", []string{"a", "b"}, []any{[]byte("a"), []byte("b")}},
	{"nil slice", []int(nil), []any{}},
	{"array", [2]bool{true, false}, []any{Atom("true"), Atom("false")}},
	{"map", map[Atom]int{"b": 2, "a": 1}, Map{{Atom("a"), 1}, {Atom("b"), 2}}},
	{"map of ints", map[int]string{2: "b", -1: "a"}, Map{{-1, []byte("a")}, {2, []byte("b")}}},
	{"struct", inner{1, ""}, Map{{Atom("a"), 1}}},
	{"struct, all", inner{1, "x"}, Map{{Atom("a"), 1}, {Atom("b"), []byte("x")}}},
	{"embedded", embedded{inner: inner{A: 1}, C: true, inner2: inner2{D: ptr(4)}}, Map{{Atom("D"), 4}, {Atom("a"), 1}, {Atom("c"), Atom("true")}}},
	{"record", record{X: 1, Y: -1}, Tuple{Atom("rec"), 1, -1}},
	{"tuple", point{X: 1, Y: -1}, Tuple{1, -1}},
	{"nil pointer", (*int)(nil), Atom("undefined")},
	{"pointer", ptr("x"), []byte("x")},
	{"recursive", tree{1, &tree{Value: 2}, []*tree{{Value: 3}}}, Map{
		{Atom("l"), Map{{Atom("l"), Atom("undefined")}, {Atom("r"), []any{}}, {Atom("v"), 2}}},
		{Atom("r"), []any{Map{{Atom("l"), Atom("undefined")}, {Atom("r"), []any{}}, {Atom("v"), 3}}}},
		{Atom("v"), 1}}},
	{"methods", celsius(21.5), Tuple{Atom("celsius"), 21.5}},
	{"methods in a list", []celsius{1}, []any{Tuple{Atom("celsius"), 1.0}}},
	{"pid", Pid{"a@b", 1, 2, 3}, Pid{"a@b", 1, 2, 3}},
	{"port", Port{"a@b", 1 << 40, 3}, Port{"a@b", 1 << 40, 3}},
	{"reference", Ref{Node: "a@b", Creation: 3, Len: 2, ID: [5]uint32{1, 2}}, Ref{Node: "a@b", Creation: 3, Len: 2, ID: [5]uint32{1, 2}}},
	{"bits", BitString{[]byte{0xa0}, 3}, BitString{[]byte{0xa0}, 3}},
	{"map of floats", map[string]float64{"b": 2, "a": 1.5}, Map{{[]byte("a"), 1.5}, {[]byte("b"), 2.0}}},
	{"map of strings", map[Atom]string{"b": "2", "a": "1"}, Map{{Atom("a"), []byte("1")}, {Atom("b"), []byte("2")}}},
	{"map of bools", map[string]bool{"b": true, "a": false}, Map{{[]byte("a"), Atom("false")}, {[]byte("b"), Atom("true")}}},
	{"map of any", map[string]any{"b": int64(2), "a": Atom("x")}, Map{{[]byte("a"), Atom("x")}, {[]byte("b"), 2}}},
	{"map of structs", map[int8]point{2: {X: 1}, -1: {Y: 2}}, Map{{-1, Tuple{0, 2}}, {2, Tuple{1, 0}}}},
	{"map of maps", map[string]map[string]int{"b": {"y": 2, "x": 1}, "a": {}}, Map{{[]byte("a"), Map{}}, {[]byte("b"), Map{{[]byte("x"), 1}, {[]byte("y"), 2}}}}},
	{"map of unsigned", map[uint16]*int{9: ptr(1), 1: nil}, Map{{1, Atom("undefined")}, {9, 1}}},
	{"array of arrays", [2][3]uint16{{1, 2, 3}, {400, 500, 600}}, []any{[]any{1, 2, 3}, []any{400, 500, 600}}},
	{"elements of no size", []struct{}{{}, {}}, []any{Map{}, Map{}}},
	{"any in a struct", struct{ V any }{Atom("x")}, Map{{Atom("V"), Atom("x")}}},
	{"method of a pointer", kelvin{300}, Tuple{Atom("kelvin"), 300}},
	{"methods of pointers in a map", map[string]kelvin{"x": {1}}, Map{{[]byte("x"), Tuple{Atom("kelvin"), 1}}}},
	{"improper", ImproperList{[]any{int64(1)}, Atom("x")}, ImproperList{[]any{1}, Atom("x")}},
}

// asDecoded returns a term with its integers as an any has them.
func asDecoded(term any) any {
	list := func(elements []any) []any {
		made := make([]any, len(elements))
		for i, e := range elements {
			made[i] = asDecoded(e)
		}
		return made
	}
	switch v := term.(type) {
	case int:
		return int64(v)
	case Tuple:
		return Tuple(list(v))
	case []any:
		return list(v)
	case ImproperList:
		return ImproperList{list(v.Elements), asDecoded(v.Tail)}
	case Map:
		m := make(Map, len(v))
		for i, pair := range v {
			m[i] = Pair{asDecoded(pair.Key), asDecoded(pair.Value)}
		}
		return m
	}
	return term
}

// TestValues has Go values become terms, and these the same values again.
func TestValues(t *testing.T) {
	for _, tt := range valueTests {
		t.Run(tt.name, func(t *testing.T) {
			data, err := Marshal(tt.value)
			if err != nil {
				t.Fatal(err)
			}
			var term any
			if err := Unmarshal(data, &term); err != nil || !reflect.DeepEqual(term, asDecoded(tt.term)) {
				t.Errorf("term %#v, %v; want %#v", term, err, tt.term)
			}
			again := reflect.New(reflect.TypeOf(tt.value))
			if err := Unmarshal(data, again.Interface()); err != nil {
				t.Fatal(err)
			}
			if got := again.Elem().Interface(); !reflect.DeepEqual(got, tt.value) && tt.name != "nil slice" && tt.name != "recursive" {
				t.Errorf("got %#v, want %#v", got, tt.value)
			}
		})
	}
}

// intoTests are terms that fit into values of another shape, and that don't.
var intoTests = []struct {
	name string
	term any
	into any // a pointer
	want any // what it points to then
	err  string
}{
	{"integer into a float", 3, new(float64), 3.0, ""},
	{"atom into a string", Atom("abc"), new(string), "abc", ""},
	{"list of characters into a string", []any{104, 248, 0x4e2d}, new(string), "hø中", ""},
	{"string into integers", Charlist("ab"), new([]int), []int{97, 98}, ""},
	{"binary into an array", []byte{1, 2}, new([2]byte), [2]byte{1, 2}, ""},
	{"properties into a struct", []any{Tuple{Atom("a"), 7}, Atom("c"), Tuple{Atom("other"), 1}, Tuple{[]byte("b"), []byte("x")}},
		new(embedded), embedded{inner: inner{7, "x"}, C: true}, ""},
	{"map with keys that have no field", Map{{Atom("z"), 1}, {1, 2}, {Atom("a"), 3}}, new(inner), inner{A: 3}, ""},
	{"properties into a map", []any{Tuple{Atom("a"), 1}, Tuple{Atom("b"), 2}}, new(map[string]int), map[string]int{"a": 1, "b": 2}, ""},
	{"undefined into a pointer", Atom("undefined"), ptr(ptr(1)), (*int)(nil), ""},
	{"integer out of range", 300, new(uint8), nil, "integer 300 into Go uint8"},
	{"negative into unsigned", -1, new(uint), nil, "integer -1 into Go uint"},
	{"big into int64", new(big.Int).Lsh(big.NewInt(1), 100), new(int64), nil, "into Go int64"},
	{"float into int", 1.5, new(int), nil, "into Go int"},
	{"atom into bool", Atom("maybe"), new(bool), nil, `atom "maybe" into Go bool`},
	{"binary into int", []byte("x"), new(int), nil, "into Go int"},
	{"tuple of another size", Tuple{1, 2, 3}, new(point), nil, "tuple of 3 into Go etf.point"},
	{"another record", Tuple{Atom("other"), 1, 2}, new(record), nil, "etf.record"},
	{"list of another size", []any{1, 2, 300}, new([2]int), nil, "[2]int"},
	{"improper list", ImproperList{[]any{1}, 2}, new([]int), nil, "[]int"},
	{"deep within", Map{{Atom("r"), []any{Map{{Atom("l"), Map{{Atom("v"), Atom("x")}}}}}}}, new(tree), nil, ".r[0].l.v: atom \"x\" into Go int"},
	{"methods", Tuple{Atom("kelvin"), 1.0}, new(celsius), nil, "celsius"},
	{"method that refuses", Tuple{Atom("celsius"), -300}, new(celsius), nil, "celsius: too cold"},
	{"elements that come in pieces", Raw("\x6c\x00\x00\x00\x01\x61\x01\x6b\x00\x02\x02\x03"), new([]int), []int{1, 2, 3}, ""},
	{"binary into a slice it has", []byte("x"), ptr([]int{1}), nil, "binary of 1 bytes into Go []int"},
	{"no characters", []any{-1}, new(string), nil, "into Go string"},
}

func TestUnmarshalInto(t *testing.T) {
	for _, tt := range intoTests {
		t.Run(tt.name, func(t *testing.T) {
			data, err := Marshal(tt.term)
			if err != nil {
				t.Fatal(err)
			}
			err = Unmarshal(data, tt.into)
			if !names(err, tt.err) {
				t.Fatalf("error %v, want one naming %q", err, tt.err)
			}
			var wrong *TypeError
			if tt.err != "" && !errors.As(err, &wrong) {
				t.Errorf("error %v is no *TypeError", err)
			}
			if got := reflect.ValueOf(tt.into).Elem().Interface(); tt.err == "" && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %#v, want %#v", got, tt.want)
			}
		})
	}
	for _, v := range []any{nil, 1, (*int)(nil)} {
		if err := Unmarshal([]byte{131, 97, 1}, v); err == nil {
			t.Errorf("decoded into %#v", v)
		}
	}
}

// TestUnmarshalCopies changes what was decoded from, which must not be seen in the value.
func TestUnmarshalCopies(t *testing.T) {
	type all struct {
		Text  string         `erl:"text"`
		Bytes []byte         `erl:"bytes"`
		Chars Charlist       `erl:"chars"`
		Name  string         `erl:"name"`
		Long  Atom           `erl:"long"`
		Pid   Pid            `erl:"pid"`
		Raw   Raw            `erl:"raw"`
		Map   map[string]any `erl:"map"`
		Any   any            `erl:"any"`
	}
	long := Atom(strings.Repeat("long", 40))
	value := all{"text", []byte("bytes"), "chars", "name", long, Pid{long, 1, 2, 3}, encodeRaw(t, "raw"),
		map[string]any{"key": []byte("value")}, []any{Charlist("høst"), Tuple{long}, BitString{[]byte{0xa0}, 3}}}
	data, err := Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var got all
	if err := Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		data[i] = '#'
	}
	if !reflect.DeepEqual(got, value) {
		t.Errorf("got %+v, want %+v", got, value)
	}
}

func encodeRaw(t *testing.T, v any) Raw {
	b, err := Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMarshalBad(t *testing.T) {
	type twice struct {
		A int `erl:"a"`
		B int `erl:"a"`
	}
	type odd struct {
		A int `erl:"a,odd"`
	}
	loop := []any{nil}
	loop[0] = loop
	for _, tt := range []struct {
		name  string
		value any
		err   string
	}{
		{"channel", make(chan int), "chan int"},
		{"function in a struct", struct{ F func() }{}, ".F: Go func()"},
		{"NaN", []float64{1, math.NaN()}, "[1]: Go float64"},
		{"infinity", math.Inf(-1), "not finite"},
		{"atom of 256", Atom(strings.Repeat("ø", 256)), "more than 255 characters"},
		{"atom not UTF-8", Atom("\xff"), "UTF-8"},
		{"two fields of one name", twice{}, `two fields named "a"`},
		{"unknown option", odd{}, `option "odd"`},
		{"itself", loop, "nested"},
		{"methods", map[string]celsius{"x": -300}, "too cold"},
		{"nil raw term", Raw(nil), "etf.Raw"},
		{"reference of no words", Ref{Node: "a@b"}, "1 to 5 words"},
	} {
		if got, err := Marshal(tt.value); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %x, %v; want an error naming %q", tt.name, got, err, tt.err)
		}
	}
}

func TestLimits(t *testing.T) {
	deep := append([]byte{131}, strings.Repeat("\x68\x01", 50)...)
	deep = append(deep, 106)
	atoms, err := Marshal([]Atom{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		limits Limits
		data   []byte
		ok     bool
	}{
		{"depth", Limits{Depth: 50}, deep, true},
		{"depth", Limits{Depth: 49}, deep, false},
		{"atoms", Limits{Atoms: 3}, atoms, true},
		{"atoms", Limits{Atoms: 2}, atoms, false},
		{"size", Limits{Size: len(atoms)}, atoms, true},
		{"size", Limits{Size: 5}, atoms, false},
	} {
		var v any
		var raw Raw
		for _, into := range []any{&v, &raw} {
			if into == &raw && tt.name == "depth" {
				continue // nothing is entered
			}
			if err := tt.limits.Unmarshal(tt.data, into); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrLimit) {
				t.Errorf("%s %+v into %T: %v", tt.name, tt.limits, into, err)
			}
		}
	}
}

// TestUnmarshalClaims has terms claim far more elements of a kind than they have.
func TestUnmarshalClaims(t *testing.T) {
	type large [1 << 10]int64
	const size = 1 << 20
	tail := append([]byte{119, 1, 'a'}, make([]byte, size)...)
	list := append(binary.BigEndian.AppendUint32([]byte{131, 108}, size), tail...)
	mapping := append(binary.BigEndian.AppendUint32([]byte{131, 116}, size/2), tail...)
	for _, tt := range []struct {
		data []byte
		into any
	}{{list, new([]large)}, {mapping, new(map[int]large)}} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := Unmarshal(tt.data, tt.into)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > size {
			t.Errorf("%T: took %d bytes, error %v", tt.into, took, err)
		}
	}
	many := make([]int, 100_000) // more than there is room for at first
	for i := range many {
		many[i] = i
	}
	var got []int
	if err := Unmarshal(encode(t, many), &got); err != nil || !slices.Equal(got, many) {
		t.Errorf("%d integers came back as %d, %v", len(many), len(got), err)
	}
}

// TestUnmarshalCost has terms that take much memory for each of their bytes.
func TestUnmarshalCost(t *testing.T) {
	const count = 1 << 16
	for _, element := range []string{
		"\x6a", "\x68\x00", "\x68\x01\x6a", "\x68\x01\x68\x01\x6a", "\x6c\x00\x00\x00\x01\x6a\x6a",
		"\x77\x00", "\x77\x01a", "\x64\x00\x01a", "\x6b\x00\x01a", "\x61\xff", "\x62\x7f\xff\xff\xff",
		"\x74\x00\x00\x00\x00", "\x74\x00\x00\x00\x01\x6a\x6a", "\x6d\x00\x00\x00\x00", "\x4d\x00\x00\x00\x01\x01\xff",
		"\x46\x3f\xf8\x00\x00\x00\x00\x00\x00", "\x6e\x08\x00\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		data := binary.BigEndian.AppendUint32([]byte{131, 108}, count)
		data = append(data, strings.Repeat(element, count)+"\x6a"...)
		var before, after runtime.MemStats
		var v any
		runtime.ReadMemStats(&before)
		err := Unmarshal(data, &v)
		runtime.ReadMemStats(&after)
		if took := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(data)); err != nil || took > 24.1 {
			t.Errorf("%x: %.1f bytes for each byte, error %v; want at most 24", element, took, err)
		}
	}
}

// TestConcurrent has goroutines meet new types at the same time.
func TestConcurrent(t *testing.T) {
	for n := range 4000 {
		typ := reflect.StructOf([]reflect.StructField{{Name: fmt.Sprint("F", n), Type: reflect.TypeFor[int]()}})
		var g sync.WaitGroup
		for range 4 {
			g.Go(func() {
				v := reflect.New(typ)
				if b, err := Marshal(v.Elem().Interface()); err != nil || Unmarshal(b, v.Interface()) != nil {
					t.Errorf("%v: %x, %v", typ, b, err)
				}
			})
		}
		g.Wait()
	}
}

func TestTermsAsText(t *testing.T) {
	for got, want := range map[string]string{
		Pid{"a@b", 85, 1, 7}.String():                             "<a@b.85.1>",
		Port{"a@b", 5, 7}.String():                                "#Port<a@b.5>",
		Ref{Node: "a@b", Len: 3, ID: [5]uint32{1, 2, 3}}.String(): "#Ref<a@b.3.2.1>",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	m := Map{{Tuple{1}, "x"}, {Atom("k"), 2}}
	if v, ok := m.Get(Tuple{1}); !ok || v != "x" {
		t.Errorf("got %v, %v", v, ok)
	}
	if v, ok := m.Get(Atom("none")); ok {
		t.Errorf("got %v", v)
	}
}

func ExampleUnmarshal() {
	var memory struct {
		Total, Processes int64
		ETS              int64 `erl:"ets"`
	}
	data, _ := Marshal([]any{Tuple{Atom("Total"), 1000}, Tuple{Atom("Processes"), 600}, Tuple{Atom("ets"), 50}})
	err := Unmarshal(data, &memory)
	fmt.Println(memory.Total, memory.Processes, memory.ETS, err)
	// Output: 1000 600 50 <nil>
}

// FuzzUnmarshalInto decodes into values of many shapes.
func FuzzUnmarshalInto(f *testing.F) {
	for _, tt := range valueTests {
		if b, err := Marshal(tt.value); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, tt := range valueTests {
			v := reflect.New(reflect.TypeOf(tt.value))
			if Unmarshal(data, v.Interface()) != nil {
				continue
			}
			if _, err := Marshal(v.Elem().Interface()); err != nil {
				t.Errorf("%s: %x decodes into %#v, which can't be encoded: %v", tt.name, data, v.Elem(), err)
			}
		}
	})
}

// benchNode is what a program may want to know of a node.
type benchNode struct {
	Name    string         `erl:"name" json:"name"`
	Port    int            `erl:"port" json:"port"`
	Hidden  bool           `erl:"hidden" json:"hidden"`
	Load    float64        `erl:"load" json:"load"`
	Apps    []benchApp     `erl:"apps" json:"apps"`
	Memory  map[string]int `erl:"memory" json:"memory"`
	Message string         `erl:"message" json:"message"`
}

type benchApp struct {
	Name    string `erl:"name" json:"name"`
	Version string `erl:"version" json:"version"`
	Started int64  `erl:"started" json:"started"`
}

func benchData() []benchNode {
	nodes := make([]benchNode, 50)
	for i := range nodes {
		nodes[i] = benchNode{
			Name: fmt.Sprintf("node%d@host.local", i), Port: 40000 + i, Load: float64(i) / 7,
			Memory:  map[string]int{"total": 1 << 30, "ets": 1 << 20, "code": 7 << 20},
			Message: strings.Repeat("all is well ", 8),
		}
		for j := range 10 {
			nodes[i].Apps = append(nodes[i].Apps, benchApp{fmt.Sprintf("app%d", j), "1.2.3", int64(i * j * 1e6)})
		}
	}
	return nodes
}

// BenchmarkTerms compares with encoding/json and encoding/gob, on the same data. To append is to
// encode without memory for the result.
func BenchmarkTerms(b *testing.B) {
	nodes := benchData()
	term, err := Marshal(nodes)
	if err != nil {
		b.Fatal(err)
	}
	text, err := json.Marshal(nodes)
	if err != nil {
		b.Fatal(err)
	}
	var gobbed bytes.Buffer
	if err := gob.NewEncoder(&gobbed).Encode(nodes); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 2*len(term))
	for _, bb := range []struct {
		name string
		run  func() error
	}{
		{"encode/term", func() error { _, err := Marshal(nodes); return err }},
		{"encode/json", func() error { _, err := json.Marshal(nodes); return err }},
		{"encode/gob", func() error { return gob.NewEncoder(new(bytes.Buffer)).Encode(nodes) }},
		{"append/term", func() error { _, err := Append(buf[:0], nodes); return err }},
		{"append/json", func() error { return json.NewEncoder(io.Discard).Encode(nodes) }},
		{"decode/term", func() error { var v []benchNode; return Unmarshal(term, &v) }},
		{"decode/json", func() error { var v []benchNode; return json.Unmarshal(text, &v) }},
		{"decode/gob", func() error {
			var v []benchNode
			return gob.NewDecoder(bytes.NewReader(gobbed.Bytes())).Decode(&v)
		}},
		{"decode any/term", func() error { var v any; return Unmarshal(term, &v) }},
		{"decode any/json", func() error { var v any; return json.Unmarshal(text, &v) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bb.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
