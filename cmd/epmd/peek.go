package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"eclus/node"
)

// How a node is looked at.
const (
	peekTime     = 5 * time.Second       // that all answers may take
	rateTime     = 20 * time.Millisecond // between two looks at what counts up, if there is but one peek
	maxListed    = 50_000                // processes of a node that is asked for the pids of all
	maxSampled   = 2000                  // processes that are looked at
	maxBusiest   = 5                     // shown of each kind
	maxPeekNames = 10_000                // nodes and applications taken in
)

// peeked is what a node is and how it does, as -peek -json prints it. What the node does not tell is left out.
type peeked struct {
	Version      int           `json:"v"`
	Node         string        `json:"node"`
	OTP          string        `json:"otp"`
	ERTS         string        `json:"erts"`
	Emulator     string        `json:"emulator,omitempty"` // "jit" or "emu"
	Uptime       float64       `json:"uptime"`             // seconds
	Time         time.Time     `json:"time"`               // by its clock
	Processes    usage         `json:"processes"`
	Ports        usage         `json:"ports"`
	Atoms        usage         `json:"atoms"`
	ETS          usage         `json:"ets"`
	Memory       memoryUse     `json:"memory"` // bytes
	RunQueue     int64         `json:"run_queue"`
	Schedulers   schedulers    `json:"schedulers"`
	Rates        rates         `json:"rates"`
	Applications []application `json:"applications"`
	Nodes        []string      `json:"nodes"`
	HiddenNodes  []string      `json:"hidden_nodes"` // without this peek
	Sampled      int           `json:"sampled"`      // processes, of which the next are the busiest
	ByMemory     []process     `json:"by_memory"`
	ByMessages   []process     `json:"by_messages"` // that wait in the queue
	ByReductions []process     `json:"by_reductions"`
}

// usage is how many there are of how many there can be.
type usage struct {
	Count int64 `json:"count"`
	Limit int64 `json:"limit,omitempty"`
}

// memoryUse is what erlang:memory/0 tells.
type memoryUse struct {
	Total     int64 `json:"total" erl:"total"`
	Processes int64 `json:"processes" erl:"processes"`
	System    int64 `json:"system" erl:"system"`
	Atom      int64 `json:"atom" erl:"atom"`
	Binary    int64 `json:"binary" erl:"binary"`
	Code      int64 `json:"code" erl:"code"`
	ETS       int64 `json:"ets" erl:"ets"`
}

type schedulers struct {
	Online   int64 `json:"online"`
	All      int64 `json:"all"`
	DirtyCPU int64 `json:"dirty_cpu,omitempty"` // online
}

// rates are what was done in a second, as seen over a time.
type rates struct {
	Over               float64 `json:"over"` // seconds
	Reductions         float64 `json:"reductions"`
	Input              float64 `json:"input"`  // bytes of ports
	Output             float64 `json:"output"` // bytes of ports
	GarbageCollections float64 `json:"garbage_collections"`
	ContextSwitches    float64 `json:"context_switches"`
}

type application struct {
	_           struct{} `erl:",tuple"`
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Vsn         string   `json:"version"`
}

// process is a process of the node.
type process struct {
	PID        string `json:"pid"`
	Name       string `json:"name,omitempty"` // registered
	Memory     int64  `json:"memory"`         // bytes
	Messages   int64  `json:"messages"`       // in its queue
	Reductions int64  `json:"reductions"`     // since its start
	Function   string `json:"function,omitempty"`
}

// counters are what a node counts up.
type counters struct {
	at                                            time.Time
	reductions, input, output, collects, switches int64
}

// rates returns what was done in a second from c to later.
func (c counters) rates(later counters) rates {
	over := later.at.Sub(c.at).Seconds()
	each := func(was, is int64) float64 { return max(float64(is-was), 0) / over }
	return rates{over, each(c.reductions, later.reductions), each(c.input, later.input), each(c.output, later.output),
		each(c.collects, later.collects), each(c.switches, later.switches)}
}

