// Package probe is -ping. It goes the way to a node and has that answer.
//
// Ping connects to epmds and nodes by TCP. It blocks for some seconds at most.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/cmd/epmd/internal/way"
	"github.com/goerlang/eclus/node"
)

// How long steps may take. A node that is well takes milliseconds.
const (
	stepTime  = 3 * time.Second
	smallTime = time.Second // for an answer of a byte, by which a large one is judged
)

// jsonVersion is that of what is printed. It changes when a key goes or comes to mean something
// else.
const jsonVersion = 1

// Options say which node is to answer, and how that is shown.
type Options struct {
	Way    way.Options
	JSON   bool
	Screen screen.Screen // where Stdout leads
	Stdout io.Writer
}

// report is what is printed as JSON.
type report struct {
	Version int     `json:"v"`
	Node    string  `json:"node"`
	Pong    bool    `json:"pong"`
	Millis  float64 `json:"ms"`
	*way.Seen
}

// prober asks a node to which there is a connection.
type prober struct {
	way  *way.Way
	ping func(context.Context, *node.Conn) error
	// answer has the node answer with so many bytes.
	answer func(ctx context.Context, c *node.Conn, size int) error
}

// Ping goes the way to a node and shows each step. Its error is exit status 1 if there is no pong.
func Ping(ctx context.Context, o Options) error {
	var show func(way.Step)
	if !o.JSON {
		show = func(step way.Step) { printStep(o.Stdout, o.Screen, step) }
	}
	p := &prober{way.New(o.Way, show), func(ctx context.Context, c *node.Conn) error { return c.Ping(ctx) }, answerOf}
	began := time.Now()
	pong := p.way.Go(ctx) && p.ask(ctx)
	took := way.Millis(time.Since(began))
	if p.way.Conn != nil {
		p.way.Conn.Close()
	}
	if err := conclude(o, report{jsonVersion, o.Way.Node, pong, took, &p.way.Seen}); err != nil {
		return err
	}
	if !pong {
		return exit.Status(1)
	}
	return nil
}

// ask reports whether a node that has been reached answers.
func (p *prober) ask(ctx context.Context) bool {
	return p.way.Take(ctx, "ping", p.askPong) && p.way.Take(ctx, "large", p.askLarge)
}

// conclude prints what comes after the steps.
func conclude(o Options, r report) error {
	if o.JSON {
		text, err := json.Marshal(r)
		if err == nil {
			_, err = fmt.Fprintf(o.Stdout, "%s\n", screen.EscapeUnprintable(text))
		}
		return err
	}
	verdict, l := "pang", screen.Red
	if r.Pong {
		verdict, l = "pong", screen.Green
	}
	_, err := fmt.Fprintf(o.Stdout, "%s from %s after %.1f ms\n", o.Screen.Paint(verdict, l), screen.Printable(r.Node), r.Millis)
	return err
}

// printStep prints a step on a line, and advice below it.
func printStep(w io.Writer, s screen.Screen, step way.Step) {
	mark, l := "✓", screen.Green
	if !step.OK {
		mark, l = "✗", screen.Red
	}
	const indent = 23 // of what was found
	found := screen.Printable(step.Found)
	if columns := s.Columns(indent); columns > 0 {
		found = screen.Cut(found, columns)
	}
	took := fmt.Sprintf("%8.1f ms", step.Millis)
	fmt.Fprintf(w, "%s %-8s %s  %s\n", s.Paint(mark, l), step.Step, s.Paint(took, screen.Faint), found)
	for _, line := range step.Advice {
		fmt.Fprintf(w, "%*s%s\n", indent, "", screen.Printable(line))
	}
}

// askPong asks for a pong, as net_adm:ping/1 does.
func (p *prober) askPong(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	if err := p.ping(ctx, p.way.Conn); err != nil {
		if p.way.IsLibrary() {
			return "", way.Failed("connected, but no pong: "+err.Error(),
				"Name and cookie are right. A C or Java node answers pings only if its program answers what comes for net_kernel.")
		}
		return "", pingFailure(err)
	}
	return "pong", nil
}

// largeAnswer is how many bytes the last step asks for. It is more than the largest packets carry.
// Jumbo frames of 9,000 bytes are for networks that are known to take them.
const largeAnswer = 8192

// askLarge asks for a large answer. A path can lose large packets and let all small ones through.
// Then a node looks well until it has much to say. A node in another language may run no functions
// for others. It has nothing to say.
func (p *prober) askLarge(ctx context.Context) (string, error) {
	small, cancel := context.WithTimeout(ctx, smallTime)
	defer cancel()
	err := p.answer(small, p.way.Conn, 1)
	switch {
	case err != nil && tcp.IsClosed(err):
		return "", pingFailure(err)
	case err != nil && p.way.Identity.Flags&node.Spawn == 0, err != nil && !tcp.IsTimeout(err):
		return "no large answer to ask for: the node runs no functions for others", nil
	case err != nil:
		return "", way.Failed(err.Error(), "The node is connected, but starts no process for us: it is overloaded or hanging.")
	}
	large, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	if err := p.answer(large, p.way.Conn, largeAnswer); err != nil {
		return "", largeFailure(err)
	}
	return fmt.Sprintf("an answer of %d kB arrives", largeAnswer>>10), nil
}

// answerOf has the node send a binary of that size.
func answerOf(ctx context.Context, c *node.Conn, size int) error {
	raw, err := c.Call(ctx, "binary", "copy", []byte{0}, size)
	var raised *node.CallError
	if errors.As(err, &raised) { // an answer too
		return nil
	}
	var answer []byte
	if err == nil && (raw.Unmarshal(&answer) != nil || len(answer) != size) {
		err = fmt.Errorf("asked for %d bytes, got %d", size, len(answer))
	}
	return err
}

// pingFailure says what became of a ping over a connection that has been made.
func pingFailure(err error) error {
	switch {
	case errors.Is(err, node.ErrFirstMessage):
		return way.Failed(err.Error(),
			"The handshake and the cookie are right. The node may take only messages that begin with a distribution header, as some written in Go do: "+
				"epmd sends none, nor does a C node.")
	case tcp.IsClosed(err):
		return way.Failed(err.Error(), "The connection was closed after the cookie had been accepted. The node's log may say why.")
	case errors.Is(err, node.ErrPang):
		return way.Failed(err.Error(), "The node is connected, but its net_kernel does not take us for a node.")
	}
	return way.Failed(err.Error(), "The node is connected, but its net_kernel does not answer: it is overloaded or hanging.")
}

// largeFailure says what became of a large answer, where a small one has come.
func largeFailure(err error) error {
	found := fmt.Sprintf("an answer of %d kB does not arrive, though small ones do", largeAnswer>>10)
	if tcp.IsClosed(err) {
		return way.Failed(found+": "+err.Error(), "The node, or a firewall on the way, has closed the connection.")
	}
	if !tcp.IsTimeout(err) {
		return way.Failed(found + ": " + err.Error())
	}
	return way.Failed(found,
		"Large packets are lost on the way: an interface or a tunnel there takes smaller ones only (MTU), and a firewall drops the ICMP messages that would say so.",
		"See what passes with ping -M do -s 1472 HOST, smaller until it does. Let ICMP \"fragmentation needed\" pass, or lower the MTU on the node's host.")
}
