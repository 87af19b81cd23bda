package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on names, in bytes.
const (
	maxNodeName = 255 // of a full node name
	maxDNSName  = 253 // RFC 1035, without the dot at the end
	maxDNSLabel = 63
)

// ValidName reports whether OTP takes an alive name. It has at least one character, and only
// letters, digits, "_" and "-" of ASCII.
func ValidName(name string) bool {
	for i := range len(name) {
		c := name[i] | 0x20
		if (c < 'a' || c > 'z') && (name[i] < '0' || name[i] > '9') && name[i] != '_' && name[i] != '-' {
			return false
		}
	}
	return name != ""
}

// ValidNode reports whether a full node name can be shown and used. It is NAME@HOST, at most 255
// bytes of UTF-8. OTP takes the alive name. In the host part it takes the characters from "!" to
// "ÿ". Here they must be printable too.
func ValidNode(node string) bool {
	name, host, _ := strings.Cut(node, "@")
	return len(node) <= maxNodeName && ValidName(name) && printable(host) &&
		!strings.ContainsFunc(host, func(r rune) bool { return r > 'ÿ' })
}

// HostLabel returns the first label of a host's name.
func HostLabel(host string) string {
	label, _, _ := strings.Cut(host, ".")
	return label
}

// ValidHost reports whether s can be the DNS name of a host, without the dot at its end. It has at
// least two labels. Avahi writes a dot or backslash within a label with a backslash. No host has
// such a name.
func ValidHost(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > maxDNSName || len(labels) < 2 || !printable(s) || strings.Contains(s, `\`) {
		return false
	}
	for _, label := range labels {
		if label == "" || len(label) > maxDNSLabel {
			return false
		}
	}
	return true
}

// printable reports whether s can be shown. It is not empty, is UTF-8, and has no spaces, no at
// sign, and nothing that does harm on a terminal.
func printable(s string) bool {
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) || unicode.IsSpace(r) || r == '@' {
			return false
		}
	}
	return true
}
