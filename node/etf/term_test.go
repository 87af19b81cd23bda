package etf

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
)

func bigInt(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 0)
	return n
}

// termTests are terms as OTP 25 encodes them, and what they are in an any. again is our encoding
// if that differs. OTP has {minor_version, 2}, which is the default since OTP 26.
var termTests = []struct {
	name, hex string
	want      any
	again     string
}{
	{"0", "83 6100", int64(0), ""},
	{"255", "83 61ff", int64(255), ""},
	{"256", "83 6200000100", int64(256), ""},
	{"-1", "83 62ffffffff", int64(-1), ""},
	{"2^31-1", "83 627fffffff", int64(math.MaxInt32), ""},
	{"-2^31", "83 6280000000", int64(math.MinInt32), ""},
	{"2^31", "83 6e0400 00000080", int64(1 << 31), ""},
	{"2^63-1", "83 6e0800 ffffffffffffff7f", int64(math.MaxInt64), ""},
	{"-2^63", "83 6e0801 0000000000000080", int64(math.MinInt64), ""},
	{"-2^63-1", "83 6e0801 0100000000000080", bigInt("-0x8000000000000001"), ""},
	{"2^64-1", "83 6e0800 ffffffffffffffff", bigInt("0xffffffffffffffff"), ""},
	{"-2^64", "83 6e0901 000000000000000001", bigInt("-0x10000000000000000"), ""},
	{"2^2100", "83 6f0000010700" + strings.Repeat("00", 262) + "10", new(big.Int).Lsh(big.NewInt(1), 2100), ""},
	{"zeros before a bignum", "83 6f0000000a00 05000000000000000000", int64(5), "83 6105"},
	{"float", "83 463ff8000000000000", 1.5, ""},
	{"-0.0", "83 468000000000000000", math.Copysign(0, -1), ""},
	{"old float", "83 63312e3530303030303030303030303030303030303030652b30300000000000", 1.5, "83 463ff8000000000000"},
	{"atom", "83 77026f6b", Atom("ok"), ""},
	{"atom in UTF-8", "83 7706c3a574c3b66d", Atom("åtöm"), ""},
	{"long atom", "83 7601fe" + strings.Repeat("c3a5", 255), Atom(strings.Repeat("å", 255)), ""},
	{"empty atom", "83 7700", Atom(""), ""},
	{"OTP 25 atom", "83 6400026f6b", Atom("ok"), "83 77026f6b"},
	{"OTP 25 atom not ASCII", "83 640004e574f66d", Atom("åtöm"), "83 7706c3a574c3b66d"},
	{"small old atom", "83 7304e574f66d", Atom("åtöm"), "83 7706c3a574c3b66d"},
	{"tuple", "83 6802 77026f6b 6101", Tuple{Atom("ok"), int64(1)}, ""},
	{"tuple of none", "83 6800", Tuple{}, ""},
	{"large tuple", "83 6900000100" + strings.Repeat("6a", 256), nils(256), ""},
	{"large tuple of one", "83 6900000001 6a", Tuple{[]any{}}, "83 6801 6a"},
	{"empty list", "83 6a", []any{}, ""},
	{"string", "83 6b0003 616263", Charlist("abc"), ""},
	{"string of latin-1", "83 6b0001 e9", Charlist("é"), ""},
	{"list", "83 6c00000002 620000012c 770161 6a", []any{int64(300), Atom("a")}, ""},
	{"list in pieces", "83 6c00000001 6101 6c00000001 6102 6b0002 0304", ints(1, 2, 3, 4), "83 6c00000004 6101 6102 6103 6104 6a"},
	{"list of none with a tail", "83 6c00000000 77026f6b", Atom("ok"), "83 77026f6b"},
	{"improper list", "83 6c00000002 770161 770162 770163", ImproperList{[]any{Atom("a"), Atom("b")}, Atom("c")}, ""},
	{"binary", "83 6d00000002 0102", []byte{1, 2}, ""},
	{"empty binary", "83 6d00000000", []byte{}, ""},
	{"bitstring", "83 4d0000000203 01a0", BitString{[]byte{1, 0xa0}, 3}, ""},
	{"bitstring with bits to spare", "83 4d0000000103 ff", BitString{[]byte{0xe0}, 3}, "83 4d0000000103 e0"},
	{"bitstring of whole bytes", "83 4d0000000108 ff", []byte{0xff}, "83 6d00000001 ff"},
	{"bitstring of nothing", "83 4d0000000000", []byte{}, "83 6d00000000"},
	{"map", "83 7400000002 770161 6101 770162 6d0000000178",
		Map{{Atom("a"), int64(1)}, {Atom("b"), []byte("x")}}, ""},
	{"map with odd keys", "83 7400000002 7400000000 6a 6b000101 6800",
		Map{{Map{}, []any{}}, {Charlist("\x01"), Tuple{}}}, ""},
	{"pid", "83 587703614062 00000055 00000001 00000007", Pid{"a@b", 85, 1, 7}, ""},
	{"old pid", "83 67640003614062 00000055 00000000 02", Pid{"a@b", 85, 0, 2}, "83 587703614062 00000055 00000000 00000002"},
	{"port", "83 597703614062 00000005 00000002", Port{"a@b", 5, 2}, ""},
	{"old port", "83 66640003614062 00000005 02", Port{"a@b", 5, 2}, "83 597703614062 00000005 00000002"},
	{"port of 64 bits", "83 787703614062 8000000000000005 00000009", Port{"a@b", 1<<63 + 5, 9}, ""},
	{"reference", "83 5a00057703614062 00000009 00000001 00000002 00000003 00000004 00000005",
		Ref{"a@b", 9, 5, [5]uint32{1, 2, 3, 4, 5}}, ""},
	{"new reference", "83 720003640003614062 02 00000001 00000002 00000003", Ref{"a@b", 2, 3, [5]uint32{1, 2, 3}},
		"83 5a00037703614062 00000002 00000001 00000002 00000003"},
	{"old reference", "83 65640003614062 00000007 02", Ref{"a@b", 2, 1, [5]uint32{7}},
		"83 5a00017703614062 00000002 00000007"},
	{"external fun", "83" + exportHex, Fun{unhexString(exportHex)}, ""},
	{"fun", "83" + funHex, Fun{unhexString(funHex)}, ""},
	{"fun with a wrong size, of OTP 23", "83" + strings.Replace(funHex, "00000088", "00000087", 1),
		Fun{unhexString(strings.Replace(funHex, "00000088", "00000087", 1))}, ""},
	{"old float with what was in memory", "83 63312e35653030 00 ff" + strings.Repeat("39", 23), 1.5, "83 463ff8000000000000"},
	{"old fun", "83" + oldFunHex, Fun{unhexString(oldFunHex)}, ""},
	{"compressed", "83 5000000196 789ccb616060d028e7484c4a4e494d4bcf18650d0656160046a59277",
		atoms("abcdefgh", 40), "83 6c00000028" + strings.Repeat("77086162636465666768", 40) + "6a"},
}

