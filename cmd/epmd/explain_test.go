package main

import (
	"strings"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/systemd"
)

func TestDescribe(t *testing.T) {
	for want, l := range map[string]systemd.Listener{
		"nc (pid 812, user 4000000001, unit session-3.scope)": {
			Program: "nc", Holder: registry.Holder{PID: 812, UID: 4000000001, Unit: "session-3.scope"}},
		"a process (user root, unit init.scope)": {Holder: registry.Holder{Unit: "init.scope"}},
		"a?[31m (pid 1, user root)":              {Program: "a\x1b[31m", Holder: registry.Holder{PID: 1}},
	} {
		if got := describe(&l); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestExplainStarted(t *testing.T) {
	var stderr strings.Builder
	for _, f := range []fault{unreachable, unanswered, late} {
		explain(t.Context(), config{command: commandStarted, port: epmd.DefaultPort}, f, &stderr)
	}
	if stderr.Len() > 0 {
		t.Errorf("got %q; want nothing", &stderr)
	}
}

// TestExplainEnded explains what an epmd that has ended since did not do: nobody leads its port elsewhere.
func TestExplainEnded(t *testing.T) {
	for _, f := range []fault{unanswered, late} {
		if got := withoutListener(t.Context(), 1, f); !strings.HasPrefix(got, "nothing listens on port 1 (") {
			t.Errorf("%s: got %q", f, got)
		}
	}
}
