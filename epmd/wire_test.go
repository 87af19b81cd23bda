package epmd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/registry"
)

// unhex returns the bytes written in hex, without the spaces.
func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// names reports whether err says s. An empty s stands for no error.
func names(err error, s string) bool {
	if s == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), s)
}

// repeat returns the hex of n times the byte written in hex.
func repeat(hex string, n int) string { return strings.Repeat(hex, n) }

// aliveTests are requests as they were captured from OTP 25, and the limits that its epmd has.
// What is refused is parsed all the same.
var aliveTests = []struct {
	name, hex string
	want      AliveReq
	err       string // what the message must name; empty: must parse
	refused   bool
}{
	{"erl -sname a", "78 86b3 4d 00 0006 0005 0001 61 0000",
		AliveReq{Port: 34483, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "", false},
	{"erl -sname hid -hidden", "78 ab4f 4d 00 0006 0005 0003 686964 0000",
		AliveReq{Port: 43855, Type: registry.Normal, High: 6, Low: 5, Name: "hid"}, "", false},
	{"old hidden node with extra", "78 a111 48 00 0005 0005 0003 6f6c64 0002 7879",
		AliveReq{Port: 41233, Type: registry.Hidden, High: 5, Low: 5, Name: "old", Extra: "xy"}, "", false},
	{"UTF-8", "78 a111 4d 00 0006 0005 0006 426ac3b6726e 0000",
		AliveReq{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "Björn"}, "", false},
	{"every field at its largest", "78 ffff ff ff ffff ffff 0001 61 0001 00",
		AliveReq{Port: 65535, Type: 255, Protocol: 255, High: 65535, Low: 65535, Name: "a", Extra: "\x00"}, "", false},
	{"trailing bytes", "78 a111 4d 00 0006 0005 0001 61 0000 ffff",
		AliveReq{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "", false},
	{"no name, but 14 bytes", "78 a111 4d 00 0006 0005 0000 0000 7a",
		AliveReq{Port: 41233, Type: registry.Normal, High: 6, Low: 5}, "", false},
	{"255 characters", "78 0001 4d 00 0006 0005 00ff" + repeat("78", 255) + "0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: strings.Repeat("x", 255)}, "", false},
	{"255 characters of 4 bytes", "78 0001 4d 00 0006 0005 03fc" + repeat("f09f9880", 255) + "0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: strings.Repeat("😀", 255)}, "", false},
	{"extra of 1020 bytes", "78 0001 4d 00 0006 0005 0001 61 03fc" + repeat("00", 1020),
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: "a", Extra: strings.Repeat("\x00", 1020)}, "", false},

	{"256 characters", "78 0001 4d 00 0006 0005 0100" + repeat("78", 256) + "0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: strings.Repeat("x", 256)}, "more than 255 characters", true},
	{"256 characters of 4 bytes", "78 0001 4d 00 0006 0005 0400" + repeat("f09f9880", 256) + "0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: strings.Repeat("😀", 256)}, "more than 255 characters", true},
	{"extra of 1021 bytes", "78 0001 4d 00 0006 0005 0001 61 03fd" + repeat("00", 1021),
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: "a", Extra: strings.Repeat("\x00", 1021)}, "1021 bytes", true},
	{"not UTF-8", "78 0001 4d 00 0006 0005 0004 626164ff 0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: "bad\xff"}, `"bad\xff"`, true},
	{"surrogate", "78 0001 4d 00 0006 0005 0003 eda080 0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: "\xed\xa0\x80"}, `"\xed\xa0\x80"`, true},
	{"overlong NUL", "78 0001 4d 00 0006 0005 0002 c080 0000",
		AliveReq{Port: 1, Type: registry.Normal, High: 6, Low: 5, Name: "\xc0\x80"}, `"\xc0\x80"`, true},

	{"empty", "", AliveReq{}, "0 bytes", false},
	{"13 bytes", "78 a111 4d 00 0006 0005 0000 0000", AliveReq{}, "13 bytes", false},
	{"other tag", "7a a111 4d 00 0006 0005 0001 61 0000", AliveReq{}, "tag 122", false},
	{"nlen beyond the end", "78 a111 4d 00 0006 0005 00ff 61 0000", AliveReq{}, "nlen 255", false},
	{"nlen that leaves no elen", "78 a111 4d 00 0006 0005 0002 61 0000", AliveReq{}, "nlen 2", false},
	{"largest nlen", "78 a111 4d 00 0006 0005 ffff 61 0000", AliveReq{}, "nlen 65535", false},
	{"elen beyond the end", "78 a111 4d 00 0006 0005 0001 61 0001", AliveReq{}, "elen 1", false},
	{"largest elen", "78 a111 4d 00 0006 0005 0001 61 ffff", AliveReq{}, "elen 65535", false},
	{"NUL in the name", "78 a111 4d 00 0006 0005 0003 610062 0000", AliveReq{}, `"a\x00b"`, false},
	{"NUL at the end of the name", "78 a111 4d 00 0006 0005 0002 6100 0000", AliveReq{}, `"a\x00"`, false},
}

func TestParseAliveReq(t *testing.T) {
	for _, tt := range aliveTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseAliveReq(unhex(t, tt.hex))
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
			if errors.Is(err, ErrRefused) != tt.refused {
				t.Errorf("error %v; want ErrRefused: %t", err, tt.refused)
			}
		})
	}
}

func FuzzParseAliveReq(f *testing.F) {
	for _, tt := range aliveTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := ParseAliveReq(b)
		if err != nil && !errors.Is(err, ErrRefused) {
			if req != (AliveReq{}) {
				t.Errorf("%x: got %+v with %v", b, req, err)
			}
			return
		}
		out := req.Append(nil)
		if !bytes.HasPrefix(b, out) {
			t.Errorf("%x: appended as %x", b, out)
		}
		if again, err2 := ParseAliveReq(append(out, 0)); again != req || errors.Is(err2, ErrRefused) != (err != nil) {
			t.Errorf("%x: reparsed as %+v, %v; want %+v, %v", b, again, err2, req, err)
		}
	})
}

var aliveRespTests = []struct {
	name, hex string
	want      AliveResp
	err       string
}{
	{"wide", "76 00 6b03522a", AliveResp{Wide: true, Creation: 0x6b03522a}, ""},
	{"narrow", "79 00 0001", AliveResp{Creation: 1}, ""},
	{"wide refusal", "76 01 00000063", AliveResp{Wide: true, Result: 1, Creation: 99}, ""},
	{"narrow refusal", "79 01 0063", AliveResp{Result: 1, Creation: 99}, ""},
	{"largest", "76 ff ffffffff", AliveResp{Wide: true, Result: 255, Creation: math.MaxUint32}, ""},
	{"empty", "", AliveResp{}, "empty"},
	{"wide, but short", "76 00 0001", AliveResp{}, "4 bytes"},
	{"narrow, but long", "79 00 00000001", AliveResp{}, "6 bytes"},
	{"tag alone", "76", AliveResp{}, "1 bytes"},
	{"other tag", "77 00 0001", AliveResp{}, "tag 119"},
}

func TestParseAliveResp(t *testing.T) {
	for _, tt := range aliveRespTests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			got, err := ParseAliveResp(b)
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
			if out := got.Append(nil); err == nil && !bytes.Equal(out, b) {
				t.Errorf("appended as %x; want %x", out, b)
			}
		})
	}
}

