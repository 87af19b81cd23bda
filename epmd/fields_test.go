package epmd

import (
	"os"
	"regexp"
	"testing"
)

// TestFieldsDescribed holds that Line's comment and the manual page describe each field.
func TestFieldsDescribed(t *testing.T) {
	read := func(file string) []byte {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	code, manual := read("line.go"), read("../cmd/epmd/epmd.1")
	for _, f := range nodeFields {
		if !regexp.MustCompile(`(?m)^//\t(\w+, )*` + f.key + `\b`).Match(code) {
			t.Errorf("the comment of Line does not describe %s", f.key)
		}
		if !regexp.MustCompile(`(?m)^\.BR? .*\b` + f.key + `\b`).Match(manual) {
			t.Errorf("the manual page does not describe %s", f.key)
		}
	}
}
