package dbus

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// text returns s as every bus and client takes it. Each byte of what is not printable becomes % and
// two hexadecimal digits. That includes what is not UTF-8, for which a bus drops the sender, and
// Unicode's noncharacters, for which sd-bus drops the whole message (sd_bus_message_append(3)).
func text(s string) string { return encode(s, unicode.IsPrint) }

// nameText is text for names. A percent sign becomes %25, so nameOf returns the name again.
func nameText(s string) string {
	return encode(s, func(r rune) bool { return r != '%' && unicode.IsPrint(r) })
}

// nameOf returns the name that nameText has made a text of. It returns what nameText can't have
// made as it is.
func nameOf(text string) string {
	if name, err := url.PathUnescape(text); err == nil {
		return name
	}
	return text
}

// addressText returns an address, with its zone after a percent sign.
func addressText(a netip.Addr) string {
	if a.Zone() == "" {
		return a.String()
	}
	return a.WithZone("").String() + "%" + nameText(a.Zone())
}

// encode returns s with % and two digits for each byte, except for characters that may stay.
func encode(s string, stays func(rune) bool) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !stays(r) }) {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if isText := r != utf8.RuneError || size > 1; isText && stays(r) {
			b.WriteString(s[:size])
		} else {
			for i := range size {
				b.Write([]byte{'%', digits[s[i]>>4], digits[s[i]&15]})
			}
		}
		s = s[size:]
	}
	return b.String()
}
