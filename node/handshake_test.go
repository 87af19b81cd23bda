package node

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// otp25 is what a node of OTP 25 can do.
const otp25 Flags = 0xd07df7fbd

var sendNameTests = []struct {
	name, hex string
	want      SendName
	err       string // what the error must name; empty: must parse
}{
	{"OTP 25", "4e 0000000d07df7fbd 6b0313dc 0004 61406263", SendName{otp25, 0x6b0313dc, "a@bc"}, ""},
	{"prober", "4e 0000001403070f94 00000000 0003 614062", SendName{Mandatory, 0, "a@b"}, ""},
	{"extra", "4e 0000000000000001 00000002 0003 614062 ffff", SendName{1, 2, "a@b"}, ""},
	{"longest", "4e 0000000000000001 00000002 03fc" + strings.Repeat("61", 1020), SendName{1, 2, strings.Repeat("a", 1020)}, ""},
	{"too long", "4e 0000000000000001 00000002 03fd" + strings.Repeat("61", 1021), SendName{}, "1021 bytes"},
	{"nlen beyond the end", "4e 0000000000000001 00000002 0004 614062", SendName{}, "nlen 4, 3 bytes"},
	{"no name", "4e 0000000000000001 00000002 0000", SendName{}, "no bytes"},
	{"half a nlen", "4e 0000000000000001 00000002 00", SendName{}, "nlen ends"},
	{"cut", "4e 0000000000000001 000000", SendName{}, "no send_name"},
	{"empty", "", SendName{}, "0 bytes"},
	{"old", "6e 0005 00000001 614062 00000000 00000000", SendName{}, "no send_name"},
}

func TestParseSendName(t *testing.T) {
	for _, tt := range sendNameTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseSendName(unhex(t, tt.hex))
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseSendName(f *testing.F) {
	for _, tt := range sendNameTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkRoundTrip(t, b, ParseSendName) })
}

var statusTests = []struct {
	name, hex string
	want      Status
	err       string
}{
	{"ok", "73 6f6b", Status{Code: OK}, ""},
	{"nok", "73 6e6f6b", Status{Code: NotOK}, ""},
	{"ok_simultaneous", "73 6f6b5f73696d756c74616e656f7573", Status{Code: OKSimultaneous}, ""},
	{"alive", "73 616c697665", Status{Code: Alive}, ""},
	{"not_allowed", "73 6e6f745f616c6c6f776564", Status{Code: NotAllowed}, ""},
	{"false", "73 66616c7365", Status{Code: False}, ""},
	{"unknown", "73 00ff", Status{Code: "\x00\xff"}, ""},
	{"named", "73 6e616d65643a 0003 614062 00000007", Status{Named, "a@b", 7}, ""},
	{"named, extra", "73 6e616d65643a 0003 614062 00000007 ff", Status{Named, "a@b", 7}, ""},
	{"named, cut name", "73 6e616d65643a 0004 614062", Status{}, "nlen 4"},
	{"named, no name", "73 6e616d65643a 0000 00000007", Status{}, "no bytes"},
	{"named, cut creation", "73 6e616d65643a 0003 614062 000000", Status{}, "creation ends"},
	{"longest", "73" + strings.Repeat("61", 32), Status{Code: StatusCode(strings.Repeat("a", 32))}, ""},
	{"too long", "73" + strings.Repeat("61", 33), Status{}, "33 bytes"},
	{"no code", "73", Status{}, "no status"},
	{"empty", "", Status{}, "0 bytes"},
	{"other tag", "4e 6f6b", Status{}, "no status"},
}

func TestParseStatus(t *testing.T) {
	for _, tt := range statusTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseStatus(unhex(t, tt.hex))
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseStatus(f *testing.F) {
	for _, tt := range statusTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkRoundTrip(t, b, ParseStatus) })
}

