// Package peek is -peek. It shows what a node is and how it is doing, by calls of functions that
// every node has.
//
// Peek connects to epmds and nodes by TCP. It blocks until it has shown the node. With Watch it
// blocks until a signal comes or the node goes.
package peek

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/way"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"
)

// How a node is looked at.
const (
	peekTime     = 5 * time.Second       // that all answers may take
	countTime    = time.Second           // of which what counts up may take this, each time
	sampleTime   = time.Second           // and what many processes do, or one alone
	sampleChunk  = 128                   // processes that are looked at by one call
	rateTime     = 20 * time.Millisecond // between the two looks of one peek at what counts up
	maxListed    = 50_000                // processes of a node that is asked for the pids of all
	maxSampled   = 2000                  // processes that are looked at
	lookAtOnce   = 16                    // processes that are looked at alone at the same time
	maxBusiest   = 5                     // shown of each kind
	maxPeekNames = 10_000                // nodes and applications taken in
)

// jsonVersion is that of what is printed. It changes when a key goes or comes to mean something
// else.
const jsonVersion = 1

// Options say which node is looked at, and how that is shown.
type Options struct {
	Way            way.Options
	JSON, Watch    bool
	Screen         screen.Screen // where Stdout leads
	Stdout, Stderr io.Writer
}

// Peek goes the way to a node and looks at it. If that can't be, it says why on Stderr. Its error
// is exit status 1 then.
func Peek(ctx context.Context, o Options) error {
	w := way.New(o.Way, nil)
	if !w.Go(ctx) {
		step := w.Steps[len(w.Steps)-1]
		fmt.Fprintf(o.Stderr, "epmd: %s: %s\n", step.Step, screen.Printable(step.Found))
		for _, line := range step.Advice {
			fmt.Fprintln(o.Stderr, "epmd: "+screen.Printable(line))
		}
		return exit.Status(1)
	}
	defer w.Conn.Close()
	v := &view{peeker: newPeeker(w.Conn, carrier{w.Dist, w.Verified}), json: o.JSON, screen: o.Screen, out: o.Stdout, stderr: o.Stderr}
	if o.Watch {
		return v.watch(ctx)
	}
	return v.show(ctx)
}

// peeked is what a node is and how it is doing, as -peek -json prints it. What the node does not
// tell is left out.
type peeked struct {
	Version  int    `json:"v"`
	Node     string `json:"node"`
	OTP      string `json:"otp"`
	ERTS     string `json:"erts"`
	Emulator string `json:"emulator,omitempty"` // "jit" or "emu"
	carrier
	Uptime       float64       `json:"uptime"` // seconds
	Time         time.Time     `json:"time"`   // by its clock
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
	Mute         []string      `json:"mute,omitempty"`       // processes without an answer
	Unanswered   []string      `json:"unanswered,omitempty"` // keys that are left out

	mu      sync.Mutex
	answers int   // that have come
	err     error // why the first that has not come did not
}

// carrier is what carries the connection, and whether the node's certificate is verified. That is
// nil without TLS.
type carrier struct {
	Dist     string `json:"dist,omitempty"`
	Verified *bool  `json:"verified,omitempty"`
}

// String returns what -peek shows of it: nothing without TLS.
func (c carrier) String() string {
	switch {
	case c.Verified == nil:
		return ""
	case *c.Verified:
		return ", over TLS, verified"
	}
	return ", over TLS, not verified (-ca)"
}

// sampleKeys are the keys of what looking at processes gives.
var sampleKeys = []string{"sampled", "by_memory", "by_messages", "by_reductions"}

// lacks reports whether there was no answer to what has that key.
func (k *peeked) lacks(key string) bool { return slices.Contains(k.Unanswered, key) }

