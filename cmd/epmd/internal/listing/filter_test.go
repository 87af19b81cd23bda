package listing

import (
	"testing"

	"github.com/goerlang/eclus/registry"
)

func TestNodeFilter(t *testing.T) {
	local := registry.Node{Node: "rabbit1@hosta.local", Name: "rabbit1", Origin: registry.Local}
	lan := registry.Node{Node: "a/b@hostb.local", Name: "a/b", Origin: registry.LAN}
	tests := []struct {
		pattern            string
		localOnly, lanOnly bool
		local, lan         bool // whether those match
	}{
		{"", false, false, true, true},
		{"", true, false, true, false},
		{"", false, true, false, true},
		{"rabbit1", false, false, true, false},
		{"rabbit", false, false, false, false},
		{"rabbit*", false, false, true, false},
		{"rabbit*", false, true, false, false},
		{"rabbit?", false, false, true, false},
		{"rabbit[0-9]", false, false, true, false},
		{"rabbit[^0-9]", false, false, false, false},
		{`rabbi\t1`, false, false, true, false},
		{"*", false, false, true, true},
		{"a?b", false, false, false, true},
		{"a/b", false, false, false, true},
		{"*hostb*", false, false, false, false},
		{"*@hostb*", false, false, false, true},
		{"rabbit1@hosta.local", false, false, true, false},
		{"rabbit1@hosta", false, false, false, false},
		{"*@*", false, false, true, true},
	}
	for _, tt := range tests {
		f := Filter{LocalOnly: tt.localOnly, LANOnly: tt.lanOnly}
		if tt.pattern != "" {
			if err := f.SetPattern(tt.pattern); err != nil {
				t.Errorf("%q: %v", tt.pattern, err)
			}
		}
		if got, gotLAN := f.match(local), f.match(lan); got != tt.local || gotLAN != tt.lan {
			t.Errorf("%+v matches %s: %v, %s: %v; want %v and %v", f, local.Node, got, lan.Node, gotLAN, tt.local, tt.lan)
		}
	}
}

func TestBadPattern(t *testing.T) {
	for _, pattern := range []string{"", "[", "a[b", "[]a]", `a\`, "*[z-a]["} {
		if err := new(Filter).SetPattern(pattern); err == nil {
			t.Errorf("%q passes for a pattern", pattern)
		}
	}
}