var challengeTests = []struct {
	name, hex string
	want      Challenge
	err       string
}{
	{"OTP 25", "4e 0000000d07df7fbd 9af39263 6b0313dc 0008 706c61696e40766d",
		Challenge{otp25, 0x9af39263, 0x6b0313dc, "plain@vm"}, ""},
	{"extra", "4e 0000000000000001 00000002 00000003 0003 614062 ffff", Challenge{1, 2, 3, "a@b"}, ""},
	{"longest", "4e 0000000000000001 00000002 00000003 03fc" + strings.Repeat("61", 1020),
		Challenge{1, 2, 3, strings.Repeat("a", 1020)}, ""},
	{"too long", "4e 0000000000000001 00000002 00000003 03fd" + strings.Repeat("61", 1021), Challenge{}, "1021 bytes"},
	{"nlen beyond the end", "4e 0000000000000001 00000002 00000003 ffff 614062", Challenge{}, "nlen 65535, 3 bytes"},
	{"no name", "4e 0000000000000001 00000002 00000003 0000", Challenge{}, "no bytes"},
	{"half a nlen", "4e 0000000000000001 00000002 00000003 00", Challenge{}, "nlen ends"},
	{"cut", "4e 0000000000000001 00000002 000000", Challenge{}, "no challenge"},
	{"old", "6e 0005 0007fffd 00000002 614062", Challenge{0x7fffd, 2, 0, "a@b"}, ""},
	{"old, no name", "6e 0005 0007fffd 00000002", Challenge{}, "no bytes"},
	{"old, too long", "6e 0005 0007fffd 00000002" + strings.Repeat("61", 1021), Challenge{}, "1021 bytes"},
	{"old, cut", "6e 0005 0007fffd 000000", Challenge{}, "no challenge"},
	{"other tag", "73 0000000000000001 00000002 00000003 0003 614062", Challenge{}, "no challenge"},
	{"empty", "", Challenge{}, "0 bytes"},
}

func TestParseChallenge(t *testing.T) {
	for _, tt := range challengeTests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseChallenge(unhex(t, tt.hex))
			if got != tt.want || !names(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, error naming %q", got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseChallenge(f *testing.F) {
	for _, tt := range challengeTests {
		f.Add(unhex(f, tt.hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkRoundTrip(t, b, ParseChallenge) })
}

func ExampleSendName_Append() {
	fmt.Printf("% x\n", SendName{Flags: Mandatory, Name: "a@b"}.Append(nil))
	// Output: 4e 00 00 00 14 03 07 0f 94 00 00 00 00 00 03 61 40 62
}

func TestCheckName(t *testing.T) {
	for _, tt := range []struct{ name, err string }{
		{"a@b", ""},
		{"nød@høst.local", ""},
		{"a@" + strings.Repeat("é", 253), ""},
		{"a@" + strings.Repeat("é", 254), "256 characters"},
		{"a@::1", ""},
		{"", "NAME@HOST"},
		{"a", "NAME@HOST"},
		{"a@", "NAME@HOST"},
		{"@b", "NAME@HOST"},
		{"a@b@c", "NAME@HOST"},
		{"a@\xe9", "UTF-8"},
		{"a@b\x1b[2J", "printable"},
		{"a@b\n", "printable"},
		{"a@b\x00", "printable"},
		{"a b@c", "printable"},
		{"a@\u202eb", "printable"},
	} {
		if err := CheckName(tt.name); !names(err, tt.err) {
			t.Errorf("CheckName(%q): got %v; want error naming %q", tt.name, err, tt.err)
		}
	}
}

// checkRoundTrip appends what parses, and parses that again. Both must be the same.
func checkRoundTrip[M interface {
	comparable
	Append([]byte) []byte
}](t *testing.T, b []byte, parse func([]byte) (M, error)) {
	m, err := parse(b)
	if err != nil {
		return
	}
	if again, err := parse(m.Append(nil)); err != nil || again != m {
		t.Errorf("%x: reparsed as %+v, %v; want %+v", b, again, err, m)
	}
}

// names reports whether err names what. With nothing to name there must be no error.
func names(err error, what string) bool {
	if what == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), what)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
