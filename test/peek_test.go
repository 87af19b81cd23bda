package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// peeked is what is looked at here of what -peek -json prints.
type peeked struct {
	V                     int
	Node, OTP             string
	Processes, ETS, Atoms struct{ Count, Limit int }
	Memory                map[string]int
	Rates                 struct{ Over, Reductions float64 }
	Applications          []struct{ Name, Version string }
	Nodes                 []string
	Hidden                []string `json:"hidden_nodes"`
	Sampled               int
	ByMemory              []sampled `json:"by_memory"`
	ByMessages            []sampled `json:"by_messages"`
}

type sampled struct {
	PID, Name, Function string
	Memory, Messages    int
}

func (h *host) peek(t *testing.T, node string) (p peeked) {
	t.Helper()
	out := h.ask(t, "-peek", node, "-json")
	checkShown(t, "epmd -peek -json", out)
	if err := json.Unmarshal([]byte(out), &p); err != nil || p.V != 1 || p.Node != node {
		t.Fatalf("epmd -peek %s -json prints %s: %v", node, out, err)
	}
	return p
}

// TestLANPeek looks at a node of another host, with little in it and with much.
func TestLANPeek(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	seen := a.watch(t)
	node := b.erl(t, "-name", "b@hostb.local")
	seen.until(t, present("b@hostb.local", sure)) // the epmd on B has asked it for its name
	other := b.erl(t, "-name", "c@hostb.local")
	eval(t, other, "net_adm:ping('b@hostb.local').", "pong")
	eval(t, node, "net_kernel:monitor_nodes(true).", "ok")
	value(t, node, `P = spawn(fun() -> receive stop -> ok end end), register('evil\e[31m', P), [P ! x || _ <- lists:seq(1, 7)], ok.`)
	wait.Rounds(t, func() error { return checkPeeked(a.peek(t, "b@hostb.local")) })
	shown := a.ask(t, "-peek", "b@hostb.local")
	checkShown(t, "epmd -peek", shown)
	if !regexp.MustCompile(`(?m)^messages .* 7 .* evil\?\[31m, `).MatchString(shown) {
		t.Errorf("epmd -peek shows\n%s", shown)
	}

	atoms := a.peek(t, "b@hostb.local").Atoms
	var took []time.Duration
	for range 20 {
		began := time.Now()
		a.peek(t, "b@hostb.local")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a peek takes %v (median of %d, with the start of the program)", took[len(took)/2].Round(time.Millisecond), len(took))
	if after := a.peek(t, "b@hostb.local").Atoms; after != atoms {
		t.Errorf("%v atoms after 20 peeks, %v before", after, atoms)
	}
	eval(t, node, "erlang:process_info(self(), messages).", "{messages,[]}")
	checkSilent(t, node)

	t.Run("large", func(t *testing.T) { testPeekLarge(t, a, node) })
	t.Run("watch", func(t *testing.T) { testPeekWatch(t, a, b) })
	a.refused(t, `lookup: "nobody" is not registered`, eclusBinary(t), "-peek", "nobody@hostb.local")
}

// checkPeeked returns an error unless the node has told all of itself. An answer has a second.
func checkPeeked(p peeked) error {
	if p.OTP == "" || p.Processes.Count < 30 || p.Processes.Limit < 1000 || p.Memory["total"] < 1e6 || p.Rates.Reductions <= 0 ||
		!slices.Equal(p.Nodes, []string{"c@hostb.local"}) || len(p.Hidden) > 0 || p.Sampled < p.Processes.Count/2 ||
		!slices.ContainsFunc(p.Applications, func(a struct{ Name, Version string }) bool { return a.Name == "kernel" && a.Version != "" }) {
		return fmt.Errorf("got %+v", p)
	}
	// OTP's own processes may have a message at that moment.
	if len(p.ByMessages) == 0 || p.ByMessages[0].Messages != 7 || p.ByMessages[0].Name != "evil\x1b[31m" {
		return fmt.Errorf("by messages: %+v", p.ByMessages)
	}
	return nil
}

// testPeekLarge looks at a node with many processes and rows.
func testPeekLarge(t *testing.T, a *host, node *lan.Erl) {
	value(t, node, `T = ets:new(rows, [public]), [ets:insert(T, {I, "row"}) || I <- lists:seq(1, 100000)], [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 50000)], ok.`)
	var took []time.Duration
	var p peeked
	for range 10 {
		began := time.Now()
		p = a.peek(t, "b@hostb.local")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("a peek at %d processes takes %v and looks at %d of them", p.Processes.Count, took[len(took)/2].Round(time.Millisecond), p.Sampled)
	wait.Until(t, "a peek that has time for all", func() error {
		if p = a.peek(t, "b@hostb.local"); p.Sampled < 1000 { // a slow node is asked less
			return fmt.Errorf("%d processes are sampled", p.Sampled)
		}
		return nil
	})
	if p.Processes.Count < 50_000 || p.Memory["ets"] < 1e6 || p.Sampled > 2000 {
		t.Errorf("got %+v", p)
	}
}

// testPeekWatch watches a node on terminals. Each is as it was when its watch has ended, by a
// signal or by the node's death. A host has one watch at a time: a node has one connection to each
// name.
func testPeekWatch(t *testing.T, a, b *host) {
	victim := b.erl(t, "-name", "victim@hostb.local")
	byTerm, byInt := watchPeek(t, a), watchPeek(t, b)
	byTerm.awaitFrames(t)
	wait.Must(t, byTerm.cmd.Process.Signal(syscall.SIGTERM))
	byTerm.checkEnd(t, "SIGTERM", false)
	byDeath := watchPeek(t, a)
	byInt.awaitFrames(t)
	wait.Must(t, byInt.cmd.Process.Signal(syscall.SIGINT))
	byInt.checkEnd(t, "SIGINT", false)
	byDeath.awaitFrames(t)
	wait.Must(t, victim.Kill(wait.Soon(t)))
	byDeath.checkEnd(t, "node", true)
}

// peekWatch is an epmd -peek -watch of victim@hostb.local on a terminal of 12 lines.
type peekWatch struct {
	cmd    *exec.Cmd
	master *os.File
	frames chan struct{} // gets an element for each frame that is drawn
	shown  chan string   // gets all that was shown, when the watch has ended
}

func watchPeek(t *testing.T, h *host) *peekWatch {
	t.Helper()
	master, slave := openTerminal(t, unix.Winsize{Row: 12, Col: 60})
	w := &peekWatch{
		cmd:    h.Command(t.Context(), eclusBinary(t), "-peek", "victim@hostb.local", "-watch"),
		master: master,
		frames: make(chan struct{}, 100),
		shown:  make(chan string, 1),
	}
	w.cmd.Env = append(w.cmd.Env, "TERM=xterm")
	w.cmd.Stdout, w.cmd.Stderr = slave, slave
	wait.Must(t, w.cmd.Start())
	slave.Close()
	go w.read()
	return w
}

// read reads the terminal until nobody has it open any more.
func (w *peekWatch) read() {
	var all strings.Builder
	buf := make([]byte, 64<<10)
	for {
		n, err := w.master.Read(buf)
		all.Write(buf[:n])
		for range strings.Count(string(buf[:n]), "\x1b[H") {
			w.frames <- struct{}{}
		}
		if err != nil {
			w.shown <- all.String()
			return
		}
	}
}

// checkEnd waits for the end of the watch and looks at all that was drawn. failed says whether the
// command fails, and says why.
func (w *peekWatch) checkEnd(t *testing.T, end string, failed bool) {
	t.Helper()
	err := w.cmd.Wait()
	if _, exit := err.(*exec.ExitError); exit != failed {
		t.Errorf("%s: ended with %v", end, err)
	}
	out := <-w.shown
	w.master.Close()
	const enter, leave = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
	if strings.Count(out, enter) != 1 || strings.Count(out, leave) != 1 || !strings.HasPrefix(out, enter) {
		t.Errorf("%s: the terminal was told %q", end, out)
	}
	if rest := out[strings.Index(out, leave)+len(leave):]; failed != strings.Contains(rest, "epmd: ") {
		t.Errorf("%s: at last %q", end, rest)
	}
	for _, frame := range strings.Split(strings.Split(out, leave)[0], "\x1b[H")[1:] {
		if lines := strings.Count(frame, "\n"); lines > 11 {
			t.Errorf("%s: a frame of %d lines on 12: %q", end, lines, frame)
		}
	}
}

// awaitFrames waits until two frames have been drawn.
func (w *peekWatch) awaitFrames(t *testing.T) {
	t.Helper()
	for range 2 {
		select {
		case <-w.frames:
		case <-wait.Soon(t).Done():
			t.Fatal("nothing is drawn")
		}
	}
}
