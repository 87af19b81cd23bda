// Package wait is how tests wait: for what happens, and no longer than Patience.
package wait

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Patience is how long one step of a test may take, on however busy a machine.
const Patience = 3 * time.Minute

// Pauses are between two looks at what tells nobody when it happens. They double from firstPause.
const (
	firstPause = 50 * time.Microsecond
	lastPause  = 2 * time.Millisecond
)

// Must ends the test if there is an error.
func Must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Soon returns a context that ends with the test, or when Patience is over.
func Soon(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(tb.Context(), Patience)
	tb.Cleanup(cancel)
	return ctx
}

// Until returns when check returns no error. After Patience it ends the test; what says what was
// waited for.
func Until(tb testing.TB, what string, check func() error) {
	tb.Helper()
	deadline := time.After(Patience)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-time.After(pause):
		case <-deadline:
			tb.Fatalf("waited %v: %s: %v", Patience, what, err)
		}
	}
}

var errNotYet = errors.New("not yet")

// True is Until for a condition.
func True(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	Until(tb, what, func() error {
		if holds() {
			return nil
		}
		return errNotYet
	})
}