// peeker looks at a node by calls of functions that every node has. Nothing is loaded there, and nothing stays.
type peeker struct {
	conn *node.Conn
	was  counters // at the peek before
}

// peek looks at the node once. Its rates are those since the peek before, or over rateTime.
func (p *peeker) peek(ctx context.Context) (*peeked, error) {
	ctx, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	if p.was.at.IsZero() {
		var err error
		if p.was, err = p.count(ctx); err != nil {
			return nil, fmt.Errorf("peek: %w", err)
		}
		pause(ctx, rateTime)
	}
	k := &peeked{Version: jsonVersion, Node: p.conn.PeerName(), Nodes: []string{}, HiddenNodes: []string{}}
	// First what the rest, as many processes at once, would change.
	err := p.ask(ctx, &k.RunQueue, "erlang", "statistics", node.Atom("run_queue"))
	if err != nil {
		return nil, fmt.Errorf("peek at %q: %w", k.Node, err)
	}
	now, err := p.count(ctx)
	if err != nil {
		return nil, fmt.Errorf("peek at %q: %w", k.Node, err)
	}
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() error { return p.describe(asking, k) })
	g.Go(func() error { return p.measure(asking, k) })
	g.Go(func() error { return p.sample(asking, k) })
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("peek at %q: %w", k.Node, err)
	}
	k.Rates = p.was.rates(now)
	p.was = now
	return k, nil
}

// ask calls a function in the node and decodes what it returns. What the node has no value for, as an older release may,
// stays as it is.
func (p *peeker) ask(ctx context.Context, value any, module, function string, args ...any) error {
	raw, err := p.conn.Call(ctx, module, function, args...)
	var raised *node.CallError
	if errors.As(err, &raised) {
		return nil
	}
	if err != nil {
		return err
	}
	err = raw.Unmarshal(value)
	if unfit := (*node.TypeError)(nil); errors.As(err, &unfit) { // whose text is for programmers
		return fmt.Errorf("%s:%s: %s in the answer, which OTP's does not have there", module, function, unfit.Term)
	}
	if err != nil {
		return fmt.Errorf("%s:%s: %w", module, function, err)
	}
	return nil
}

// question is one of several calls to erlang:FUNCTION(ITEM).
type question struct {
	value          any
	function, item string
}

// askAll asks all questions at once.
func (p *peeker) askAll(ctx context.Context, questions []question) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, q := range questions {
		g.Go(func() error { return p.ask(ctx, q.value, "erlang", q.function, node.Atom(q.item)) })
	}
	return g.Wait()
}

// pair is a tuple whose first element counts.
type pair struct {
	_     struct{} `erl:",tuple"`
	First int64
	Rest  node.RawTerm
}

// count reads what the node counts up.
func (p *peeker) count(ctx context.Context) (counters, error) {
	var reductions, switches pair
	var collects struct {
		_           struct{} `erl:",tuple"`
		Number      int64
		Words, Zero node.RawTerm
	}
	type ioPart struct {
		_     struct{} `erl:",tuple"`
		Kind  node.Atom
		Bytes int64
	}
	var ports struct {
		_             struct{} `erl:",tuple"`
		Input, Output ioPart
	}
	err := p.askAll(ctx, []question{
		{&reductions, "statistics", "exact_reductions"},
		{&switches, "statistics", "context_switches"},
		{&collects, "statistics", "garbage_collection"},
		{&ports, "statistics", "io"},
	})
	return counters{time.Now(), reductions.First, ports.Input.Bytes, ports.Output.Bytes, collects.Number, switches.First}, err
}

