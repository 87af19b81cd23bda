package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// explanation is a line that the epmd of OTP does not write.
var explanation = regexp.MustCompile(`(?m)^epmd: (nothing listens on port|port) \d+ .*\n`)

// unexplained returns r without what our commands add about an epmd that does not answer.
func (r result) unexplained() result {
	r.stderr = explanation.ReplaceAllString(r.stderr, "")
	return r
}

// listener is this test as one that has a port. It does with each connection what it is told to,
// and closes it.
func listener(t *testing.T, address string, port uint16, serve func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	need.Possible(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
}

// say returns what a listener does that sends text after the request.
func say(text string) func(net.Conn) {
	return func(c net.Conn) {
		c.Read(make([]byte, 16))
		io.WriteString(c, text)
	}
}

// asking are the commands that ask the epmd of this host something, but for -started.
var asking = [][]string{{"-names"}, {"-dump"}, {"-kill"}, {"-stop", "a"}, {"-nodes"}, {"-nodes", "-json", "-watch"}}

// checkExplained runs all of asking. What each writes to stderr has to end with want, and -started
// has to be silent.
func checkExplained(t *testing.T, port uint16, want string) {
	t.Helper()
	for _, args := range asking {
		got := command(t, eclusBinary(t), port, args...)
		if !regexp.MustCompile(`(^|\n)epmd: `+want+`\n$`).MatchString(got.stderr) || strings.ContainsFunc(got.stderr, isControl) {
			t.Errorf("%q: got %v; want stderr to end with %q and to have no control characters", args, got, want)
		}
	}
	if got := command(t, eclusBinary(t), port, "-started"); got.stderr != "" || got.stdout != "" {
		t.Errorf("-started: got %v; want silence", got)
	}
}

func isControl(r rune) bool { return r < ' ' && r != '\n' }

func TestExplainNobody(t *testing.T) {
	port := freePort(t)
	checkExplained(t, port, fmt.Sprintf(`nothing listens on port %d \(is epmd\.socket enabled\? start one with: epmd -port %[1]d -daemon\)`, port))
}

// TestExplainOther has other programs at the port: none of their bytes may be taken for an epmd's.
func TestExplainOther(t *testing.T) {
	for name, text := range map[string]string{
		"closes":  "",
		"banner":  "SSH-2.0-\x1b[31mOpenSSH\r\n",
		"web":     "HTTP/1.1 400 Bad Request\r\n\r\n",
		"letters": "\x1b\x1b\x1b\x1b\x1b\x1b\x1b\x1b",
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			listener(t, "127.0.0.1", port, say(text))
			checkExplained(t, port, fmt.Sprintf(`port %d is held by \S+ \(pid %d, user .*\), which does not answer as an epmd`, port, os.Getpid()))
		})
	}
}

// TestExplainUnwilling asks an epmd of OTP what it does not do.
func TestExplainUnwilling(t *testing.T) {
	need.Program(t, stockEpmd)
	d := startEpmd(t, stockEpmd)
	for args, want := range map[string]string{
		"-nodes":  "an epmd that does not know -nodes, like the one of Erlang/OTP",
		"-stop a": "an epmd that does not grant -stop: it takes one started with -relaxed_command_check",
	} {
		got := command(t, eclusBinary(t), d.port, strings.Fields(args)...)
		begin := fmt.Sprintf("epmd: port %d is held by epmd (pid %d, user ", d.port, d.cmd.Process.Pid)
		if !strings.Contains(got.stderr, begin) || !strings.HasSuffix(got.stderr, want+"\n") {
			t.Errorf("%s: got %v; want %q and %q in stderr", args, got, begin, want)
		}
	}
}

// TestExplainBetter has another program where nodes look first, and an epmd where they look second.
func TestExplainBetter(t *testing.T) {
	port := freePort(t)
	listener(t, "127.0.0.1", port, say(""))
	listener(t, "::1", port, say(string(epmd.Names{EPMDPort: uint32(port)}.Append(nil))))
	checkExplained(t, port, fmt.Sprintf(`an epmd answers on \[::1\]:%d, but nodes look for it on 127\.0\.0\.1:%[1]d first`, port))
}

// TestExplainLate asks one that takes its time. That is explained meanwhile, and the answer is
// printed all the same.
func TestExplainLate(t *testing.T) {
	port := freePort(t)
	enough := make(chan struct{})
	listener(t, "127.0.0.1", port, func(c net.Conn) {
		<-enough
		say(string(epmd.Names{EPMDPort: uint32(port)}.Append(nil)))(c)
	})
	var stdout, stderr wait.Output
	dump := exec.CommandContext(t.Context(), eclusBinary(t), "-port", fmt.Sprint(port), "-dump")
	dump.Stdout, dump.Stderr = &stdout, &stderr
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "explained", func() error {
		if got := stderr.String(); !strings.HasSuffix(got, "), which has not answered yet\n") {
			return fmt.Errorf("stderr %q", got)
		}
		return nil
	})
	if got := stdout.String(); got != "" {
		t.Errorf("printed before there was an answer: %q", got)
	}
	close(enough)
	err := dump.Wait()
	if want := fmt.Sprintf("epmd: up and running on port %d with data:\n", port); err != nil || stdout.String() != want {
		t.Errorf("got %q, %v; want %q", stdout.String(), err, want)
	}
}

// TestExplainElsewhere listens on an address of this host that nodes of this host don't look at.
func TestExplainElsewhere(t *testing.T) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	global := slices.IndexFunc(addrs, func(a net.Addr) bool { return a.(*net.IPNet).IP.IsGlobalUnicast() })
	if global < 0 {
		need.Possible(t, errors.New("this host has no address but loopback"))
	}
	address, port := addrs[global].(*net.IPNet).IP.String(), freePort(t)
	listener(t, address, port, say(""))
	checkExplained(t, port, fmt.Sprintf(`nothing listens on port %d of the loopback interface, where nodes look; on %s \S+ \(pid %d, user .*\) does`,
		port, regexp.QuoteMeta(address), os.Getpid()))
}

// TestExplainRedirected has a packet filter redirect the port, to a program and to nobody, and drop
// its packets.
func TestExplainRedirected(t *testing.T) {
	t.Parallel()
	lan.Need(t, "nft")
	h := loopback(t)
	other := h.serve(t, func(conn net.Conn) { fmt.Fprint(conn, "220 smtp\r\n") })
	redirect := fmt.Sprintf("table inet test { chain one { type nat hook output priority -100; tcp dport 4369 redirect to :%d; }; }", other)
	for rules, want := range map[string]string{
		redirect: "epmd: port 4369 is redirected to something that does not answer as an epmd",
		"table inet test { chain one { type filter hook output priority 0; tcp dport 4369 drop; }; }": "epmd: nothing listens on port 4369, and a packet filter drops connections to it",
		"": "epmd: nothing listens on port 4369 (is epmd.socket enabled?",
	} {
		_, err := h.Output(wait.Soon(t), "nft", "flush ruleset; "+rules)
		wait.Must(t, err)
		if got := firstComplaint(t, h); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %q; want %q", rules, got, want)
		}
	}
}

// firstComplaint runs epmd -nodes on a host until it has explained something, and returns that
// line.
func firstComplaint(t *testing.T, h *host) string {
	t.Helper()
	p, err := h.Start(wait.Soon(t), eclusBinary(t), "-nodes")
	wait.Must(t, err)
	defer p.Kill(wait.Soon(t))
	line, err := p.WaitOutput(wait.Soon(t), `(?m)^(epmd: (?:port|nothing) .*)$`)
	wait.Must(t, err)
	return line[1]
}
