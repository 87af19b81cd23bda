package listing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/wait"
)

// answering listens as an epmd that gives everybody that answer, and closes. It returns its port.
func answering(t *testing.T, answer string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, 3)) // the request
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// TestListHostile asks what is no epmd of ours. It lists nothing, and says what is wrong.
func TestListHostile(t *testing.T) {
	const port = "\x00\x00\x11\x11"
	for _, tt := range []struct{ answer, want string }{
		{"\x00\x00\x00\x00", "epmd on port 0"},
		{"\x00\x01\x00\x00", "epmd on port 65536"},
		{"HTTP/1.1 400 Bad Request\r\n", "epmd on port 1213486160"},
		{port, "list nodes: EOF"}, // without an end
		{port + "+ node=a@b name=a port=1 origin=local\n", "list nodes: EOF"},
		{port + "+ node=a@b name=a port=x origin=local\n", "list nodes: "},
		{port + "+ name=\x1b[2J port=1 origin=local\n", "list nodes: "},
		{port + "! address=x port=1\n", "list nodes: "},
		{port + "\x1b[2J\n", "list nodes: "},
		{port + strings.Repeat("x", 1<<20) + "\n", "list nodes: "},
	} {
		at := answering(t, tt.answer)
		var out, stderr strings.Builder
		err := List(wait.Soon(t), Options{Port: at, Stdout: &out, Stderr: &stderr})
		if want := fmt.Sprintf("epmd: no list of nodes on port %d: %s", at, tt.want); err != exit.Status(1) || !strings.HasPrefix(stderr.String(), want) {
			t.Errorf("%.40q: %v, stderr %.200q; want %q", tt.answer, err, &stderr, want)
		}
		if out.Len() > 0 || strings.Contains(stderr.String(), "\x1b") || stderr.Len() > 1000 {
			t.Errorf("%.40q: stdout %q, stderr %.200q", tt.answer, &out, &stderr)
		}
	}
}

// TestListGone has a node go before the end of the snapshot, which others have got too.
func TestListGone(t *testing.T) {
	at := answering(t, "\x00\x00\x11\x11"+
		"+ node=a@hosta.local name=a host=hosta.local address=192.0.2.1 port=1 type=normal origin=peer epmd=4369\n"+
		"+ node=b@hosta.local name=b host=hosta.local address=192.0.2.1 port=2 type=normal origin=peer epmd=4369\n"+
		"- node=a@hosta.local name=a host=hosta.local address=192.0.2.1 port=1 origin=peer epmd=4369\n= nodes=1 lan=on\n")
	var out strings.Builder
	wait.Must(t, List(wait.Soon(t), Options{Port: at, Stdout: &out, Stderr: io.Discard}))
	if got := out.String(); !strings.Contains(got, "1 elsewhere") || strings.Contains(got, "a@hosta") || !strings.Contains(got, "b@hosta") {
		t.Errorf("got\n%s\nwant b@hosta.local alone", got)
	}
}

// TestReasons says why the LAN is off, or why this host is not announced.
func TestReasons(t *testing.T) {
	const evil = "x\x1b[2J"
	for _, tt := range []struct{ lanOff, silent, text, json string }{
		{"", "", "", `"lan":"on"}`},
		{evil, "", "LAN discovery off: x?[2J\n", `"lan":"off","reason":"x\u001b[2J"}`},
		{"", evil, "this host is not announced: x?[2J\n", `"lan":"on","published":false,"reason":"x\u001b[2J"}`},
	} {
		k := &knownNodes{epmdPort: 4369, lanOff: tt.lanOff, silent: tt.silent}
		var table, object strings.Builder
		tablePrinter{&table, screen.Screen{}, time.UTC, nil, 4369}.snapshot(k)
		jsonPrinter{&object, true, nil}.snapshot(k)
		if _, rest, _ := strings.Cut(table.String(), "\n"); rest != tt.text {
			t.Errorf("shown %q, want %q", rest, tt.text)
		}
		if want := `{"v":1,"event":"snapshot","port":4369,"nodes":0,` + tt.json + "\n"; object.String() != want {
			t.Errorf("JSON %s, want %s", &object, want)
		}
	}
}

// TestWithout shows which epmds give no stream, and why.
func TestWithout(t *testing.T) {
	k := &knownNodes{epmdPort: 4369, without: []registry.NoStream{
		{EPMD: netip.MustParseAddrPort("192.0.2.1:4370"), Why: "closed\x1b[2J"},
		{Host: "hostb.local", EPMD: netip.MustParseAddrPort("[2001:db8::1]:4369"), Why: "refused"},
	}}
	shown := func() string {
		var table strings.Builder
		tablePrinter{&table, screen.Screen{}, time.UTC, nil, 4369}.snapshot(k)
		_, rest, _ := strings.Cut(table.String(), "\n")
		return rest
	}
	const want = "no stream from 192.0.2.1:4370: closed?[2J\nno stream from hostb.local ([2001:db8::1]:4369): refused\n"
	if got := shown(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var object strings.Builder
	jsonPrinter{&object, true, nil}.snapshot(k)
	const wantJSON = `{"v":1,"event":"snapshot","port":4369,"nodes":0,"lan":"on","no_stream":[` +
		`{"address":"192.0.2.1","port":4370,"reason":"closed\u001b[2J"},` +
		`{"host":"hostb.local","address":"2001:db8::1","port":4369,"reason":"refused"}]}` + "\n"
	if object.String() != wantJSON {
		t.Errorf("got %s, want %s", &object, wantJSON)
	}
	k.without = make([]registry.NoStream, maxWithout+2)
	if got := shown(); strings.Count(got, "\n") != maxWithout+1 || !strings.HasSuffix(got, "\nno stream from 2 more\n") {
		t.Errorf("got %q", got)
	}
}

// TestJSONYear has a node whose year JSON does not have.
func TestJSONYear(t *testing.T) {
	var out strings.Builder
	jsonPrinter{&out, true, nil}.change(registry.Up, registry.Node{Name: "a", Since: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)})
	var o struct {
		Version int `json:"v"`
		Event   string
		Reason  string
	}
	if err := json.Unmarshal([]byte(out.String()), &o); err != nil || o.Version != 1 || o.Event != "error" || o.Reason == "" {
		t.Errorf("got %s, %v", &out, err)
	}
}

// TestIsHangUp waits for another epmd where one has ended, and nowhere else.
func TestIsHangUp(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF: true, &net.OpError{Op: "read", Err: errors.New("reset")}: true, io.ErrUnexpectedEOF: false, os.ErrClosed: false,
	} {
		if got := isHangUp(fmt.Errorf("list nodes: %w", err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// TestApplyBad has an epmd tell of a change that can't be read.
func TestApplyBad(t *testing.T) {
	w := watcher{known: &knownNodes{nodes: make(map[nodeKey]registry.Node)}, printer: &recorder{}}
	for _, text := range []string{"+ node=a@b name=a port=70000 origin=local", "- name=a port=-1 origin=lan"} {
		line, err := epmd.ParseLine(text)
		wait.Must(t, err)
		if err := w.apply(line); err == nil || len(w.known.nodes) != 0 {
			t.Errorf("%s: %v, %d known", text, err, len(w.known.nodes))
		}
	}
}
