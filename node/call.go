package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/goerlang/eclus/node/etf"
)

const (
	netKernel etf.Atom = "net_kernel"
	genCall   etf.Atom = "$gen_call"
	isAuth    etf.Atom = "is_auth"
	atomYes   etf.Atom = "yes"
	atomError etf.Atom = "error"
)

// ErrPang is the error of a node whose net_kernel does not answer a ping with yes.
var ErrPang = errors.New("node answers, but not with a pong")

var errNotSupported = errors.New("node does not spawn for us")

// outcome is what became of something asked under a reference.
type outcome struct {
	term    etf.Raw // exit reason or, if reply is set, the answer
	reply   bool
	refused etf.Atom // why nothing was spawned
	err     error    // why the connection has ended; then there is nothing else
}

// waiter waits for the outcome of one reference.
type waiter struct {
	deliver func(outcome) // called once at most; must not block
	process any           // what is monitored, Pid or Atom; nil as long as that is not known
}

// wait makes a reference, with whose outcome deliver is called.
func (c *Conn) wait(process any, deliver func(outcome)) (etf.Ref, error) {
	const firstBits = 18 // of a reference's first word, before OTP 24
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return etf.Ref{}, c.Err()
	}
	c.refs++
	ref := etf.Ref{Node: c.pid.Node, Creation: c.pid.Creation, Len: 3,
		ID: [5]uint32{uint32(c.refs & (1<<firstBits - 1)), uint32(c.refs >> firstBits)}}
	c.waiting[ref] = &waiter{deliver, process}
	return ref, nil
}

// deliver ends a wait. It returns false if nobody waits.
func (c *Conn) deliver(ref etf.Ref, o outcome) bool {
	w := c.take(ref)
	if w == nil {
		return false
	}
	w.deliver(o)
	return true
}

func (c *Conn) take(ref etf.Ref) *waiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.waiting[ref]
	delete(c.waiting, ref)
	return w
}

// waitsFor reports whether somebody waits for the outcome of ref.
func (c *Conn) waitsFor(ref etf.Ref) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting[ref] != nil
}

// found says that ref stands for a monitor of pid.
func (c *Conn) found(ref etf.Ref, pid etf.Pid) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.waiting[ref]; w != nil {
		w.process = pid
	}
}

// release ends all waits and links: the connection has ended.
func (c *Conn) release() {
	c.mu.Lock()
	waiting, links := c.waiting, c.links
	c.waiting, c.links = nil, nil
	c.mu.Unlock()
	for _, l := range links {
		l.down <- Down{Err: c.Err()}
	}
	for _, w := range waiting {
		w.deliver(outcome{err: c.Err()})
	}
}

// abandon ends a wait here and at the peer. Nobody wants its outcome any more.
func (c *Conn) abandon(ref etf.Ref) {
	if w := c.take(ref); w != nil && w.process != nil {
		c.demonitor(w.process, ref)
	}
}

func (c *Conn) demonitor(process any, ref etf.Ref) {
	m, err := encodeMessage(etf.Tuple{opDemonitor, c.pid, process, ref})
	if err != nil {
		return
	}
	c.account.add(c, len(m))
	select {
	case c.out <- m: // after the message that began the monitoring
	default: // what comes of it will be ignored
		c.account.add(c, -len(m))
	}
}

// ask makes a reference, sends what message makes of it, and waits for the outcome.
func (c *Conn) ask(ctx context.Context, process any, message func(etf.Ref) ([]byte, error)) (outcome, error) {
	done := make(chan outcome, 1)
	ref, err := c.wait(process, func(o outcome) { done <- o })
	if err != nil {
		return outcome{}, err
	}
	defer c.abandon(ref)
	m, err := message(ref)
	if err := c.send(ctx, m, err); err != nil {
		return outcome{}, err
	}
	select {
	case o := <-done:
		if o.reply && process != nil {
			c.demonitor(process, ref)
		}
		return o, o.err
	case <-ctx.Done():
		return outcome{}, context.Cause(ctx)
	}
}

// CallError says that a function called in a node did not return.
type CallError struct {
	Module, Function string
	Class            string  // "error", "exit", "throw", or "badrpc" from a node that has no erpc
	Reason           etf.Raw // what was raised
	Stack            etf.Raw // the stack trace, for an error; else nil
}

// Error names the function and the class. It names the reason if that is, or begins with, a short
// atom.
func (e *CallError) Error() string {
	return fmt.Sprintf("%s:%s: %.16q: %s", e.Module, e.Function, e.Class, brief(e.Reason))
}

// brief returns an atom, or the one that a tuple begins with, quoted.
func brief(t etf.Raw) string {
	var v any
	if err := decodeRaw(t, &v); err != nil {
		return "unreadable reason"
	}
	if tuple, ok := v.(etf.Tuple); ok && len(tuple) > 0 {
		v = tuple[0]
	}
	if atom, ok := v.(etf.Atom); ok {
		return fmt.Sprintf("%.64q", string(atom))
	}
	return fmt.Sprintf("reason of %d bytes", len(t))
}