func FuzzParseAliveResp(f *testing.F) {
	for _, tt := range aliveRespTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if resp, err := ParseAliveResp(b); err == nil && !bytes.Equal(resp.Append(nil), b) {
			t.Errorf("%x: appended as %x", b, resp.Append(nil))
		}
	})
}

var portReqTests = []struct {
	name, hex string
	want      string
	err       string
}{
	{"erl", "7a 62", "b", ""},
	{"UTF-8", "7a 426ac3b6726e", "Björn", ""},
	{"one NUL", "7a 61 00", "a", ""},
	{"254 characters", "7a" + repeat("78", 254), strings.Repeat("x", 254), ""},
	{"254 characters and a NUL", "7a" + repeat("78", 254) + "00", strings.Repeat("x", 254), ""},
	{"254 characters of 4 bytes", "7a" + repeat("f09f9880", 254), strings.Repeat("😀", 254), ""},
	{"255 characters", "7a" + repeat("78", 255), "", "more than 254 characters"},
	{"255 characters of 4 bytes", "7a" + repeat("f09f9880", 255), "", "more than 254 characters"},
	{"empty", "", "", "without its tag"},
	{"other tag", "78 61", "", "without its tag"},
	{"no name", "7a", "", "without a name"},
	{"NUL alone", "7a 00", "", "without a name"},
	{"two NULs", "7a 61 00 00", "", `"a\x00"`},
	{"NUL within", "7a 61 00 62", "", `"a\x00b"`},
	{"not UTF-8", "7a 626164ff", "", `"bad\xff"`},
}

