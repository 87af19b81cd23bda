package daemonlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCloseGivesUp closes a log whose terminal takes nothing. That takes a second.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuck{goOn: make(chan struct{})}
		l := Open(Options{Stderr: out})
		l.Warn("first")
		l.Warn("second")
		begin := time.Now()
		l.Close()
		if took := time.Since(begin); took != logEndTime {
			t.Errorf("took %v, want %v", took, logEndTime)
		}
		for range 2 * maxLogWaiting {
			l.Warn("late") // takes no time
		}
		close(out.goOn)
		synctest.Wait()
		if got := out.String(); !strings.Contains(got, "msg=first") || !strings.Contains(got, "msg=second") {
			t.Errorf("written in the end: %.200q", got)
		}
	})
}

// TestLostTwice loses entries two times. Each time the log says how many.
func TestLostTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &stuck{goOn: make(chan struct{})}
		l := Open(Options{Stderr: out})
		for _, lost := range []int{3, 4} {
			l.Warn("first")
			synctest.Wait()
			for range maxLogWaiting + lost {
				l.Warn("more")
			}
			for range maxLogWaiting + 2 { // one is the line about those that are lost
				out.goOn <- struct{}{}
			}
			synctest.Wait()
			if got, want := out.String(), fmt.Sprintf("\n%d log entries lost\n", lost); strings.Count(got, "lost") != 1 || !strings.Contains(got, want) {
				t.Errorf("want %q in %.400q", want, got)
			}
			out.Reset()
		}
		close(out.goOn)
		l.Close()
		if out.Len() != 0 {
			t.Errorf("written at the end: %q", out.String())
		}
	})
}

// TestOneLineEach logs texts that would pass for entries, or take over a terminal.
func TestOneLineEach(t *testing.T) {
	var out bytes.Buffer
	l := Open(Options{Stderr: &out})
	hostile := []string{"a\nlevel=ERROR msg=forged", "\r\x1b[2J", "\u009b31m", "\u202eevil", "a\x00b", "\xff", "\u2028"}
	for _, text := range hostile {
		l.Warn("node", "name", text, "err", errors.New(text))
	}
	l.Close()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(hostile) {
		t.Errorf("%d lines for %d entries: %q", len(lines), len(hostile), lines)
	}
	for _, line := range lines {
		if !strings.Contains(line, "level=WARN msg=node name=") || strings.ContainsAny(line, "\r\x1b\u009b\u202e\x00\u2028") {
			t.Errorf("line %q", line)
		}
	}
}

// TestConcurrent has many write at once. Each entry is whole, and those of each in order.
func TestConcurrent(t *testing.T) {
	var out bytes.Buffer
	l := Open(Options{Stderr: &out})
	const writers, entries = 8, maxLogWaiting / 8
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range entries {
				l.Warn("entry", "writer", w, "number", i)
			}
		})
	}
	writing.Wait()
	l.Close()
	var next [writers]int
	for line := range strings.Lines(out.String()) {
		var w, i int
		_, tail, _ := strings.Cut(line, "msg=entry ")
		if _, err := fmt.Sscanf(tail, "writer=%d number=%d\n", &w, &i); err != nil || next[w] != i {
			t.Fatalf("line %q: %v", line, err)
		}
		next[w]++
	}
	for w, n := range next {
		if n != entries {
			t.Errorf("%d entries of writer %d, want %d", n, w, entries)
		}
	}
}

// failing is a writer that fails now and then.
type failing struct {
	bytes.Buffer
	calls int
}

func (f *failing) Write(b []byte) (int, error) {
	if f.calls++; f.calls%2 == 1 {
		return 0, io.ErrClosedPipe
	}
	return f.Buffer.Write(b)
}

// TestGoesOn has a terminal that fails. What comes later is written.
func TestGoesOn(t *testing.T) {
	var out failing
	l := Open(Options{Stderr: &out})
	l.Warn("first")
	l.Warn("second")
	l.Close()
	if got := out.String(); strings.Contains(got, "first") || !strings.Contains(got, "second") {
		t.Errorf("wrote %q", got)
	}
}
