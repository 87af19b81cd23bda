package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/way"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/registry"
)

// TestAdvice asks connected nodes that answer in all ways that there is advice for.
func TestAdvice(t *testing.T) {
	reset := fmt.Errorf("read: %w", os.NewSyscallError("read", syscall.ECONNRESET))
	for _, tt := range []struct {
		name          string
		pong          error
		small, large  error
		foreign       bool // a node that runs no functions
		cNode         bool // a node of erl_interface
		step          string
		found, advice string
	}{
		{name: "well", step: "", found: "8 kB arrives"},
		{name: "no pong in time", pong: context.DeadlineExceeded, step: "ping", advice: "overloaded or hanging"},
		{name: "reset", pong: reset, step: "ping", found: "reset", advice: "closed after the cookie"},
		{name: "first message", pong: node.ErrFirstMessage, step: "ping", advice: "distribution header"},
		{name: "no pong", pong: node.ErrPang, step: "ping", advice: "does not take us for a node"},
		{name: "no pong from a C node", pong: context.DeadlineExceeded, cNode: true, step: "ping", found: "connected, but no pong", advice: "C or Java"},
		{name: "large answer lost", large: context.DeadlineExceeded, step: "large", found: "8 kB does not arrive", advice: "(?s)MTU.*ping -M do"},
		{name: "large answer closes", large: reset, step: "large", found: "reset", advice: "has closed the connection"},
		{name: "large answer wrong", large: errors.New("got 7 bytes"), step: "large", found: "got 7 bytes"},
		{name: "small answer closes", small: reset, step: "large", found: "reset", advice: "closed after the cookie"},
		{name: "small answer lost", small: context.DeadlineExceeded, step: "large", advice: "overloaded or hanging"},
		{name: "no functions", small: errors.New("rex has ended"), found: "no large answer"},
		{name: "a foreign node", small: context.DeadlineExceeded, foreign: true, found: "no large answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := way.New(way.Options{}, nil)
			if w.Identity.Flags = node.Spawn; tt.foreign {
				w.Identity.Flags = 0
			}
			if tt.cNode {
				w.Answer.Type = registry.CNode
			}
			p := &prober{way: w, ping: func(context.Context, *node.Conn) error { return tt.pong }}
			p.answer = func(_ context.Context, _ *node.Conn, size int) error {
				if size == 1 {
					return tt.small
				}
				return tt.large
			}
			answers := p.ask(t.Context())
			last := w.Steps[len(w.Steps)-1]
			if answers != (tt.step == "") || !answers && last.Step != tt.step {
				t.Fatalf("answers: %v, last %+v; want it to end at %q", answers, last, tt.step)
			}
			advice := strings.Join(last.Advice, "\n")
			if !regexp.MustCompile(tt.found).MatchString(last.Found) || !regexp.MustCompile(tt.advice).MatchString(advice) || answers && advice != "" {
				t.Errorf("found %q, advice %q; want %q, %q", last.Found, advice, tt.found, tt.advice)
			}
		})
	}
}

// serve runs an epmd of ours with a node b. It returns the epmd's port.
func serve(t *testing.T) uint16 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	listen := func() (*net.TCPListener, uint16) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l.(*net.TCPListener), l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	el, port := listen()
	nl, nodePort := listen()
	reg := registry.New("hosta.local", registry.OldNames)
	if _, err := reg.Register(registry.Node{Name: "b", Port: nodePort, Type: registry.Normal, High: 6, Low: 5}); err != nil {
		t.Fatal(err)
	}
	rex := func(c *node.Conn, msg node.Message) {
		call, _ := msg.Call()
		var asked struct {
			_                struct{} `erl:"call,tuple"`
			Module, Function etf.Atom
			Args             []etf.Raw
			Leader           etf.Raw
		}
		var size int
		if call.Request.Unmarshal(&asked) != nil || len(asked.Args) != 2 || asked.Args[1].Unmarshal(&size) != nil {
			t.Errorf("asked for %x", call.Request)
		}
		if err := c.Reply(call, make([]byte, size)); err != nil {
			t.Errorf("answer of %d bytes: %v", size, err)
		}
	}
	server := &node.Server{Name: "b@127.0.0.1", Cookie: "secret", Options: node.Options{Processes: map[etf.Atom]node.Handler{"rex": rex}}}
	served := make(chan error, 2)
	go func() { served <- epmd.NewServer(epmd.Config{Registry: reg, Port: port}).Serve(ctx, el) }()
	go func() { served <- server.Serve(ctx, nl) }()
	t.Cleanup(func() {
		cancel()
		<-served
		<-served
	})
	return port
}

// TestPing goes the way to nodes of this host that are known or not.
func TestPing(t *testing.T) {
	port := serve(t)
	for _, name := range []string{"b", "c"} {
		for _, inJSON := range []bool{false, true} {
			var out strings.Builder
			err := Ping(t.Context(), Options{
				Way: way.Options{
					Node: name + "@127.0.0.1", Port: port, HostName: "hosta",
					Getenv: func(variable string) (string, bool) { return "secret", variable == cookie.Variable },
				},
				JSON: inJSON, Stdout: &out,
			})
			pong := name == "b"
			if (err == nil) != pong || !pong && err != exit.Status(1) {
				t.Errorf("%s: %v\n%s", name, err, &out)
			}
			if inJSON {
				checkJSON(t, out.String(), pong)
			} else if want := map[bool]string{true: "pong from b@127.0.0.1 after ", false: "pang from c@127.0.0.1 after "}[pong]; !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, &out)
			}
		}
	}
}

func checkJSON(t *testing.T, text string, pong bool) {
	t.Helper()
	var r report
	if err := json.Unmarshal([]byte(text), &r); err != nil || r.Version != 1 || r.Pong != pong || r.Address != "127.0.0.1" {
		t.Errorf("%v in %s", err, text)
	}
	want := "name resolve epmd lookup"
	if pong {
		want += " connect identify cookie ping large"
	}
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.Step)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("steps %q, want %q", got, want)
	}
}
