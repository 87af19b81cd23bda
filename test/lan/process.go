package lan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"syscall"
)

// Process is a process on a host whose output is kept, all of it.
type Process struct {
	cmd  *exec.Cmd
	argv []string // without what enters the namespaces
	out  *output
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

// Start starts a command on the host. It runs until it ends, ctx does, or the network is closed.
func (h *Host) Start(ctx context.Context, name string, args ...string) (*Process, error) {
	return h.StartCmd(h.Command(ctx, name, args...))
}

// StartCmd is Start for what [Host.Command] returned and the caller has changed. Standard output
// and standard error are kept unless the caller has set them.
func (h *Host) StartCmd(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, argv: cmd.Args[slices.Index(cmd.Args, "--")+1:], out: newOutput(), done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.out
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %q on %s: %w", p.argv, h.name, err)
	}
	h.mu.Lock()
	h.processes = append(h.processes, p)
	h.mu.Unlock()
	go p.wait()
	return p, nil
}

// wait ends with the process; Host.join waits for it.
func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// join waits until the end of all processes has been noticed. It is for a host whose anchor has
// gone. It kills a process that entered the namespaces as they were swept.
func (h *Host) join() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.processes {
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
	}
}

// Pid returns the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the process has written so far.
func (p *Process) Output() string {
	return p.out.all()
}

// Wait waits for the process to end, and returns its error as exec.Cmd.Wait does.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %q to end: %w", p.argv, context.Cause(ctx))
	}
}

// Signal sends the process a signal. That it has ended already is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %q: %w", sig, p.argv, err)
	}
	return nil
}

// Stop sends SIGTERM and waits for the end, whose status [Process.Wait] tells.
func (p *Process) Stop(ctx context.Context) error { return p.end(ctx, syscall.SIGTERM) }

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill(ctx context.Context) error { return p.end(ctx, syscall.SIGKILL) }

func (p *Process) end(ctx context.Context, sig os.Signal) error {
	if err := p.Signal(sig); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := p.Wait(ctx); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// WaitOutput waits until the regular expression matches the process's output, and returns the match
// and its groups. It looks at all output from the start on, however often it is called. It looks at
// whole lines only. Text whose newline is still to come does not count before the process ends.
func (p *Process) WaitOutput(ctx context.Context, pattern string) ([]string, error) {
	return p.waitOutput(ctx, 0, pattern)
}

// waitOutput is WaitOutput for the output after the first from bytes.
func (p *Process) waitOutput(ctx context.Context, from int, pattern string) ([]string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for {
		text, changed := p.out.lines()
		if m := re.FindStringSubmatch(text[min(from, len(text)):]); m != nil {
			return m, nil
		}
		select {
		case <-changed:
		case <-p.done:
			return p.lastMatch(from, re)
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q from %q, which wrote %q: %w",
				re, p.argv, p.Output(), context.Cause(ctx))
		}
	}
}

// lastMatch looks at the output of a process that has ended.
func (p *Process) lastMatch(from int, re *regexp.Regexp) ([]string, error) {
	text := p.Output()
	if m := re.FindStringSubmatch(text[min(from, len(text)):]); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%q has ended (%v) without %q; it wrote %q", p.argv, p.err, re, text)
}

// output keeps what is written to it and tells those who wait for more.
type output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed by the next Write, which puts a new one in its place
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write implements io.Writer. It never fails.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *output) all() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// lines returns the text up to the last newline, and a channel that is closed when there is more.
func (o *output) lines() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text[:bytes.LastIndexByte(o.text, '\n')+1]), o.changed
}