// describe asks what the node is and whom it is connected to.
func (p *peeker) describe(ctx context.Context, k *peeked) error {
	var uptime pair
	var emulator node.Atom
	var now int64
	var visible, hidden []node.Atom
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() error {
		return p.askAll(asking, []question{
			{&k.OTP, "system_info", "otp_release"},
			{&k.ERTS, "system_info", "version"},
			{&emulator, "system_info", "emu_flavor"},
			{&uptime, "statistics", "wall_clock"},
			{&now, "system_time", "millisecond"},
			{&visible, "nodes", "visible"},
			{&hidden, "nodes", "hidden"},
		})
	})
	g.Go(func() error { return p.ask(asking, &k.Applications, "application", "which_applications") })
	err := g.Wait()
	k.Emulator, k.Uptime, k.Time = string(emulator), float64(uptime.First)/1000, time.UnixMilli(now).UTC()
	k.Applications = k.Applications[:min(len(k.Applications), maxPeekNames)]
	slices.SortFunc(k.Applications, func(a, b application) int { return cmp.Compare(a.Name, b.Name) })
	k.Nodes, k.HiddenNodes = nodeNames(visible, ""), nodeNames(hidden, p.conn.Self().Node)
	return err
}

// nodeNames returns names in order, without one.
func nodeNames(atoms []node.Atom, except node.Atom) []string {
	names := []string{}
	for _, a := range atoms[:min(len(atoms), maxPeekNames)] {
		if a != except {
			names = append(names, string(a))
		}
	}
	slices.Sort(names)
	return names
}

// measure asks how much there is of everything.
func (p *peeker) measure(ctx context.Context, k *peeked) error {
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() error {
		return p.askAll(asking, []question{
			{&k.Processes.Count, "system_info", "process_count"},
			{&k.Processes.Limit, "system_info", "process_limit"},
			{&k.Ports.Count, "system_info", "port_count"},
			{&k.Ports.Limit, "system_info", "port_limit"},
			{&k.Atoms.Count, "system_info", "atom_count"},
			{&k.Atoms.Limit, "system_info", "atom_limit"},
			{&k.ETS.Count, "system_info", "ets_count"},
			{&k.ETS.Limit, "system_info", "ets_limit"},
			{&k.Schedulers.Online, "system_info", "schedulers_online"},
			{&k.Schedulers.All, "system_info", "schedulers"},
			{&k.Schedulers.DirtyCPU, "system_info", "dirty_cpu_schedulers_online"},
		})
	})
	g.Go(func() error { return p.ask(asking, &k.Memory, "erlang", "memory") })
	return g.Wait()
}

// sample looks at some of the processes, by one call for them all.
func (p *peeker) sample(ctx context.Context, k *peeked) error {
	pids, err := p.pids(ctx)
	if err != nil {
		return err
	}
	items := []node.Atom{"registered_name", "memory", "message_queue_len", "reductions", "current_function"}
	each := make([][]node.Atom, len(pids))
	for i := range each {
		each[i] = items
	}
	var infos []node.RawTerm
	if err := p.ask(ctx, &infos, "lists", "zipwith", processInfo, pids, each); err != nil {
		return err
	}
	var seen []process
	for i, info := range infos[:min(len(infos), len(pids))] {
		if s, ok := parseProcess(pids[i], info); ok {
			seen = append(seen, s)
		}
	}
	k.Sampled = len(seen)
	k.ByMemory = busiest(seen, func(p process) int64 { return p.Memory })
	k.ByMessages = busiest(seen, func(p process) int64 { return p.Messages })
	k.ByReductions = busiest(seen, func(p process) int64 { return p.Reductions })
	return nil
}

// processInfo is fun erlang:process_info/2: EXPORT_EXT with two atoms and the arity (OTP "External Term Format").
var processInfo = node.RawTerm("\x71\x77\x06erlang\x77\x0cprocess_info\x61\x02")

// pids returns the processes to look at. The registered ones are always among them; of the others, those that are
// evenly spread among all. A node with very many is not asked for all: of what their numbers can be, some are tried.
func (p *peeker) pids(ctx context.Context) ([]node.Pid, error) {
	var count int64
	var self node.Pid
	g, asking := errgroup.WithContext(ctx)
	g.Go(func() error { return p.ask(asking, &count, "erlang", "system_info", node.Atom("process_count")) })
	g.Go(func() error { return p.ask(asking, &self, "erlang", "self") })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if count <= maxListed {
		var all []node.Pid
		err := p.ask(ctx, &all, "erlang", "processes")
		return spread(all, maxSampled), err
	}
	registered, err := p.registered(ctx)
	return append(registered, guessed(self, maxSampled-len(registered))...), err
}

