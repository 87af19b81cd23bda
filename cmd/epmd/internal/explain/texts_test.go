package explain

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/internal/owner"
)

// TestDescribeHostile has a program whose name is made to deceive. It stays on one line.
func TestDescribeHostile(t *testing.T) {
	for _, name := range []string{"a\nepmd: all is well", "\r\x1b[2J", "\u202eevil", "\xff", "\u009b"} {
		got := describe(&owner.Listener{Program: name, Owner: owner.Owner{PID: 7, Unit: name}})
		if strings.ContainsAny(got, "\n\r\x1b\u202e\u009b\ufffd") || !strings.Contains(got, "(pid 7, user root, unit ") {
			t.Errorf("%q is described as %q", name, got)
		}
	}
}

// TestIfLateAnswered has answers just before and just after it is late. A context that has
// ended keeps what is asked from being explained, not from being awaited.
func TestIfLateAnswered(t *testing.T) {
	for _, tt := range []struct {
		name  string
		takes time.Duration
		ended bool
		want  bool
	}{
		{"in time", lateAfter - 1, false, false},
		{"late", lateAfter + 1, false, true},
		{"given up", lateAfter + 1, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if tt.ended {
					cancel()
				}
				defer cancel()
				var stderr strings.Builder
				begin := time.Now()
				e := &Explainer{Port: 1, Stderr: &stderr}
				e.IfLate(ctx, func() { time.Sleep(tt.takes) })
				if took := time.Since(begin); took < tt.takes || (stderr.Len() > 0) != tt.want {
					t.Errorf("took %v, explained %q", took, stderr.String())
				}
			})
		})
	}
}
