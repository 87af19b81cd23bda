package node

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxNameChars = 255              // an atom's limit; a node's name is an atom
	maxNameBytes = 4 * maxNameChars // the same, in the longest UTF-8
)

// CheckName returns nil if name is a full node name, else an error that says what is wrong. Both
// parts of NAME@HOST must be there. The name is valid UTF-8 of at most 255 characters, all
// printable, none a space. Such a name may be shown on a terminal, logged and put into a file as
// it is.
func CheckName(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("node name %.*q: %w", maxNameChars, name, err)
	}
	return nil
}

func checkName(name string) error {
	if !utf8.ValidString(name) {
		return errors.New("not UTF-8")
	}
	if n := utf8.RuneCountInString(name); n > maxNameChars {
		return fmt.Errorf("%d characters, at most %d", n, maxNameChars)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		return errors.New("a character that is not printable")
	}
	alive, host, _ := strings.Cut(name, "@")
	if alive == "" || host == "" || strings.Contains(host, "@") {
		return errors.New("not NAME@HOST")
	}
	return nil
}
