package explain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/owner"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

func TestDescribe(t *testing.T) {
	for want, l := range map[string]owner.Listener{
		"nc (pid 812, user 4000000001, unit session-3.scope)": {
			Program: "nc", Owner: owner.Owner{PID: 812, UID: 4000000001, Unit: "session-3.scope"}},
		"a process (user root, unit init.scope)": {Owner: owner.Owner{Unit: "init.scope"}},
		"a?[31m (pid 1, user root)":              {Program: "a\x1b[31m", Owner: owner.Owner{PID: 1}},
	} {
		if got := describe(&l); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestExplainEnded explains what an epmd did not do that has ended since. Nobody redirects its
// port.
func TestExplainEnded(t *testing.T) {
	for _, f := range []Fault{Unanswered, Late} {
		if got := withoutListener(t.Context(), 1, f); !strings.HasPrefix(got, "nothing listens on port 1 (") {
			t.Errorf("%s: got %q", f, got)
		}
	}
}

// listener holds a port of the loopback interface and accepts nobody.
func listener(t *testing.T) (net.Listener, uint16) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestExplain(t *testing.T) {
	_, port := listener(t)
	want := fmt.Sprintf("epmd: port %d is held by explain.test (pid %d, user ", port, os.Getpid())
	for _, f := range []Fault{Unreachable, Late} {
		var stderr strings.Builder
		(&Explainer{Port: port, Stderr: &stderr}).Explain(t.Context(), f)
		if got := stderr.String(); !strings.HasPrefix(got, want) || !strings.Contains(got, string(f)) {
			t.Errorf("got %q; want %q... %s", got, want, f)
		}
	}
	(&Explainer{Port: port}).Explain(t.Context(), Unreachable) // to nobody
}

// TestIfLate asks what takes its time. What answers at once needs no explanation.
func TestIfLate(t *testing.T) {
	_, port := listener(t)
	explained := make(chan string, 8)
	e := &Explainer{Port: port, Stderr: writer(func(b []byte) { explained <- string(b) })}
	e.IfLate(t.Context(), func() {})
	select {
	case text := <-explained:
		t.Errorf("explained at once: %q", text)
	default:
	}
	e.IfLate(t.Context(), func() {
		select {
		case text := <-explained:
			if !strings.Contains(text, string(Late)) {
				t.Errorf("explained %q", text)
			}
		case <-time.After(wait.Patience):
			t.Error("not explained while no answer came")
		}
	})
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// serve runs an epmd of ours at a listener and returns its port.
func serve(t *testing.T, l net.Listener) uint16 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	server := epmd.NewServer(epmd.Config{Registry: registry.New("hosta.local", registry.OldNames)})
	go func() { served <- server.Serve(ctx, l.(*net.TCPListener)) }()
	t.Cleanup(func() {
		cancel()
		<-served
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// twoListeners holds one port of both loopback addresses. A port that is taken at one of them is
// left for another.
func twoListeners(t *testing.T) (l4, l6 net.Listener) {
	t.Helper()
	for range 100 {
		var port uint16
		l4, port = listener(t)
		l6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
		if err == nil {
			return l4, l6
		}
		l4.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Fatal("100 ports are taken")
	return nil, nil
}

// explained returns what is explained of the epmd at a port.
func explained(t *testing.T, port uint16, f Fault) string {
	t.Helper()
	var stderr strings.Builder
	(&Explainer{Port: port, Unwilling: "an epmd that says no", Stderr: &stderr}).Explain(t.Context(), f)
	return stderr.String()
}

// TestUnwilling explains what an epmd did not do that answers other questions.
func TestUnwilling(t *testing.T) {
	l, _ := listener(t)
	got := explained(t, serve(t, l), Unanswered)
	if !strings.HasSuffix(got, "), an epmd that says no\n") {
		t.Errorf("got %q", got)
	}
}

// TestBetter finds an epmd behind what nodes ask first.
func TestBetter(t *testing.T) {
	l, behind := twoListeners(t)
	port := serve(t, behind)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	defer l.Close()
	want := fmt.Sprintf("\nepmd: an epmd answers on [::1]:%d, but nodes look for it on 127.0.0.1:%[1]d first\n", port)
	got := explained(t, port, Unanswered)
	if !strings.Contains(got, string(Unanswered)) || !strings.HasSuffix(got, want) {
		t.Errorf("got %q; want it to end in %q", got, want)
	}
}

// TestNobody explains a port on which nobody listens, and says how to start an epmd there.
func TestNobody(t *testing.T) {
	want := "epmd: nothing listens on port 1 (is epmd.socket enabled? start one with: epmd -port 1 -daemon)\n"
	for _, f := range []Fault{Unreachable, Unanswered, Late} {
		if got := explained(t, 1, f); got != want {
			t.Errorf("%s: got %q; want %q", f, got, want)
		}
	}
}
