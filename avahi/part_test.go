package avahi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// TestPauses has sessions that last, and reach something or nothing. What they have reached decides
// how long the pause is, not how long they have lasted.
func TestPauses(t *testing.T) {
	const long = 8 * time.Second
	nothing := []time.Duration{20, 40, 80, 160, 320, 640, 1280, 2000, 2000} // ms
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher(registry.New("hosta", 0), Options{}, slog.New(slog.DiscardHandler)).part
		ctx, cancel := context.WithCancel(t.Context())
		var pauses []time.Duration
		ended := time.Now()
		sessions := 0
		p.repeat(ctx, func() (reached bool, err error) {
			if sessions > 0 {
				pauses = append(pauses, time.Since(ended)/time.Millisecond)
			}
			time.Sleep(long)
			ended = time.Now()
			if sessions++; sessions == 2*len(nothing)+1 {
				cancel()
			}
			return sessions%len(nothing) == 0, errors.New("no more")
		})
		// The last of the first row has reached something.
		want := slices.Concat(nothing[:len(nothing)-1], nothing)
		if want = append(want, nothing[0]); !slices.Equal(pauses, want[:len(pauses)]) || len(pauses) != 2*len(nothing) {
			t.Errorf("paused %d ms; want %d ms", pauses, want)
		}
	})
}

// notes are when lines of a log came.
type notes struct {
	mu    sync.Mutex
	times []time.Time
}

func (n *notes) Write(line []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if strings.Contains(string(line), "LAN discovery") {
		n.times = append(n.times, time.Now())
	}
	return len(line), nil
}

// TestBackOff has a real bus that lets nobody watch for avahi-daemon. Sessions begin ever more
// rarely.
func TestBackOff(t *testing.T) {
	need.Program(t, "dbus-daemon")
	dir, err := os.MkdirTemp("", "bus") // of a short name, as a socket's has a limit
	wait.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := "unix:path=" + dir + "/bus"
	wait.Must(t, os.WriteFile(filepath.Join(dir, "conf"), fmt.Appendf(nil, `<busconfig>
  <listen>%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy>
  <limit name="max_match_rules_per_connection">0</limit>
</busconfig>`, at), 0o600))
	daemon := exec.Command("dbus-daemon", "--config-file="+dir+"/conf", "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	out, err := daemon.StdoutPipe()
	wait.Must(t, err)
	wait.Must(t, daemon.Start())
	t.Cleanup(func() {
		daemon.Process.Kill()
		daemon.Wait()
	})
	_, err = out.Read(make([]byte, 1)) // the bus is there
	wait.Must(t, err)
	address, err := bus.Parse(at)
	wait.Must(t, err)
	var log notes
	p := NewPublisher(registry.New("hosta", 0), Options{Bus: address}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	const many = 8
	wait.Until(t, "failed sessions", func() error {
		log.mu.Lock()
		defer log.mu.Unlock()
		if len(log.times) < many {
			return fmt.Errorf("%d so far, off: %s", len(log.times), p.State().Off)
		}
		return nil
	})
	if took := log.times[many-1].Sub(log.times[0]); took < (1<<(many-1)-1)*firstRetry {
		t.Errorf("%d sessions within %v", many, took)
	}
}