func TestParsePortReq(t *testing.T) {
	for _, tt := range portReqTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePortReq(unhex(t, tt.hex))
			if got.Name != tt.want || !names(err, tt.err) {
				t.Errorf("got %q, %v; want %q, error naming %q", got.Name, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParsePortReq(f *testing.F) {
	for _, tt := range portReqTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ParsePortReq(b); err == nil {
			if again, err := ParsePortReq(req.Append(nil)); err != nil || again != req {
				t.Errorf("%x: reparsed as %+v, %v; want %+v", b, again, err, req)
			}
		}
	})
}

var portRespTests = []struct {
	name, hex string
	want      PortResp
	err       string
	loose     bool // is not what Append makes
}{
	{"epmd 25", "77 00 a111 4d 00 0006 0005 0001 61 0000",
		PortResp{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "", false},
	{"epmd 25, with extra", "77 00 a111 48 00 0005 0005 0003 6f6c64 0002 7879",
		PortResp{Port: 41233, Type: registry.Hidden, High: 5, Low: 5, Name: "old", Extra: "xy"}, "", false},
	{"not registered", "77 01", PortResp{Result: 1}, "", false},
	{"not registered, and more", "77 ff 00", PortResp{Result: 255}, "", true},
	{"no extra at all", "77 00 a111 4d 00 0006 0005 0001 61",
		PortResp{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "", true},
	{"trailing bytes", "77 00 a111 4d 00 0006 0005 0001 61 0000 ff",
		PortResp{Port: 41233, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "", true},
	{"no name", "77 00 a111 4d 00 0006 0005 0000",
		PortResp{Port: 41233, Type: registry.Normal, High: 6, Low: 5}, "", true},
	{"empty", "", PortResp{}, "0 bytes", false},
	{"tag alone", "77", PortResp{}, "1 bytes", false},
	{"other tag", "76 00", PortResp{}, "without its tag", false},
	{"ends before nlen", "77 00 a111 4d 00 0006 0005 00", PortResp{}, "11 bytes", false},
	{"nlen beyond the end", "77 00 a111 4d 00 0006 0005 0002 61", PortResp{}, "name: length 2", false},
	{"half an elen", "77 00 a111 4d 00 0006 0005 0001 61 00", PortResp{}, "extra: its length", false},
	{"elen beyond the end", "77 00 a111 4d 00 0006 0005 0001 61 ffff 00", PortResp{}, "extra: length 65535", false},
}

func TestParsePortResp(t *testing.T) {
	for _, tt := range portRespTests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			got, err := ParsePortResp(b)
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
			if out := got.Append(nil); err == nil && !tt.loose && !bytes.Equal(out, b) {
				t.Errorf("appended as %x; want %x", out, b)
			}
		})
	}
}

func FuzzParsePortResp(f *testing.F) {
	for _, tt := range portRespTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if resp, err := ParsePortResp(b); err == nil {
			if again, err := ParsePortResp(resp.Append(nil)); err != nil || again != resp {
				t.Errorf("%x: reparsed as %+v, %v; want %+v", b, again, err, resp)
			}
		}
	})
}

