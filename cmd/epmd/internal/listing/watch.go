package listing

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

const (
	firstReconnect = 50 * time.Millisecond // systemd starts epmd again within 20 ms
	lastReconnect  = 2 * time.Second
	returnTime     = 5 * time.Second // OTP's nodes register again 2 s after epmd has gone
)

// watcher prints every change that the local epmd tells of. When the epmd ends, the watcher
// connects to its successor. It prints what has changed since.
type watcher struct {
	port    uint16
	known   *knownNodes
	missing map[nodeKey]bool // of known: the successor does not have them yet
	printer nodePrinter
	out     *bufio.Writer
	stderr  io.Writer
}

// run returns with ctx, when the output can't be written, or when an epmd's lines can't be read.
func (w *watcher) run(ctx context.Context, lines *epmd.Lines) error {
	for {
		if err := w.follow(ctx, lines); !isHangUp(err) {
			return fmt.Errorf("watch nodes: %w", err)
		}
		fmt.Fprintf(w.stderr, "epmd: connection to the epmd on port %d lost, waiting for it\n", w.port)
		next, fresh, err := w.reconnect(ctx)
		if err != nil {
			return fmt.Errorf("watch nodes: %w", err)
		}
		fmt.Fprintf(w.stderr, "epmd: connected to the epmd on port %d again\n", w.port)
		w.catchUp(fresh)
		lines = next
	}
}

// isHangUp reports whether the epmd has ended, or has cut off a slow watcher.
func isHangUp(err error) bool {
	var broken *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &broken)
}

// follow prints changes until an error, which it returns. It closes lines.
func (w *watcher) follow(ctx context.Context, lines *epmd.Lines) error {
	type result struct {
		line epmd.Line
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer lines.Close()
	defer cancel()
	reading.Go(func() {
		for err := error(nil); err == nil; {
			var line epmd.Line
			line, err = lines.Next()
			select {
			case results <- result{line, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	returned := time.NewTimer(returnTime)
	defer returned.Stop()
	for {
		if err := w.out.Flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-results:
			if r.err != nil {
				return r.err
			}
			if err := w.apply(r.line); err != nil {
				return err
			}
		case <-returned.C:
			w.dropMissing()
		}
	}
}

// reconnect returns the lines of the next epmd at the port, and the nodes that it knows.
func (w *watcher) reconnect(ctx context.Context) (*epmd.Lines, *knownNodes, error) {
	for wait := firstReconnect; ; wait = min(2*wait, lastReconnect) {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		lines, err := epmd.NewLocalClient(w.port).Watch(ctx)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		if fresh, err := readSnapshot(lines, Filter{}); err == nil {
			return lines, fresh, nil
		}
		lines.Close()
	}
}

// catchUp prints what differs from what was known. Nodes that the epmd lacks have 5 s to register
// or be found again.
func (w *watcher) catchUp(fresh *knownNodes) {
	for key := range w.known.nodes {
		if _, found := fresh.nodes[key]; !found {
			w.missing[key] = true
		}
	}
	for _, n := range fresh.listed() {
		w.set(n)
	}
}

// dropMissing prints as gone the nodes that have not come back.
func (w *watcher) dropMissing() {
	gone := knownNodes{nodes: make(map[nodeKey]registry.Node)}
	for key := range w.missing {
		gone.nodes[key] = w.known.nodes[key]
	}
	for _, n := range gone.listed() {
		w.remove(n)
	}
}

// apply takes in the change of a line. It prints the change if the node is shown.
func (w *watcher) apply(line epmd.Line) error {
	if line.Kind != epmd.NodeKnown && line.Kind != epmd.NodeGone {
		return nil
	}
	n, err := line.Node()
	if err != nil {
		return err
	}
	if line.Kind == epmd.NodeGone {
		w.remove(n)
	} else {
		w.set(n)
	}
	return nil
}

// set enters a node. A new name may match the filter, or cease to.
func (w *watcher) set(n registry.Node) {
	key, k := keyOf(n), w.known
	was, isKnown := k.nodes[key]
	if isKnown {
		n = withFormer(n, was)
	}
	k.nodes[key] = n
	delete(w.missing, key)
	wasShown, isShown := isKnown && k.filter.match(was), k.filter.match(n)
	switch {
	case wasShown && !isShown:
		w.printer.change(registry.Down, was)
	case isShown && !wasShown:
		w.printer.change(registry.Up, n)
	case isShown && !reflect.DeepEqual(was, n):
		// Not so if it was seen here first that its epmd answers.
		w.printer.change(registry.Changed, n)
	}
}

// withFormer returns n with what an epmd that has just started has yet to find out. That is nothing
// if the node has registered anew.
func withFormer(n, was registry.Node) registry.Node {
	if n.Port != was.Port || n.Creation != was.Creation {
		return n
	}
	if n.Origin != registry.Local {
		n.Since = was.Since
	}
	if n.Reach == registry.Unchecked {
		n.Reach = was.Reach
	}
	if n.Holder == nil {
		n.Holder = was.Holder
	}
	return n
}

// remove forgets a node.
func (w *watcher) remove(n registry.Node) {
	key := keyOf(n)
	was, isKnown := w.known.nodes[key]
	delete(w.known.nodes, key)
	delete(w.missing, key)
	if isKnown && w.known.filter.match(was) {
		w.printer.change(registry.Down, was)
	}
}
