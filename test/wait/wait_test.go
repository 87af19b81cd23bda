package wait

import "testing"

// noting is a test that only notes that it has failed.
type noting struct {
	testing.TB
	failed bool
}

func (n *noting) Errorf(string, ...any) { n.failed = true }

// TestRounds has a round succeed sooner or later, or too late.
func TestRounds(t *testing.T) {
	for _, tt := range []struct {
		succeeds, want int
		fails          bool
	}{{1, 1, false}, {rounds, rounds, false}, {rounds + 1, rounds, true}} {
		tb, tried := &noting{TB: t}, 0
		Rounds(tb, func() error {
			if tried++; tried < tt.succeeds {
				return errNotYet
			}
			return nil
		})
		if tried != tt.want || tb.failed != tt.fails {
			t.Errorf("%+v: %d rounds were tried, and the test failed: %t", tt, tried, tb.failed)
		}
	}
}