var stopReqTests = []struct {
	name, hex string
	want      string
	err       string
}{
	{"name", "73 61", "a", ""},
	{"name ends at NUL", "73 61 00 62", "a", ""},
	{"NUL alone", "73 00", "", ""},
	{"anything else", "73 ff20", "\xff ", ""},
	{"empty", "", "", "without its tag"},
	{"tag alone", "73", "", "and a name"},
	{"other tag", "7a 61", "", "without its tag"},
}

func TestParseStopReq(t *testing.T) {
	for _, tt := range stopReqTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseStopReq(unhex(t, tt.hex))
			if got.Name != tt.want || !names(err, tt.err) {
				t.Errorf("got %q, %v; want %q, error naming %q", got.Name, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseStopReq(f *testing.F) {
	for _, tt := range stopReqTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if req, err := ParseStopReq(b); err == nil && !bytes.HasPrefix(b, req.Append(nil)) {
			t.Errorf("%x: appended as %x", b, req.Append(nil))
		}
	})
}

var namesTests = []struct {
	name, hex string
	want      Names
	err       string
}{
	{"epmd 25", "00001111" + "6e616d6520622061742070 6f72742034313233330a" + "6e616d6520612061742070 6f727420310a",
		Names{EPMDPort: 4369, Nodes: []NamedPort{{"b", 41233}, {"a", 1}}}, ""},
	{"none", "00001111", Names{EPMDPort: 4369}, ""},
	{"empty name", "0000383f 6e616d65202061742070 6f72742034313233330a", Names{EPMDPort: 14399, Nodes: []NamedPort{{"", 41233}}}, ""},
	{"empty", "", Names{}, "port: closed without an answer"},
	{"half a port", "0000", Names{}, "port: closed without an answer"},
	{"port 0", "00000000", Names{}, "no epmd has port 0"},
	{"HTTP", "48545450 2f312e31 20343030", Names{}, "no epmd has port 1213486160"},
}

func TestReadNames(t *testing.T) {
	for _, tt := range namesTests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			got, err := ReadNames(bytes.NewReader(b))
			if !reflect.DeepEqual(got, tt.want) || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
			if out := got.Append(nil); err == nil && !bytes.Equal(out, b) {
				t.Errorf("appended as %x; want %x", out, b)
			}
		})
	}
}

// TestReadNamesLines has lines that are none. They hide no other.
func TestReadNamesLines(t *testing.T) {
	long := strings.Repeat("x", maxNamesLine)
	for _, tt := range []struct {
		line string
		want []NamedPort
	}{
		{"name a at port 41233", []NamedPort{{"a", 41233}}},
		{"name a b at port 1", []NamedPort{{"a b", 1}}},
		{"name a at port 1 at port 2", []NamedPort{{"a at port 1", 2}}},
		{"name \xff\x1b at port 65535", []NamedPort{{"\xff\x1b", 65535}}},
		{"name with\nnewline at port 1", nil},
		{"name a at port 65536", nil},
		{"name a at port ", nil},
		{"name a at port -1", nil},
		{"name a at port", nil},
		{"nam a at port 1", nil},
		{"", nil},
		{"\x1b[2J", nil},
		{long, nil},
		{"name " + long + " at port 1", nil},
	} {
		got, err := ReadNames(strings.NewReader("\x00\x00\x11\x11name first at port 7\n" + tt.line + "\nname last at port 8\n"))
		want := slices.Concat([]NamedPort{{"first", 7}}, tt.want, []NamedPort{{"last", 8}})
		if !slices.Equal(got.Nodes, want) || err != nil || got.Cut {
			t.Errorf("%q: got %+v, %v; want %+v", tt.line, got, err, want)
		}
	}
}

