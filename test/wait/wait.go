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

// rounds is how often Rounds tries: a machine does not stop in each of them.
const rounds = 5

// Rounds is for what has to happen in time. A machine that stops for a while may spoil that. So a
// few rounds are tried, and one that returns no error is enough. A fault spoils them all.
func Rounds(tb testing.TB, round func() error) {
	tb.Helper()
	var errs []error
	for range rounds {
		err := round()
		if err == nil {
			return
		}
		errs = append(errs, err)
	}
	tb.Errorf("none of %d rounds: %v", rounds, errors.Join(errs...))
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
