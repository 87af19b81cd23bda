package main

import (
	"errors"
	"path"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// nodeFilter says which nodes are meant; the zero value: all.
type nodeFilter struct {
	localOnly, lanOnly bool
	pattern            string // see match; empty: any name
}

// setPattern takes a pattern that can match something.
func (f *nodeFilter) setPattern(s string) error {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return errors.New("not a name or a pattern of *, ? and [a-z]")
	}
	f.pattern = s
	return nil
}

// match tells whether a node is meant. A pattern with an @ is compared with the full name, others with the
// alive name.
func (f nodeFilter) match(n registry.Node) bool {
	if f.localOnly && n.Origin != registry.Local || f.lanOnly && n.Origin != registry.LAN {
		return false
	}
	name := n.Name
	if strings.Contains(f.pattern, "@") {
		name = n.Node
	}
	return f.pattern == "" || matchName(f.pattern, name)
}

// matchName is path.Match for names, in which a slash is like any other character. NUL, which no name has, stands
// for it.
func matchName(pattern, name string) bool {
	noSlash := strings.NewReplacer("/", "\x00")
	matched, err := path.Match(noSlash.Replace(pattern), noSlash.Replace(name))
	return err == nil && matched
}
