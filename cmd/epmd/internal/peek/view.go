package peek

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
)

// peekEvery is how often -peek -watch looks.
const peekEvery = 2 * time.Second

// view shows what a peeker sees.
type view struct {
	peeker *peeker
	json   bool
	screen screen.Screen
	out    io.Writer
	stderr io.Writer

	last *peeked   // what was shown last; nil: nothing
	at   time.Time // when
}

// show looks once and shows it.
func (v *view) show(ctx context.Context) error {
	k, err := v.peeker.peek(ctx)
	if err != nil {
		return err
	}
	if _, err = v.out.Write(v.render(k)); err == nil && len(k.Unanswered) > 0 {
		_, err = fmt.Fprintf(v.stderr, "epmd: not all was answered: epmd -ping %s says whether large answers get lost\n", screen.Printable(k.Node))
	}
	return err
}

// watch looks every peekEvery, and shows it, until a signal comes or the node goes. While nothing
// is answered, it says since when. On a terminal it draws in place, on a screen of its own. That is
// left however watch ends.
func (v *view) watch(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	inPlace := v.screen.Width != nil && !v.json
	if inPlace {
		if _, err := io.WriteString(v.out, screen.Enter); err != nil {
			return err
		}
		defer io.WriteString(v.out, screen.Leave)
	}
	ticker := time.NewTicker(peekEvery)
	defer ticker.Stop()
	for {
		k, err := v.peeker.peek(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if _, err := v.out.Write(v.frame(v.next(k, err), inPlace)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.peeker.conn.Closed():
			return fmt.Errorf("the node has gone: %w", v.peeker.conn.Err())
		case <-ticker.C:
		}
	}
}

// next renders what was seen. If nothing was answered, it says since when, above what was seen
// last.
func (v *view) next(k *peeked, err error) []byte {
	if v.last == nil && v.at.IsZero() {
		v.at = time.Now()
	}
	if err == nil {
		v.last, v.at = k, time.Now()
		return v.render(k)
	}
	if v.json {
		return v.render(k)
	}
	text := v.screen.Paint("no answer since "+v.at.Format(time.TimeOnly), screen.Red) + "\n"
	if v.last == nil {
		return []byte(text)
	}
	return append([]byte(text), v.render(v.last)...)
}

// frame makes of a text what draws it over the one before.
func (v *view) frame(text []byte, inPlace bool) []byte {
	if !inPlace {
		if !v.json {
			text = append(text, '\n')
		}
		return text
	}
	return screen.Draw(text, screen.Height(v.out))
}

func (v *view) render(k *peeked) []byte {
	if v.json {
		text, err := encodePeeked(k)
		if err != nil { // a year past 9999 by the node's clock
			text = fmt.Appendf(nil, "{\"v\":%d,\"error\":%q}", jsonVersion, err)
		}
		return append(screen.EscapeUnprintable(text), '\n')
	}
	var b bytes.Buffer
	v.renderText(&b, k)
	return b.Bytes()
}

// encodePeeked returns a node as JSON, without what was not answered.
func encodePeeked(k *peeked) ([]byte, error) {
	text, err := encodePlain(k)
	if err != nil || len(k.Unanswered) == 0 {
		return text, err
	}
	fields := make(map[string]json.RawMessage)
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	for _, key := range k.Unanswered {
		delete(fields, key)
	}
	return encodePlain(fields)
}

// encodePlain returns JSON in which < and >, which pids have, stand for themselves.
func encodePlain(value any) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

// renderText shows a node to a person.
func (v *view) renderText(b *bytes.Buffer, k *peeked) {
	line := func(title, format string, args ...any) {
		text := screen.Printable(fmt.Sprintf(format, args...))
		const indent = 13
		if columns := v.screen.Columns(indent); columns > 0 {
			text = screen.Cut(text, columns)
		}
		fmt.Fprintf(b, "%s %s\n", v.screen.Paint(fmt.Sprintf("%-12s", title), screen.Faint), text)
	}
	or := func(text, key string) string {
		if k.lacks(key) {
			return noAnswer
		}
		return text
	}
	emulator := ""
	if k.Emulator != "" {
		emulator = " (" + k.Emulator + ")"
	}
	line("node", "%s, OTP %s, ERTS %s%s%v", k.Node, or(k.OTP, "otp"), or(k.ERTS, "erts"), emulator, k.carrier)
	line("up", "%s; its clock says %s", or(time.Duration(k.Uptime*float64(time.Second)).Round(time.Second).String(), "uptime"),
		or(k.Time.Format(time.DateTime+" MST"), "time"))
	line("processes", "%s; ports %s; atoms %s; ETS tables %s", or(k.Processes.String(), "processes"), or(k.Ports.String(), "ports"),
		or(k.Atoms.String(), "atoms"), or(k.ETS.String(), "ets"))
	line("memory", "%s", or(k.Memory.String(), "memory"))
	line("schedulers", "%s online, run queue %s", or(fmt.Sprintf("%d of %d", k.Schedulers.Online, k.Schedulers.All), "schedulers"),
		or(fmt.Sprint(k.RunQueue), "run_queue"))
	line("a second", "%s", or(k.Rates.String(), "rates"))
	line("nodes", "%s", or(namesText(k.Nodes), "nodes"))
	line("hidden nodes", "%s", or(namesText(k.HiddenNodes), "hidden_nodes"))
	var apps []string
	for _, a := range k.Applications {
		apps = append(apps, a.Name+" "+a.Vsn)
	}
	line("applications", "%s", or(namesText(apps), "applications"))
	if len(k.Mute) > 0 {
		line("mute", "%s: busy in native code, or stuck", namesText(k.Mute))
	}
	v.renderBusiest(b, k)
}

// noAnswer stands for what the node has not told.
const noAnswer = "(no answer)"

// String returns memory by kind.
func (m memoryUse) String() string {
	return fmt.Sprintf("%s: processes %s, atoms %s, binaries %s, code %s, ETS %s, system %s in all", bytesText(float64(m.Total)),
		bytesText(float64(m.Processes)), bytesText(float64(m.Atom)), bytesText(float64(m.Binary)), bytesText(float64(m.Code)),
		bytesText(float64(m.ETS)), bytesText(float64(m.System)))
}

// String returns what is done in a second.
func (r rates) String() string {
	return fmt.Sprintf("%.0f reductions, %s in, %s out, %.0f garbage collections, %.0f context switches (over %.2g s)", r.Reductions,
		bytesText(r.Input), bytesText(r.Output), r.GarbageCollections, r.ContextSwitches, r.Over)
}

// renderBusiest shows the busiest processes as a table.
func (v *view) renderBusiest(b *bytes.Buffer, k *peeked) {
	if k.lacks("sampled") {
		fmt.Fprintf(b, "\nbusiest processes %s\n", noAnswer)
		return
	}
	fmt.Fprintf(b, "\nbusiest processes (%d of %d sampled)\n", k.Sampled, k.Processes.Count)
	head := fmt.Sprintf("%-12s %9s %9s %12s  %-14s %s", "by", "memory", "messages", "reductions", "pid", "name, or what it is in")
	fmt.Fprintln(b, v.screen.Paint(head, screen.Bold))
	for _, kind := range []struct {
		by   string
		list []process
	}{{"memory", k.ByMemory}, {"messages", k.ByMessages}, {"reductions", k.ByReductions}} {
		by := kind.by
		for _, p := range kind.list {
			what := strings.TrimPrefix(p.Name+", "+p.Function, ", ")
			row := fmt.Sprintf("%-12s %9s %9d %12d  %-14s %s", by, bytesText(float64(p.Memory)), p.Messages, p.Reductions, p.PID, screen.Printable(what))
			if columns := v.screen.Columns(0); columns > 0 {
				row = screen.Cut(row, columns)
			}
			fmt.Fprintln(b, row)
			by = ""
		}
	}
}

// String returns "17 of 262144".
func (u usage) String() string {
	if u.Limit == 0 {
		return fmt.Sprint(u.Count)
	}
	return fmt.Sprintf("%d of %d", u.Count, u.Limit)
}

func namesText(names []string) string {
	return cmp.Or(strings.Join(names, ", "), "none")
}

// bytesText returns a number of bytes with a prefix of the SI.
func bytesText(n float64) string {
	prefixes := []string{"", "k", "M", "G", "T"}
	for len(prefixes) > 1 && n >= 1000 {
		n /= 1000
		prefixes = prefixes[1:]
	}
	if prefixes[0] == "" {
		return fmt.Sprintf("%.0f B", n)
	}
	return fmt.Sprintf("%.1f %sB", n, prefixes[0])
}