// Call calls a function in the node, as erpc:call/4 does, and returns its result. An exception is
// a [*CallError]. When ctx ends, Call does; the function goes on, as it would for a node. The
// node should have the module and the function: each name that it does not know yet costs it an
// atom for good.
//
// The function runs in a process of its own, whose group leader is the Conn. What it writes to
// its standard output is refused. The node logs nothing of it.
func (c *Conn) Call(ctx context.Context, module, function string, args ...any) (etf.Raw, error) {
	result, err := etf.Raw(nil), errNotSupported
	if c.them.flags&Spawn != 0 {
		result, err = c.callSpawned(ctx, module, function, args)
	}
	if errors.Is(err, errNotSupported) {
		result, err = c.callRex(ctx, module, function, args)
	}
	if raised := (*CallError)(nil); errors.As(err, &raised) {
		raised.Module, raised.Function = module, function
		return nil, raised
	}
	if err != nil {
		return nil, fmt.Errorf("call %s:%s at %q: %w", module, function, c.them.name, err)
	}
	return result, nil
}

// callSpawned spawns and monitors erpc:execute_call/4. That exits with what became of the call.
func (c *Conn) callSpawned(ctx context.Context, module, function string, args []any) (etf.Raw, error) {
	o, err := c.ask(ctx, nil, func(ref etf.Ref) ([]byte, error) {
		entry := etf.Tuple{etf.Atom("erpc"), etf.Atom("execute_call"), 4}
		return encodeMessage(etf.Tuple{opSpawnRequest, ref, c.pid, c.pid, entry, []any{atomMonitor}},
			[]any{ref, etf.Atom(module), etf.Atom(function), args})
	})
	switch {
	case err != nil:
		return nil, err
	case o.refused == atomNotSup:
		return nil, errNotSupported
	case o.refused != "":
		return nil, fmt.Errorf("node does not spawn: %q", string(o.refused))
	}
	return returned(o.term)
}

// returned takes apart the exit reason of erpc:execute_call/4. It is {Ref, return, Result}, {Ref,
// Class, Reason} or {Ref, error, Reason, Stack}. A process that was killed has another.
func returned(reason etf.Raw) (etf.Raw, error) {
	var short struct {
		_     struct{} `erl:",tuple"`
		Ref   etf.Ref
		Class etf.Atom
		Value etf.Raw
	}
	var long struct {
		_             struct{} `erl:",tuple"`
		Ref           etf.Ref
		Class         etf.Atom
		Reason, Stack etf.Raw
	}
	switch {
	case decodeRaw(reason, &short) == nil && short.Class == "return":
		return short.Value, nil
	case short.Value != nil:
		return nil, &CallError{Class: string(short.Class), Reason: short.Value}
	case decodeRaw(reason, &long) == nil:
		return nil, &CallError{Class: string(long.Class), Reason: long.Reason, Stack: long.Stack}
	}
	return nil, &CallError{Class: "exit", Reason: reason}
}

// callRex asks the server rex, which runs a function for any node.
func (c *Conn) callRex(ctx context.Context, module, function string, args []any) (etf.Raw, error) {
	reply, err := c.callServer(ctx, "rex", etf.Tuple{etf.Atom("call"), etf.Atom(module), etf.Atom(function), args, c.pid})
	if err != nil {
		return nil, err
	}
	var bad struct {
		_      struct{} `erl:"badrpc,tuple"`
		Reason etf.Raw
	}
	if decodeRaw(reply, &bad) == nil {
		return nil, &CallError{Class: "badrpc", Reason: bad.Reason}
	}
	return reply, nil
}

// callServer does what gen_server:call/2 does with a server registered under name.
func (c *Conn) callServer(ctx context.Context, name etf.Atom, request any) (etf.Raw, error) {
	o, err := c.ask(ctx, name, func(ref etf.Ref) ([]byte, error) {
		m, err := encodeMessage(etf.Tuple{opMonitor, c.pid, name, ref})
		if err != nil {
			return nil, err
		}
		asked, err := encodeMessage(etf.Tuple{opRegSend, c.pid, etf.Atom(""), name}, etf.Tuple{genCall, etf.Tuple{c.pid, ref}, request})
		return append(m, asked...), err
	})
	if err == nil && !o.reply {
		err = fmt.Errorf("%s has ended: %s", name, brief(o.term))
	}
	return o.term, err
}

// CallServer does what gen_server:call/2 does with the peer's server of that name. It returns the
// reply. If there is no such server, that is an error.
func (c *Conn) CallServer(ctx context.Context, name etf.Atom, request any) (etf.Raw, error) {
	reply, err := c.callServer(ctx, name, request)
	if err != nil {
		return nil, fmt.Errorf("call %q at %q: %w", string(name), c.them.name, err)
	}
	return reply, nil
}

// Ping does what net_adm:ping/1 does. The error is [ErrPang] if the node's net_kernel answers
// otherwise.
func (c *Conn) Ping(ctx context.Context) error {
	reply, err := c.callServer(ctx, netKernel, etf.Tuple{isAuth, c.pid.Node})
	var answer etf.Atom
	if err == nil && (decodeRaw(reply, &answer) != nil || answer != atomYes) {
		err = ErrPang
	}
	if err != nil {
		return fmt.Errorf("ping %q: %w", c.them.name, err)
	}
	return nil
}
