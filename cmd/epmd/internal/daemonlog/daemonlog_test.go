package daemonlog

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
)

// TestLevels holds what is written with no -d, one and two.
func TestLevels(t *testing.T) {
	for debug, want := range []int{1, 2, 3} {
		var out bytes.Buffer
		l := Open(Options{Debug: debug, Stderr: &out})
		l.Debug("a")
		l.Info("b")
		l.Warn("c")
		l.Close()
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("%d -d: %d entries, want %d:\n%s", debug, got, want, &out)
		}
	}
}

// stuck is a writer that waits for a signal with every entry.
type stuck struct {
	bytes.Buffer
	goOn chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.goOn
	return s.Buffer.Write(b)
}

// TestStuck has too many entries wait for a terminal that takes none.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuck{goOn: make(chan struct{})}
		l := Open(Options{Stderr: out})
		l.Warn("first")
		synctest.Wait() // it is being written
		for range maxLogWaiting + 5 {
			l.Warn("more")
		}
		close(out.goOn)
		l.Close()
		if got := out.String(); strings.Count(got, "msg=more") != maxLogWaiting || !strings.Contains(got, "5 log entries lost\n") {
			t.Errorf("%d entries written, want %d and a line about 5 that are lost", strings.Count(got, "msg=more"), maxLogWaiting)
		}
	})
}
