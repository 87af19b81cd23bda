package dbus

import (
	"net/netip"
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestText has what a bus or sd-bus refuses, or what could take over a terminal.
func TestText(t *testing.T) {
	for _, tt := range []struct{ name, text, of string }{
		{"empty", "", ""},
		{"letters", "a b@höst 日本 \ufffd", "a b@höst 日本 \ufffd"},
		{"percent", "50%", "50%25"},
		{"looks encoded", "%1B", "%251B"},
		{"noncharacters", "a\uffffb\ufdd0\U0010fffe", "a%EF%BF%BFb%EF%B7%90%F4%8F%BF%BE"},
		{"controls", "a\x00\x1b[31m\n\x7f\u0085", "a%00%1B[31m%0A%7F%C2%85"},
		{"right to left", "\u202ea", "%E2%80%AEa"},
		{"bytes", "\xffa\xc3", "%FFa%C3"},
		{"surrogate", "\xed\xa0\x80", "%ED%A0%80"},
		{"overlong", "\xc0\xaf", "%C0%AF"},
		{"beyond Unicode", "\xf4\x90\x80\x80", "%F4%90%80%80"},
	} {
		if got := nameText(tt.text); got != tt.of || nameOf(got) != tt.text {
			t.Errorf("%s: %q becomes %q, then %q; want %q", tt.name, tt.text, got, nameOf(got), tt.of)
		}
	}
	if got := nameOf("50%"); got != "50%" {
		t.Errorf("50%% is taken for %q", got)
	}
	if got := text("50%\x1b"); got != "50%%1B" {
		t.Errorf("a sentence becomes %q", got)
	}
	if got := addressText(netip.MustParseAddr("fe80::1%e\x1b")); got != "fe80::1%e%1B" {
		t.Errorf("an address becomes %q", got)
	}
}

// FuzzText holds that any text becomes one that everybody takes, and a name can be had back.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a\x00b", "\xff", "\xed\xa0\x80", "é\xc3", "a\uffff%\x1b", "%4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := nameText(s)
		if !utf8.ValidString(got) || nameOf(got) != s {
			t.Errorf("%q becomes %q, then %q", s, got, nameOf(got))
		}
		for _, r := range text(s) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %q in it", text(s), r)
			}
		}
	})
}
