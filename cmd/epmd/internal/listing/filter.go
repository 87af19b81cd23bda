package listing

import (
	"errors"
	"path"
	"strings"

	"github.com/goerlang/eclus/registry"
)

// Filter says which nodes are meant; the zero value: all.
type Filter struct {
	LocalOnly, LANOnly bool
	Pattern            string // see match; empty: any name
}

// SetPattern takes a pattern that can match something.
func (f *Filter) SetPattern(s string) error {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return errors.New("not a name or a pattern of *, ? and [a-z]")
	}
	f.Pattern = s
	return nil
}

// match reports whether a node is meant. A pattern with an @ is for the full name, others for the
// alive name.
func (f Filter) match(n registry.Node) bool {
	if f.LocalOnly && n.Origin != registry.Local || f.LANOnly && n.Origin == registry.Local {
		return false
	}
	name := n.Name
	if strings.Contains(f.Pattern, "@") {
		name = n.Node
	}
	return f.Pattern == "" || matchName(f.Pattern, name)
}

// name returns the name that is meant, if it is one name and no pattern.
func (f Filter) name() string {
	if strings.ContainsAny(f.Pattern, `*?[\`) {
		return ""
	}
	return f.Pattern
}

// matchName is path.Match for names, in which a slash is like any other character. NUL, which no
// name has, stands for it.
func matchName(pattern, name string) bool {
	noSlash := strings.NewReplacer("/", "\x00")
	matched, err := path.Match(noSlash.Replace(pattern), noSlash.Replace(name))
	return err == nil && matched
}