const (
	exportHex = "71 77056c69737473 77036d6170 6102"
	funHex    = "70 00000088 00 65361aa461590d1bdf1eb62d1a6eb080 0000002b 00000001 770865726c5f6576616c 612b 6200329b0d" +
		"58770d6e6f6e6f6465406e6f686f737400000009 00000000 00000000 680661036a77046e6f6e6577046e6f6e6574000000006c" +
		"0000000168057706636c6175736561036a6a6c000000016803770461746f6d610377026f6b6a6a"
	oldFunHex = "75 00000001 67640003614062 00000055 00000000 02 770161 6101 6102 6b000178"
)

func nils(n int) Tuple {
	t := make(Tuple, n)
	for i := range t {
		t[i] = []any{}
	}
	return t
}

func ints(n ...int64) (l []any) {
	for _, n := range n {
		l = append(l, n)
	}
	return l
}

func atoms(a Atom, n int) (l []any) {
	for range n {
		l = append(l, a)
	}
	return l
}

func unhexString(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestUnmarshalAny(t *testing.T) {
	for _, tt := range termTests {
		t.Run(tt.name, func(t *testing.T) {
			var got any
			if err := Unmarshal(unhex(t, tt.hex), &got); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %#v, %v; want %#v", got, err, tt.want)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	for _, tt := range termTests {
		t.Run(tt.name, func(t *testing.T) {
			want := unhex(t, tt.hex)
			if tt.again != "" {
				want = unhex(t, tt.again)
			}
			if got, err := Marshal(tt.want); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %x, %v; want %x", got, err, want)
			}
		})
	}
}

// TestRawTerm holds each term as it is and puts it back, without looking into it.
func TestRawTerm(t *testing.T) {
	for _, tt := range termTests {
		if tt.name == "compressed" {
			continue // it is held decompressed
		}
		t.Run(tt.name, func(t *testing.T) {
			data := unhex(t, tt.hex)
			var raw Raw
			if err := Unmarshal(data, &raw); err != nil || !bytes.Equal(raw, data[1:]) {
				t.Errorf("decoded %x, %v; want %x", raw, err, data[1:])
			}
			if got, err := Marshal(raw); err != nil || !bytes.Equal(got, data) {
				t.Errorf("encoded %x, %v; want %x", got, err, data)
			}
			var got any
			if err := raw.Unmarshal(&got); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %#v, %v; want %#v", got, err, tt.want)
			}
		})
	}
}

// TestUnmarshalCut decodes parts of terms. None is a term.
func TestUnmarshalCut(t *testing.T) {
	for _, tt := range termTests {
		data := unhex(t, tt.hex)
		for n := range len(data) {
			var syntax *SyntaxError
			var got any
			if err := Unmarshal(data[:n], &got); !errors.As(err, &syntax) {
				t.Errorf("%s: %d of %d bytes: got %#v, %v; want a syntax error", tt.name, n, len(data), got, err)
			}
			var raw Raw
			if err := Unmarshal(data[:n], &raw); !errors.As(err, &syntax) {
				t.Errorf("%s: %d of %d bytes: got %x, %v; want a syntax error", tt.name, n, len(data), raw, err)
			}
		}
	}
}

func TestCutTerm(t *testing.T) {
	for _, tt := range termTests {
		var got any
		rest, err := Cut(append(unhex(t, tt.hex), 131, 106), &got)
		if err != nil || !reflect.DeepEqual(got, tt.want) || !bytes.Equal(rest, []byte{131, 106}) {
			t.Errorf("%s: got %#v, rest %x, %v; want %#v, rest 836a", tt.name, got, rest, err, tt.want)
		}
	}
}

var badTerms = []struct{ name, hex, err string }{
	{"nothing", "", "byte 0: no term"},
	{"version only", "83", "byte 1: needs 1 bytes or more, 0 left"},
	{"other version", "82 6a", "byte 0: no term"},
	{"two terms", "83 6a 6a", "byte 2: 1 bytes after the term"},
	{"unknown tag", "83 ff", "unknown tag 255"},
	{"atom cache", "83 5200", "unknown tag 82"},
	{"local", "83 79 0000000000000000 6a", "local encoding"},
	{"list of 2^32-1", "83 6cffffffff 6a", "needs 4294967296 bytes or more, 1 left"},
	{"tuple of 2^32-1", "83 69ffffffff 6a", "needs 4294967295 bytes or more"},
	{"map of 2^32-1", "83 74ffffffff 6a", "needs 8589934590 bytes or more"},
	{"binary of 2^32-1", "83 6dffffffff 6a", "needs 4294967295 bytes or more"},
	{"bignum of 2^32-1", "83 6fffffffff 006a", "needs 4294967295 bytes or more"},
	{"more promised within than is left", "83 6803 6803 6a6a6a 6a", "needs 5 bytes or more, 4 left"},
	{"atom not UTF-8", "83 7701ff", `atom "\xff" is not UTF-8`},
	{"atom of 256", "83 760100" + strings.Repeat("61", 256), "atom of 256 characters"},
	{"atom of 256 in latin-1", "83 640100" + strings.Repeat("e5", 256), "atom of 256 characters"},
	{"infinity", "83 467ff0000000000000", "float +Inf"},
	{"NaN", "83 467ff8000000000001", "float NaN"},
	{"old float without digits", "83 63" + strings.Repeat("78", 31), `float "x`},
	{"old float NaN", "83 636e616e" + strings.Repeat("00", 28), "float NaN"},
	{"bits of nothing", "83 4d0000000003", "0 bytes with 3 bits"},
	{"bits of 9", "83 4d0000000109 ff", "1 bytes with 9 bits"},
	{"no bits of a byte", "83 4d0000000100 ff", "1 bytes with 0 bits"},
	{"reference of 6 words", "83 5a0006 770161 00000000" + strings.Repeat("00000000", 6), "reference of 6 words"},
	{"reference of 0 words", "83 5a0000 770161 00000000", "reference of 0 words"},
	{"pid whose node is no atom", "83 58 6101" + strings.Repeat("00", 12), "node of an identifier is integer 1"},
	{"fun whose module is no atom", "83 71 6101 770161 6101", "part of a fun is integer 1"},
	{"compressed in a list", "83 6c00000001 50 00000001 6a", "compressed term within another"},
	{"compressed without a size", "83 50 0000", "without a size"},
	{"compressed with no stream", "83 50 00000001 00000000", "zlib"},
	{"compressed that claims less", "83 5000000195 789ccb616060d028e7484c4a4e494d4bcf18650d0656160046a59277", "not of 405 bytes"},
	{"compressed that claims more", "83 5000000197 789ccb616060d028e7484c4a4e494d4bcf18650d0656160046a59277", "unexpected EOF"},
	{"compressed that claims too much", "83 5000ffffff 789ccb616060d028e7484c4a4e494d4bcf18650d0656160046a59277", "claims to be of 16777215 bytes"},
}

func TestUnmarshalBad(t *testing.T) {
	for _, tt := range badTerms {
		t.Run(tt.name, func(t *testing.T) {
			var syntax *SyntaxError
			var got any
			if err := Unmarshal(unhex(t, tt.hex), &got); !errors.As(err, &syntax) || !names(err, tt.err) {
				t.Errorf("got %#v, %v; want a syntax error naming %q", got, err, tt.err)
			}
			var raw Raw
			if err := Unmarshal(unhex(t, tt.hex), &raw); !errors.As(err, &syntax) || !names(err, tt.err) {
				t.Errorf("got %x, %v; want a syntax error naming %q", raw, err, tt.err)
			}
		})
	}
}

// FuzzUnmarshal encodes what it can decode. The encoding is always the same.
func FuzzUnmarshal(f *testing.F) {
	for _, tt := range termTests {
		f.Add(unhex(f, tt.hex))
	}
	for _, tt := range badTerms {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second any
		if err := Unmarshal(data, &first); err != nil {
			return
		}
		once, err := Marshal(first)
		if err != nil {
			t.Fatalf("%x: encode %#v: %v", data, first, err)
		}
		if err := Unmarshal(once, &second); err != nil {
			t.Fatalf("%x: decode %x: %v", data, once, err)
		}
		if twice, err := Marshal(second); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%x: encoded as %x, then as %x, %v", data, once, twice, err)
		}
	})
}
