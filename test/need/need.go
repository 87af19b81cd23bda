// Package need is what tests need of the machine. A test that lacks something is skipped. With
// CI=true in the environment it fails instead. With go test -short, the loop in which one works,
// tests that need anything are skipped.
package need

import (
	"os"
	"os/exec"
	"testing"
)

// Program returns the path of a program.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	notShort(tb)
	path, err := exec.LookPath(name)
	if err != nil {
		lacks(tb, err)
	}
	return path
}

// Possible is for what a machine may refuse, such as a listener on IPv6: err is its refusal.
func Possible(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		lacks(tb, err)
	}
}

// Time is for a test that takes seconds.
func Time(tb testing.TB) {
	tb.Helper()
	notShort(tb)
}

// Root is for what only root may do.
func Root(tb testing.TB) {
	tb.Helper()
	notShort(tb)
	if os.Geteuid() != 0 {
		lacks(tb, "not root")
	}
}

func notShort(tb testing.TB) {
	tb.Helper()
	if testing.Short() {
		tb.Skip("not in a short run")
	}
}

func lacks(tb testing.TB, what any) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}
