package peek

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/way"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"

	"github.com/goerlang/eclus/test/need"
)

// serveEPMD runs an epmd of ours with a node named mute at a port. It returns the epmd's port.
func serveEPMD(t *testing.T, nodePort uint16) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New("hosta.local", registry.OldNames)
	n := registry.Node{Name: "mute", Port: nodePort, Type: registry.Normal, High: 6, Low: 5}
	if _, err := reg.Register(n); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- epmd.NewServer(epmd.Config{Registry: reg}).Serve(ctx, l.(*net.TCPListener)) }()
	t.Cleanup(func() {
		cancel()
		<-served
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// peekAt returns what Peek writes of a node, and its error.
func peekAt(t *testing.T, name string, port uint16, inJSON bool) (stdout, stderr string, err error) {
	t.Helper()
	var out, complaints strings.Builder
	err = Peek(t.Context(), Options{
		Way: way.Options{
			Node: name, Port: port, HostName: "hosta",
			Getenv: func(variable string) (string, bool) { return "secret", variable == cookie.Variable },
		},
		JSON: inJSON, Stdout: &out, Stderr: &complaints,
	})
	return out.String(), complaints.String(), err
}

// TestPeek goes the way to a node, which does not say how much memory it has, and shows it.
func TestPeek(t *testing.T) {
	need.Time(t)
	t.Parallel()
	m := &muteNode{t: t, infos: []any{itemsOfProcess}}
	port := serveEPMD(t, m.serve().Port())
	for _, inJSON := range []bool{false, true} {
		stdout, stderr, err := peekAt(t, "mute@127.0.0.1", port, inJSON)
		if err != nil || !strings.HasPrefix(stderr, "epmd: not all was answered: ") {
			t.Errorf("error %v, stderr %q", err, stderr)
		}
		var fields map[string]any
		if inJSON && (json.Unmarshal([]byte(stdout), &fields) != nil || fields["node"] != "mute@127.0.0.1") {
			t.Errorf("JSON: %s", stdout)
		}
		if !inJSON && !strings.HasPrefix(stdout, "node         mute@127.0.0.1, OTP 25") {
			t.Errorf("shown: %s", stdout)
		}
	}
}

// TestPeekNobody says why the way to a node ends.
func TestPeekNobody(t *testing.T) {
	port := serveEPMD(t, 1)
	for name, want := range map[string]string{
		"mute":            "epmd: name: ",
		"other@127.0.0.1": "epmd: lookup: \"other\" is not registered there\nepmd: These are: mute\n",
		"mute@127.0.0.1":  "epmd: connect: nothing listens on 127.0.0.1:1 for us\nepmd: ",
	} {
		stdout, stderr, err := peekAt(t, name, port, false)
		if err != exit.Status(1) || stdout != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("%s: %v, stdout %q, stderr %q; want %q", name, err, stdout, stderr, want)
		}
	}
}
