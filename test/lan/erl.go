package lan

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

//go:embed evaluator.erl
var evaluator string

// EvaluatorPath is where hosts have the evaluator, which nodes run.
const EvaluatorPath = "/run/evaluator.erl"

// Erl is an Erlang node on a host. Stop ends it in good order, by SIGTERM, and Kill as a crash
// does.
type Erl struct {
	*Process
	stdin io.WriteCloser

	mu    sync.Mutex
	asked int
}

// StartErl starts erl without a shell and returns when it has booted. Its distribution is
// registered then, if args ask for one (-name, -sname). The cookie is in the host's Home.
// Environment variables can be set with erl's own -env NAME VALUE. Unless args say -start_epmd
// false, erl itself runs epmd -daemon.
func (h *Host) StartErl(ctx context.Context, args ...string) (*Erl, error) {
	return h.StartErlBy(ctx, []string{"erl"}, args...)
}

// StartErlBy is StartErl by another command, which erl's arguments follow. One that runs erl in a
// container has to show it EvaluatorPath.
func (h *Host) StartErlBy(ctx context.Context, command []string, args ...string) (*Erl, error) {
	// ctx bounds the boot; the node lives on.
	script := fmt.Sprintf("file:script(%q).", EvaluatorPath)
	args = slices.Concat(command[1:], []string{"-noshell", "-eval", script}, args)
	cmd := h.Command(context.WithoutCancel(ctx), command[0], args...)
	cmd.Env = append(cmd.Env, "ERL_CRASH_DUMP_SECONDS=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p, err := h.StartCmd(cmd)
	if err != nil {
		return nil, err
	}
	e := &Erl{Process: p, stdin: stdin}
	if _, err := e.WaitOutput(ctx, `(?m)^=lan 0 up`); err != nil {
		return nil, fmt.Errorf("boot node on %s: %w", h.name, err)
	}
	return e, nil
}

// Eval evaluates Erlang expressions, such as `X = node(), {X, nodes()}.`. It returns the value of
// the last, as io:format shows it with ~0tp. Variables are forgotten in between. An exception is an
// error that tells class and reason.
func (e *Erl) Eval(ctx context.Context, expressions string) (string, error) {
	number, err := e.ask(expressions)
	if err != nil {
		return "", fmt.Errorf("evaluate %q: %w", expressions, err)
	}
	m, err := e.WaitOutput(ctx, fmt.Sprintf(`(?m)^=lan %d (ok|error) (.*)$`, number))
	if err != nil {
		return "", fmt.Errorf("evaluate %q: %w", expressions, err)
	}
	if m[1] == "error" {
		return "", fmt.Errorf("evaluate %q: %s", expressions, m[2])
	}
	return m[2], nil
}

// ask sends expressions to the node in one line, and returns the number that the answer will have.
func (e *Erl) ask(expressions string) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	_, err := io.WriteString(e.stdin, strings.ReplaceAll(expressions, "\n", " ")+"\n")
	return e.asked, err
}
