package peek

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// muteNode is a node of ours that answers some calls as its processes do.
type muteNode struct {
	t     *testing.T
	infos []any // of its processes, by ID - 1; nil: that process does not answer
	deaf  bool  // answers nothing

	mu    sync.Mutex
	asked []string
}

var itemsOfProcess = []any{
	etf.Tuple{etf.Atom("registered_name"), []any{}}, etf.Tuple{etf.Atom("memory"), 2600},
	etf.Tuple{etf.Atom("message_queue_len"), 1}, etf.Tuple{etf.Atom("reductions"), 7},
	etf.Tuple{etf.Atom("current_function"), etf.Tuple{etf.Atom("m"), etf.Atom("f"), 1}},
}

// serve runs the node until the test ends, and returns where.
func (m *muteNode) serve() netip.AddrPort {
	m.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	server := &node.Server{Name: "mute@127.0.0.1", Cookie: "secret", Options: node.Options{Processes: map[etf.Atom]node.Handler{"rex": m.rex}}}
	served := make(chan error, 1)
	go func() { served <- server.Serve(m.t.Context(), ln) }()
	m.t.Cleanup(func() { <-served })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// connect starts the node and connects to it.
func (m *muteNode) connect() *node.Conn {
	m.t.Helper()
	at := m.serve()
	d := &node.Dialer{Name: "us@127.0.0.1", Cookie: "secret"}
	c, err := d.DialAddr(m.t.Context(), "mute@127.0.0.1", at)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// rex answers what the server rex of a node does.
func (m *muteNode) rex(c *node.Conn, msg node.Message) {
	call, ok := msg.Call()
	var asked struct {
		_                struct{} `erl:"call,tuple"`
		Module, Function etf.Atom
		Args             []etf.Raw
		Leader           etf.Raw
	}
	if !ok || call.Request.Unmarshal(&asked) != nil {
		m.t.Errorf("asked for %x", call.Request)
		return
	}
	var item etf.Atom
	if len(asked.Args) == 1 {
		asked.Args[0].Unmarshal(&item)
	}
	name := strings.TrimSpace(string(asked.Module) + ":" + string(asked.Function) + " " + string(item))
	m.mu.Lock()
	m.asked = append(m.asked, name)
	deaf := m.deaf
	m.mu.Unlock()
	if answer, ok := m.answer(name, asked.Args); ok && !deaf {
		if err := c.Reply(call, answer); err != nil {
			m.t.Errorf("%s: %v", name, err)
		}
	}
}

func (m *muteNode) answer(name string, args []etf.Raw) (answer any, ok bool) {
	switch name {
	case "erlang:memory":
		return nil, false
	case "erlang:processes":
		var pids []any
		for i := range m.infos {
			pids = append(pids, etf.Pid{Node: "mute@127.0.0.1", ID: uint32(i) + 1})
		}
		return pids, true
	case "lists:zipwith":
		var pids []etf.Pid
		var infos []any
		args[1].Unmarshal(&pids)
		for _, pid := range pids {
			infos = append(infos, m.infos[pid.ID-1])
		}
		return infos, !slices.Contains(infos, nil)
	case "erlang:process_info":
		var pid etf.Pid
		args[0].Unmarshal(&pid)
		return m.infos[pid.ID-1], m.infos[pid.ID-1] != nil
	case "erlang:statistics exact_reductions", "erlang:statistics context_switches", "erlang:statistics wall_clock":
		return etf.Tuple{1, 0}, true
	case "erlang:statistics garbage_collection":
		return etf.Tuple{1, 0, 0}, true
	case "erlang:statistics io":
		return etf.Tuple{etf.Tuple{etf.Atom("input"), 1}, etf.Tuple{etf.Atom("output"), 1}}, true
	case "erlang:system_info otp_release", "erlang:system_info version":
		return "25", true
	case "erlang:system_info emu_flavor":
		return etf.Atom("jit"), true
	case "erlang:nodes visible", "erlang:nodes hidden", "application:which_applications":
		return []any{}, true
	}
	return 42, true
}

// calls returns how often something was asked for since the last look.
func (m *muteNode) calls(name string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, asked := range m.asked {
		if asked == name {
			n++
		}
	}
	m.asked = nil
	return n
}

// TestPeekUnanswered looks at a node of 300 processes. One never answers, and the node never says
// how much memory it has. All else is shown, and what got no answer is asked for once.
func TestPeekUnanswered(t *testing.T) {
	need.Time(t)
	t.Parallel()
	wait.Rounds(t, func() error { // an answer has a second
		m := &muteNode{t: t, infos: slices.Repeat([]any{itemsOfProcess}, 300)}
		m.infos[150] = nil
		return m.peekTwice()
	})
}

func (m *muteNode) peekTwice() error {
	p := newPeeker(m.connect(), carrier{})
	for i := range 2 {
		began := time.Now()
		k, err := p.peek(m.t.Context())
		took := time.Since(began)
		switch {
		case err != nil:
			return err
		case k.Sampled != 299 || !slices.Equal(k.Mute, []string{"<0.151.0>"}) || !slices.Equal(k.Unanswered, []string{"memory"}):
			return fmt.Errorf("sampled %d, mute %q, unanswered %q", k.Sampled, k.Mute, k.Unanswered)
		case m.calls("erlang:memory") != 1-i:
			return fmt.Errorf("peek %d: asked for memory anew", i)
		case i > 0 && took > peekTime/2:
			return fmt.Errorf("the second peek took %v", took)
		}
		for _, inJSON := range []bool{true, false} {
			checkUnanswered(m.t, (&view{json: inJSON}).render(k), inJSON)
		}
	}
	return nil
}

func checkUnanswered(t *testing.T, out []byte, inJSON bool) {
	t.Helper()
	if !inJSON {
		if !bytes.Contains(out, []byte("memory       (no answer)\n")) || !bytes.Contains(out, []byte("mute         <0.151.0>: ")) ||
			!bytes.Contains(out, []byte("OTP 25")) || !bytes.Contains(out, []byte("busiest processes (299 of ")) {
			t.Errorf("shown: %s", out)
		}
		return
	}
	var fields map[string]any
	if err := json.Unmarshal(out, &fields); err != nil || fields["otp"] != "25" || fields["unanswered"] == nil || bytes.Contains(out, []byte(`\u003c`)) {
		t.Errorf("JSON: %s", out)
	}
	if _, has := fields["memory"]; has {
		t.Errorf("JSON has memory: %s", out)
	}
}

// TestPeekDeaf looks at a node that ceases to answer, and does again.
func TestPeekDeaf(t *testing.T) {
	need.Time(t)
	t.Parallel()
	m := &muteNode{t: t, infos: []any{itemsOfProcess}}
	v := &view{peeker: newPeeker(m.connect(), carrier{})}
	set := func(deaf bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.deaf = deaf
	}
	look := func() string {
		k, err := v.peeker.peek(t.Context())
		return string(v.next(k, err))
	}
	if out := look(); !strings.Contains(out, "OTP 25") || strings.Contains(out, "no answer since") {
		t.Errorf("answering: %s", out)
	}
	set(true)
	for range 2 {
		if out := look(); !strings.HasPrefix(out, "no answer since ") || !strings.Contains(out, "OTP 25") {
			t.Errorf("deaf: %s", out)
		}
	}
	v.json = true
	k, err := v.peeker.peek(t.Context())
	var fields map[string]any
	if out := v.next(k, err); json.Unmarshal(out, &fields) != nil || fields["v"] != 1.0 || fields["otp"] != nil || len(fields) != 3 {
		t.Errorf("deaf, JSON: %s", out)
	}
}