// registered returns processes that have a name.
func (p *peeker) registered(ctx context.Context) ([]node.Pid, error) {
	var names []node.Atom
	if err := p.ask(ctx, &names, "erlang", "registered"); err != nil {
		return nil, err
	}
	var found []node.RawTerm
	whereis := node.RawTerm("\x71\x77\x06erlang\x77\x07whereis\x61\x01")
	if err := p.ask(ctx, &found, "lists", "map", whereis, names[:min(len(names), maxSampled/2)]); err != nil {
		return nil, err
	}
	var pids []node.Pid
	for _, f := range found {
		var pid node.Pid
		if f.Unmarshal(&pid) == nil { // else it is a port, or has gone
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// spread returns at most n elements, evenly spread.
func spread(all []node.Pid, n int) []node.Pid {
	if len(all) <= n {
		return all
	}
	some := make([]node.Pid, n)
	for i := range some {
		some[i] = all[i*len(all)/n]
	}
	return some
}

// guessed returns pids that may be processes: numbers are given in turn, and latest has one of the last.
func guessed(latest node.Pid, n int) []node.Pid {
	pids := make(map[node.Pid]bool)
	for range n {
		pid := latest
		pid.ID = rand.Uint32N(max(latest.ID, 1))
		pids[pid] = true
	}
	return slices.Collect(maps.Keys(pids))
}

// parseProcess reads what process_info/2 tells of a process; false: it has gone.
func parseProcess(pid node.Pid, info node.RawTerm) (process, bool) {
	var told struct {
		Name     node.RawTerm `erl:"registered_name"` // or [] for none
		Memory   int64        `erl:"memory"`
		Messages int64        `erl:"message_queue_len"`
		Work     int64        `erl:"reductions"`
		Function node.RawTerm `erl:"current_function"`
	}
	if info.Unmarshal(&told) != nil || told.Name == nil {
		return process{}, false
	}
	s := process{PID: fmt.Sprintf("<0.%d.%d>", pid.ID, pid.Serial), Memory: told.Memory, Messages: told.Messages, Reductions: told.Work}
	var name node.Atom
	if told.Name.Unmarshal(&name) == nil {
		s.Name = string(name)
	}
	var f struct {
		_                struct{} `erl:",tuple"`
		Module, Function node.Atom
		Arity            int
	}
	if told.Function.Unmarshal(&f) == nil {
		s.Function = fmt.Sprintf("%s:%s/%d", f.Module, f.Function, f.Arity)
	}
	return s, true
}

// busiest returns the processes that have most of something, if they have any.
func busiest(all []process, of func(process) int64) []process {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b process) int {
		return cmp.Or(cmp.Compare(of(b), of(a)), cmp.Compare(a.PID, b.PID))
	})
	sorted = sorted[:min(len(sorted), maxBusiest)]
	return slices.DeleteFunc(sorted, func(p process) bool { return of(p) == 0 })
}

// peek connects and peeks, and shows why not if that fails.
func peek(ctx context.Context, c config, s screen, getenv func(string) (string, bool), stdout, stderr io.Writer) error {
	p := newPinger(c, getenv)
	if !p.walkTo(ctx, "cookie") {
		step := p.report.Steps[len(p.report.Steps)-1]
		fmt.Fprintf(stderr, "epmd: %s: %s\n", step.Step, printable(step.Found))
		for _, line := range step.Advice {
			fmt.Fprintln(stderr, "epmd: "+printable(line))
		}
		return exitStatus(1)
	}
	defer p.conn.Close()
	v := &peekView{peeker: &peeker{conn: p.conn}, config: c, screen: s, out: stdout}
	if c.watch {
		return v.watch(ctx)
	}
	return v.show(ctx)
}
