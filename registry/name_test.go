package registry

import (
	"strings"
	"testing"
)

func TestValidNode(t *testing.T) {
	for node, want := range map[string]bool{
		"a@hosta.local":                     true,
		"A-z_09@ünï":                        true,
		"a@" + strings.Repeat("b", 253):     true,
		"a@" + strings.Repeat("b", 254):     false,
		"a":                                 false,
		"a@":                                false,
		"@b":                                false,
		"a@b@c":                             false,
		"a b@c":                             false,
		"bücher@c":                          false,
		"a@ł":                               false,
		"a@b c":                             false,
		"a@b\n":                             false,
		"a@\u202eb":                         false,
		"a@b\xff":                           false,
		"a@\u00a0":                          false,
		"":                                  false,
		strings.Repeat("a", 254) + "@":      false,
		strings.Repeat("a", 253) + "@b":     true,
		strings.Repeat("a", 254) + "@bcdef": false,
	} {
		if got := ValidNode(node); got != want {
			t.Errorf("%.20q, %d bytes: got %t, want %t", node, len(node), got, want)
		}
	}
}

func TestValidHost(t *testing.T) {
	for host, want := range map[string]bool{
		"hosta.local":                      true,
		"bücher.local":                     true,
		strings.Repeat("a", 63) + ".local": true,
		strings.Repeat("a", 64) + ".local": false,
		strings.Repeat("a.", 126) + "a":    true,
		strings.Repeat("a.", 126) + "aa":   false,
		"local":                            false,
		"":                                 false,
		"a..local":                         false,
		"hosta.local.":                     false,
		`a\032b.local`:                     false,
		"a\n.local":                        false,
		"a@b.local":                        false,
		"a b.local":                        false,
	} {
		if got := ValidHost(host); got != want {
			t.Errorf("%.20q, %d bytes: got %t, want %t", host, len(host), got, want)
		}
	}
}
