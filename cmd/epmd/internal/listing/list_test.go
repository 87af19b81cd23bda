package listing

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// serve runs an epmd of ours that has some nodes. Port 0 is any. It returns its port, and what ends
// it.
func serve(t *testing.T, port uint16, names ...string) (uint16, func()) {
	t.Helper()
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	reg := registry.New("hosta.local", registry.OldNames)
	for _, name := range names {
		if _, err := reg.Register(registry.Node{Name: name, Port: 41000, Type: registry.Normal}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- epmd.NewServer(epmd.Config{Registry: reg, Port: port}).Serve(ctx, l.(*net.TCPListener))
	}()
	end := func() {
		cancel()
		<-served
		served <- nil
	}
	t.Cleanup(end)
	return port, end
}

func TestList(t *testing.T) {
	port, _ := serve(t, 0, "a", "rabbit")
	for _, tt := range []struct {
		options Options
		want    string // all words of it
		status  exit.Status
	}{
		{Options{}, fmt.Sprintf("epmd on port %d: 2 nodes, 0 on the LAN|a@hosta.local ?|rabbit@hosta.local ?|41000", port), 0},
		{Options{JSON: true, Filter: Filter{Pattern: "r*"}}, `{"v":1,"node":"rabbit@hosta.local","name":"rabbit",|"port":41000`, 0},
		{Options{Filter: Filter{LANOnly: true}}, ": 0 of 2 nodes, 0 on the LAN", 2},
		{Options{Filter: Filter{Pattern: "a"}}, fmt.Sprintf("epmd on port %d: 1 node, 0 on the LAN|a@hosta.local ?", port), 0},
		{Options{Filter: Filter{Pattern: "a@hosta.local"}, JSON: true}, `{"v":1,"node":"a@hosta.local"`, 0},
		{Options{Filter: Filter{Pattern: "a", LANOnly: true}}, ": 0 of 2 nodes, 0 on the LAN", 2},
		{Options{Filter: Filter{Pattern: "b"}}, ": 0 of 2 nodes, 0 on the LAN", 2},
	} {
		var stdout, stderr strings.Builder
		tt.options.Port, tt.options.Stdout, tt.options.Stderr = port, &stdout, &stderr
		err := List(t.Context(), tt.options)
		var status exit.Status
		if errors.As(err, &status); status != tt.status || err != nil && status == 0 || stderr.Len() > 0 {
			t.Errorf("%+v: %v, stderr %q; want status %d", tt.options.Filter, err, &stderr, tt.status)
		}
		for part := range strings.SplitSeq(tt.want, "|") {
			if !strings.Contains(stdout.String(), part) {
				t.Errorf("%+v: no %q in\n%s", tt.options.Filter, part, &stdout)
			}
		}
	}
}

// TestListNobody lists nodes where there is no epmd, or none that knows how to.
func TestListNobody(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
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
	for port, want := range map[uint16]string{
		1: "epmd: Cannot connect to local epmd\nepmd: nothing listens on port 1 ",
		l.Addr().(*net.TCPAddr).AddrPort().Port(): "epmd: no list of nodes on port ",
	} {
		var stderr strings.Builder
		if err := List(t.Context(), Options{Port: port, Stdout: io.Discard, Stderr: &stderr}); err != exit.Status(1) {
			t.Errorf("port %d: error %v; want exit status 1", port, err)
		}
		if !strings.HasPrefix(stderr.String(), want) || strings.Count(stderr.String(), "\n") != 2 {
			t.Errorf("port %d: stderr %q; want %q and why", port, &stderr, want)
		}
	}
}

// TestWatch watches an epmd, and its successor.
func TestWatch(t *testing.T) {
	port, end := serve(t, 0, "a")
	ctx, cancel := context.WithCancel(t.Context())
	out, stdout := io.Pipe()
	var stderr strings.Builder
	listed := make(chan error, 1)
	go func() {
		listed <- List(ctx, Options{Port: port, JSON: true, Watch: true, Stdout: stdout, Stderr: &stderr})
		stdout.Close()
	}()
	lines := bufio.NewScanner(out)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"v":1,"event":`+want) {
			t.Fatalf("got %s, %v; want %s", lines.Text(), lines.Err(), want)
		}
	}
	late := time.AfterFunc(wait.Patience, func() { out.CloseWithError(errors.New("nothing comes")) })
	defer late.Stop()
	expect(`"up","node":"a@hosta.local"`)
	expect(`"snapshot"`)
	end()
	serve(t, port, "b")
	expect(`"up","node":"b@hosta.local"`)
	cancel()
	for lines.Scan() { // until the listing has ended
	}
	if err := <-listed; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if want := fmt.Sprintf("epmd: connection to the epmd on port %d lost, waiting for it\nepmd: connected to the epmd on port %[1]d again\n", port); stderr.String() != want {
		t.Errorf("stderr %q; want %q", &stderr, want)
	}
}