// leaveOut enters keys as unanswered.
func (k *peeked) leaveOut(keys ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range keys {
		if !k.lacks(key) {
			k.Unanswered = append(k.Unanswered, key)
		}
	}
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

// peeker looks at a node by calls of functions that every node has. It loads nothing there. What
// stays is a process for each call that gets no answer. No peek makes such a call twice.
type peeker struct {
	conn *node.Conn
	over carrier
	was  counters // at the peek before

	mu      sync.Mutex
	waiting map[string]bool // calls whose answer has not come, perhaps from earlier peeks
	mute    map[etf.Pid]bool
}

// newPeeker returns a peeker that uses a connection until that ends.
func newPeeker(conn *node.Conn, over carrier) *peeker {
	return &peeker{conn: conn, over: over, waiting: make(map[string]bool), mute: make(map[etf.Pid]bool)}
}

// errStillWaiting is the error of a call that an earlier peek made and that has no answer yet.
var errStillWaiting = errors.New("the answer to an earlier call is still awaited")

// peek looks at the node once. Its rates are those since the peek before, or over rateTime.
// Unanswered names what the node does not answer. It is an error if the node answers nothing, or if
// the connection has ended.
func (p *peeker) peek(ctx context.Context) (*peeked, error) {
	ctx, cancel := context.WithTimeout(ctx, peekTime)
	defer cancel()
	k := &peeked{Version: jsonVersion, Node: p.conn.PeerName(), carrier: p.over, Nodes: []string{}, HiddenNodes: []string{}}
	if p.was.at.IsZero() {
		p.was = p.count(ctx, k)
		<-time.After(rateTime)
	}
	// First what the rest, as many processes at once, would change.
	counting, stop := context.WithTimeout(ctx, countTime)
	p.ask(counting, k, "run_queue", &k.RunQueue, "erlang", "statistics", etf.Atom("run_queue"))
	stop()
	var now counters
	if !k.lacks("rates") {
		now = p.count(ctx, k)
	}
	var asking sync.WaitGroup
	asking.Go(func() { p.describe(ctx, k) })
	asking.Go(func() { p.measure(ctx, k) })
	asking.Go(func() { p.sample(ctx, k) })
	asking.Wait()
	slices.Sort(k.Unanswered)
	if k.answers == 0 {
		return k, fmt.Errorf("peek at %q: %w", k.Node, cmp.Or(p.conn.Err(), k.err))
	}
	if k.lacks("rates") {
		p.was = counters{} // and the next peek begins anew
		return k, nil
	}
	k.Rates = p.was.rates(now)
	p.was = now
	return k, nil
}

// ask calls a function in the node and decodes what it returns. If the node raises an error, as an
// older release may, value stays as it is. If no answer comes, key is entered as unanswered. It
// reports whether there was one.
func (p *peeker) ask(ctx context.Context, k *peeked, key string, value any, module, function string, args ...any) bool {
	raw, err := p.call(ctx, key, module, function, args...)
	if err == nil {
		err = raw.Unmarshal(value)
	}
	var raised *node.CallError
	var unfit *etf.TypeError // whose text is for programmers
	switch {
	case errors.As(err, &raised):
		err = nil
	case errors.As(err, &unfit):
		err = fmt.Errorf("%s:%s: %s in the answer, which OTP's does not have there", module, function, unfit.Term)
	}
	if err != nil {
		k.leaveOut(key)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = cmp.Or(k.err, err)
	if err == nil {
		k.answers++
	}
	return err == nil
}

// call makes a call for a key unless the same one is still waiting. One that gets no answer before
// ctx ends goes on waiting.
func (p *peeker) call(ctx context.Context, key, module, function string, args ...any) (etf.Raw, error) {
	id := fmt.Sprint(key, module, function, args)
	p.mu.Lock()
	isWaiting := p.waiting[id]
	p.waiting[id] = true
	p.mu.Unlock()
	if isWaiting {
		return nil, errStillWaiting
	}
	type answer struct {
		term etf.Raw
		err  error
	}
	came := make(chan answer, 1)
	go func() { // until the connection ends
		term, err := p.conn.Call(context.WithoutCancel(ctx), module, function, args...)
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
		came <- answer{term, err}
	}()
	select {
	case a := <-came:
		return a.term, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// question is one of several calls to erlang:FUNCTION(ITEM).
type question struct {
	key            string
	value          any
	function, item string
}

// askAll asks all questions at once.
func (p *peeker) askAll(ctx context.Context, k *peeked, questions []question) {
	var asking sync.WaitGroup
	for _, q := range questions {
		asking.Go(func() { p.ask(ctx, k, q.key, q.value, "erlang", q.function, etf.Atom(q.item)) })
	}
	asking.Wait()
}

// pair is a tuple whose first element counts.
type pair struct {
	_     struct{} `erl:",tuple"`
	First int64
	Rest  etf.Raw
}

// count reads what the node counts up. Without an answer to all of it, "rates" is unanswered.
func (p *peeker) count(ctx context.Context, k *peeked) counters {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	var reductions, switches pair
	var collects struct {
		_           struct{} `erl:",tuple"`
		Number      int64
		Words, Zero etf.Raw
	}
	type ioPart struct {
		_     struct{} `erl:",tuple"`
		Kind  etf.Atom
		Bytes int64
	}
	var ports struct {
		_             struct{} `erl:",tuple"`
		Input, Output ioPart
	}
	p.askAll(ctx, k, []question{
		{"rates", &reductions, "statistics", "exact_reductions"},
		{"rates", &switches, "statistics", "context_switches"},
		{"rates", &collects, "statistics", "garbage_collection"},
		{"rates", &ports, "statistics", "io"},
	})
	return counters{time.Now(), reductions.First, ports.Input.Bytes, ports.Output.Bytes, collects.Number, switches.First}
}

// describe asks what the node is and whom it is connected to.
func (p *peeker) describe(ctx context.Context, k *peeked) {
	var uptime pair
	var emulator etf.Atom
	var now int64
	var visible, hidden []etf.Atom
	var asking sync.WaitGroup
	asking.Go(func() {
		p.askAll(ctx, k, []question{
			{"otp", &k.OTP, "system_info", "otp_release"},
			{"erts", &k.ERTS, "system_info", "version"},
			{"emulator", &emulator, "system_info", "emu_flavor"},
			{"uptime", &uptime, "statistics", "wall_clock"},
			{"time", &now, "system_time", "millisecond"},
			{"nodes", &visible, "nodes", "visible"},
			{"hidden_nodes", &hidden, "nodes", "hidden"},
		})
	})
	asking.Go(func() { p.ask(ctx, k, "applications", &k.Applications, "application", "which_applications") })
	asking.Wait()
	k.Emulator, k.Uptime, k.Time = string(emulator), float64(uptime.First)/1000, time.UnixMilli(now).UTC()
	k.Applications = k.Applications[:min(len(k.Applications), maxPeekNames)]
	slices.SortFunc(k.Applications, func(a, b application) int { return cmp.Compare(a.Name, b.Name) })
	k.Nodes, k.HiddenNodes = nodeNames(visible, ""), nodeNames(hidden, p.conn.Self().Node)
}

// nodeNames returns names in order, without one.
func nodeNames(atoms []etf.Atom, except etf.Atom) []string {
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
func (p *peeker) measure(ctx context.Context, k *peeked) {
	var asking sync.WaitGroup
	asking.Go(func() {
		p.askAll(ctx, k, []question{
			{"processes", &k.Processes.Count, "system_info", "process_count"},
			{"processes", &k.Processes.Limit, "system_info", "process_limit"},
			{"ports", &k.Ports.Count, "system_info", "port_count"},
			{"ports", &k.Ports.Limit, "system_info", "port_limit"},
			{"atoms", &k.Atoms.Count, "system_info", "atom_count"},
			{"atoms", &k.Atoms.Limit, "system_info", "atom_limit"},
			{"ets", &k.ETS.Count, "system_info", "ets_count"},
			{"ets", &k.ETS.Limit, "system_info", "ets_limit"},
			{"schedulers", &k.Schedulers.Online, "system_info", "schedulers_online"},
			{"schedulers", &k.Schedulers.All, "system_info", "schedulers"},
			{"schedulers", &k.Schedulers.DirtyCPU, "system_info", "dirty_cpu_schedulers_online"},
		})
	})
	asking.Go(func() { p.ask(ctx, k, "memory", &k.Memory, "erlang", "memory") })
	asking.Wait()
}

// sample looks at some of the processes, sampleChunk of them by one call.
func (p *peeker) sample(ctx context.Context, k *peeked) {
	pids, ok := p.pids(ctx, k)
	if !ok {
		return
	}
	pids = slices.DeleteFunc(pids, p.isMute)
	chunks := slices.Collect(slices.Chunk(pids, sampleChunk))
	found := make([][]process, len(chunks))
	var looking sync.WaitGroup
	for i, chunk := range chunks {
		looking.Go(func() { found[i] = p.look(ctx, chunk) })
	}
	looking.Wait()
	seen := slices.Concat(found...)
	if len(seen) == 0 { // no process keeps others from answering: the node does not answer
		k.leaveOut(sampleKeys...)
		return
	}
	k.Mute = p.muteProcesses()
	k.Sampled = len(seen)
	k.ByMemory = busiest(seen, func(p process) int64 { return p.Memory })
	k.ByMessages = busiest(seen, func(p process) int64 { return p.Messages })
	k.ByReductions = busiest(seen, func(p process) int64 { return p.Reductions })
}

// processItems are what is asked of a process.
var processItems = []etf.Atom{"registered_name", "memory", "message_queue_len", "reductions", "current_function"}

// look looks at processes by one call. Each process answers for itself. One that is busy in native
// code does not, which would hide all others. Then each of them is asked alone.
func (p *peeker) look(ctx context.Context, pids []etf.Pid) []process {
	each := make([][]etf.Atom, len(pids))
	for i := range each {
		each[i] = processItems
	}
	limited, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	var infos []etf.Raw
	raw, err := p.conn.Call(limited, "lists", "zipwith", processInfo, pids, each)
	if err != nil || raw.Unmarshal(&infos) != nil {
		return p.lookEach(ctx, pids)
	}
	var seen []process
	for i, info := range infos[:min(len(infos), len(pids))] {
		if s, ok := parseProcess(pids[i], info); ok {
			seen = append(seen, s)
		}
	}
	return seen
}

// lookEach looks at processes by a call each. Those that don't answer are mute until they do.
func (p *peeker) lookEach(ctx context.Context, pids []etf.Pid) []process {
	ctx, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	var seen []process
	var mu sync.Mutex
	var looking sync.WaitGroup
	slots := make(chan struct{}, lookAtOnce)
	for _, pid := range pids {
		slots <- struct{}{}
		looking.Go(func() {
			defer func() { <-slots }()
			info, err := p.call(ctx, pidText(pid), "erlang", "process_info", pid, processItems)
			mu.Lock()
			defer mu.Unlock()
			if s, ok := parseProcess(pid, info); err == nil && ok {
				seen = append(seen, s)
			} else if errors.Is(err, context.DeadlineExceeded) {
				p.mu.Lock()
				p.mute[pid] = true
				p.mu.Unlock()
			}
		})
	}
	looking.Wait()
	return seen
}

// processInfo is fun erlang:process_info/2 as EXPORT_EXT: two atoms and the arity (OTP "External
// Term Format").
var processInfo = etf.Raw("\x71\x77\x06erlang\x77\x0cprocess_info\x61\x02")

// pids returns the processes to look at. The registered ones are always among them. The others are
// evenly spread among all. A node with very many is not asked for all. Some numbers are tried
// instead.
func (p *peeker) pids(ctx context.Context, k *peeked) (pids []etf.Pid, ok bool) {
	var count int64
	if !p.askSample(ctx, k, &count, "erlang", "system_info", etf.Atom("process_count")) {
		return nil, false
	}
	if count <= maxListed {
		ok = p.askSample(ctx, k, &pids, "erlang", "processes")
		return spread(pids, maxSampled), ok
	}
	var self etf.Pid
	if !p.askSample(ctx, k, &self, "erlang", "self") {
		return nil, false
	}
	registered, ok := p.registered(ctx, k)
	return append(registered, guessed(self, maxSampled-len(registered))...), ok
}

// askSample is ask for what it takes to look at processes.
func (p *peeker) askSample(ctx context.Context, k *peeked, value any, module, function string, args ...any) bool {
	ok := p.ask(ctx, k, sampleKeys[0], value, module, function, args...)
	if !ok {
		k.leaveOut(sampleKeys...)
	}
	return ok
}

// registered returns processes that have a name.
func (p *peeker) registered(ctx context.Context, k *peeked) (pids []etf.Pid, ok bool) {
	var names []etf.Atom
	var found []etf.Raw
	whereis := etf.Raw("\x71\x77\x06erlang\x77\x07whereis\x61\x01")
	if !p.askSample(ctx, k, &names, "erlang", "registered") ||
		!p.askSample(ctx, k, &found, "lists", "map", whereis, names[:min(len(names), maxSampled/2)]) {
		return nil, false
	}
	for _, f := range found {
		var pid etf.Pid
		if f.Unmarshal(&pid) == nil { // else it is a port, or has gone
			pids = append(pids, pid)
		}
	}
	return pids, true
}

// spread returns at most n elements, evenly spread.
func spread(all []etf.Pid, n int) []etf.Pid {
	some := make([]etf.Pid, min(n, len(all)))
	for i := range some {
		some[i] = all[i*len(all)/len(some)]
	}
	return some
}

// guessed returns pids that may be processes. A node gives numbers in turn, and latest has one of
// the last.
func guessed(latest etf.Pid, n int) []etf.Pid {
	pids := make(map[etf.Pid]bool)
	for range n {
		pid := latest
		pid.ID = rand.Uint32N(max(latest.ID, 1))
		pids[pid] = true
	}
	return slices.Collect(maps.Keys(pids))
}

// parseProcess reads what process_info/2 tells of a process; false: it has gone.
func parseProcess(pid etf.Pid, info etf.Raw) (process, bool) {
	var told struct {
		Name     etf.Raw `erl:"registered_name"` // or [] for none
		Memory   int64   `erl:"memory"`
		Messages int64   `erl:"message_queue_len"`
		Work     int64   `erl:"reductions"`
		Function etf.Raw `erl:"current_function"`
	}
	if info.Unmarshal(&told) != nil || told.Name == nil {
		return process{}, false
	}
	s := process{PID: pidText(pid), Memory: told.Memory, Messages: told.Messages, Reductions: told.Work}
	var name etf.Atom
	if told.Name.Unmarshal(&name) == nil {
		s.Name = string(name)
	}
	var f struct {
		_                struct{} `erl:",tuple"`
		Module, Function etf.Atom
		Arity            int
	}
	if told.Function.Unmarshal(&f) == nil {
		s.Function = fmt.Sprintf("%s:%s/%d", f.Module, f.Function, f.Arity)
	}
	return s, true
}

// pidText returns a process as its node shows it.
func pidText(pid etf.Pid) string { return fmt.Sprintf("<0.%d.%d>", pid.ID, pid.Serial) }

// isMute reports whether a process has been asked and has not answered yet.
func (p *peeker) isMute(pid etf.Pid) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute[pid] && !p.waiting[fmt.Sprint(pidText(pid), "erlang", "process_info", []any{pid, processItems})] {
		delete(p.mute, pid)
	}
	return p.mute[pid]
}

// muteProcesses returns those that don't answer, in order.
func (p *peeker) muteProcesses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for pid := range p.mute {
		list = append(list, pidText(pid))
	}
	slices.Sort(list)
	return list
}

// busiest returns the processes that have most of something, if they have any.
func busiest(all []process, of func(process) int64) []process {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b process) int {
		return cmp.Or(cmp.Compare(of(b), of(a)), cmp.Compare(a.PID, b.PID))
	})
	sorted = sorted[:min(len(sorted), maxBusiest)]
	return slices.DeleteFunc(sorted, func(p process) bool { return of(p) == 0 })
}
