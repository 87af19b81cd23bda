package peek

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/node/etf"
)

func term(t *testing.T, v any) etf.Raw {
	t.Helper()
	b, err := etf.Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseProcess(t *testing.T) {
	property := func(key string, value any) any { return etf.Tuple{etf.Atom(key), value} }
	all := func(name any) []any {
		return []any{
			property("registered_name", name), property("memory", 2600), property("message_queue_len", 3),
			property("reductions", int64(1<<40)), property("current_function", etf.Tuple{etf.Atom("m"), etf.Atom("f"), 2}),
		}
	}
	pid := etf.Pid{Node: "a@b", ID: 85, Serial: 1}
	want := process{PID: "<0.85.1>", Name: "init", Memory: 2600, Messages: 3, Reductions: 1 << 40, Function: "m:f/2"}
	if got, ok := parseProcess(pid, term(t, all(etf.Atom("init")))); !ok || got != want {
		t.Errorf("got %+v, %v; want %+v", got, ok, want)
	}
	want.Name = ""
	if got, ok := parseProcess(pid, term(t, all([]any{}))); !ok || got != want {
		t.Errorf("without a name: got %+v, %v; want %+v", got, ok, want)
	}
	for _, gone := range []any{etf.Atom("undefined"), []any{}, 1, etf.Tuple{}} {
		if got, ok := parseProcess(pid, term(t, gone)); ok {
			t.Errorf("%v is a process %+v", gone, got)
		}
	}
}

func TestBusiest(t *testing.T) {
	var all []process
	for i := range 10 {
		all = append(all, process{PID: string(rune('a' + i)), Memory: int64(i % 7), Messages: int64(i / 9)})
	}
	var got strings.Builder
	for _, p := range append(busiest(all, func(p process) int64 { return p.Memory }), busiest(all, func(p process) int64 { return p.Messages })...) {
		got.WriteString(p.PID)
	}
	if got.String() != "gfedcj" {
		t.Errorf("got %s", got.String())
	}
}

func TestSpread(t *testing.T) {
	all := make([]etf.Pid, 10_000)
	for i := range all {
		all[i].ID = uint32(i)
	}
	if got := spread(all, 4); got[0].ID != 0 || got[1].ID != 2500 || got[3].ID != 7500 || len(got) != 4 {
		t.Errorf("got %v", got)
	}
	if got := spread(all[:3], 4); len(got) != 3 {
		t.Errorf("got %v", got)
	}
	for _, pid := range guessed(etf.Pid{Node: "a@b", ID: 1000, Creation: 7}, 100) {
		if pid.ID >= 1000 || pid.Creation != 7 {
			t.Errorf("guessed %+v", pid)
		}
	}
}

func TestRates(t *testing.T) {
	began := time.Now()
	was := counters{at: began, reductions: 100, input: 5, collects: 9}
	got := was.rates(counters{at: began.Add(500 * time.Millisecond), reductions: 200, input: 5, output: 50, collects: 3})
	if want := (rates{Over: 0.5, Reductions: 200, Output: 100}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestRenderHostile shows what a node has made up.
func TestRenderHostile(t *testing.T) {
	const evil = "x\x1b[2J\n\xff"
	k := &peeked{Node: "a@b", OTP: evil, ERTS: evil, Emulator: evil, Nodes: []string{evil}, HiddenNodes: []string{evil},
		Applications: []application{{Name: evil, Vsn: evil}}, ByMemory: []process{{PID: "<0.1.0>", Name: evil, Function: evil}}}
	for i, json := range []bool{false, true, false, true} {
		if i == 2 {
			k.Time = time.UnixMilli(1 << 60)
		}
		v := &view{json: json}
		out := v.render(k)
		if bytes.ContainsAny(out, "\x1b\xff") || bytes.Contains(out, []byte("2J\n")) {
			t.Errorf("json %v: %q", json, out)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 15_700_000: "15.7 MB", 3e15: "3000.0 TB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%v: %q, want %q", n, got, want)
		}
	}
}