// TestReadNamesLimits has too much to read. What was read is returned.
func TestReadNamesLimits(t *testing.T) {
	const head, line = "\x00\x00\x11\x11", "name a at port 1\n"
	whole := func(n int) int64 { return int64(len(head) + n*len(line)) }
	for _, tt := range []struct {
		name   string
		answer string
		limit  int64
		nodes  int
		cut    bool
	}{
		{"as many as there are ports", strings.Repeat(line, maxNames), maxNamesBytes, maxNames, false},
		{"one more", strings.Repeat(line, maxNames+1), maxNamesBytes, maxNames, true},
		{"just within the limit", strings.Repeat(line, 3), whole(3), 3, false},
		{"limit between lines", strings.Repeat(line, 4), whole(3), 3, true},
		{"limit in a line", strings.Repeat(line, 4), whole(3) + 5, 3, true},
		{"half a line at the end", line + "name b at port 1", maxNamesBytes, 1, false},
		{"a line without an end", line + strings.Repeat("x", maxNamesBytes), maxNamesBytes, 1, true},
	} {
		got, err := readNames(strings.NewReader(head+tt.answer), tt.limit)
		if len(got.Nodes) != tt.nodes || got.Cut != tt.cut || err != nil {
			t.Errorf("%s: %d nodes, cut %v, %v; want %d, %v", tt.name, len(got.Nodes), got.Cut, err, tt.nodes, tt.cut)
		}
	}
}

func FuzzReadNames(f *testing.F) {
	for _, tt := range namesTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ReadNames(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := ReadNames(bytes.NewReader(got.Append(nil)))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%q: reread as %+v, %v; want %+v", b, again, err, got)
		}
	})
}

func TestAppendDump(t *testing.T) {
	got := appendDump(nil, 4369,
		[]*registry.Node{{Name: "a", Port: 41233, FD: 7}},
		[]registry.Old{{Name: "b", Port: 41234, FD: 8}})
	want := "\x00\x00\x11\x11active name     <a> at port 41233, fd = 7\n\x00old/unused name <b>, port = 41234, fd = 8 \n\x00"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAppendFrame(t *testing.T) {
	for _, tt := range []struct {
		req  Request
		want string
	}{
		{NamesReq{}, "0001 6e"},
		{DumpReq{}, "0001 64"},
		{KillReq{}, "0001 6b"},
		{NodesReq{}, "0001 4e"},
		{NodesReq{"a@b"}, "0004 4e614062"},
		{WatchReq{}, "0001 57"},
		{StopReq{"a"}, "0002 7361"},
		{PortReq{"b"}, "0002 7a62"},
		{AliveReq{Port: 34483, Type: registry.Normal, High: 6, Low: 5, Name: "a"}, "000e 7886b34d00000600050001610000"},
	} {
		got, err := AppendFrame([]byte{0xee}, tt.req)
		if want := unhex(t, "ee"+tt.want); !bytes.Equal(got, want) || err != nil {
			t.Errorf("%T: got %x, %v; want %x", tt.req, got, err, want)
		}
	}
}

func TestAppendFrameLimit(t *testing.T) {
	longest := PortReq{strings.Repeat("x", MaxRequest-1)}
	if got, err := AppendFrame(nil, longest); len(got) != 2+MaxRequest || err != nil {
		t.Errorf("longest request: %d bytes, %v", len(got), err)
	}
	before := []byte("before")
	for _, length := range []int{MaxRequest, math.MaxUint16, math.MaxUint16 + 1, 1 << 20} {
		got, err := AppendFrame(before, PortReq{strings.Repeat("x", length)})
		if string(got) != "before" || !names(err, fmt.Sprintf("%d bytes", length+1)) {
			t.Errorf("name of %d: got %q, %v", length, got, err)
		}
	}
	// The lengths within such a request have wrapped, but it is never sent.
	if _, err := AppendFrame(nil, AliveReq{Name: strings.Repeat("x", math.MaxUint16+2)}); err == nil {
		t.Error("a name longer than its length field was framed")
	}
}
