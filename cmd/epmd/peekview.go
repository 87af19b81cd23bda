package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// peekEvery is how often -peek -watch looks.
const peekEvery = 2 * time.Second

// peekView shows what a peeker sees.
type peekView struct {
	peeker *peeker
	config config
	screen screen
	out    io.Writer
}

// show looks once and shows it.
func (v *peekView) show(ctx context.Context) error {
	k, err := v.peeker.peek(ctx)
	if err != nil {
		return err
	}
	_, err = v.out.Write(v.render(k))
	return err
}

// What a terminal is told (ECMA-48, and the private modes of xterm that all have taken over).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, and no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	drawAnew    = "\x1b[H" // from the upper left corner
	clearLine   = "\x1b[K" // from the cursor on
	clearBelow  = "\x1b[J" // from the cursor on
)

// watch looks and shows it every peekEvery until a signal comes or the node goes. On a terminal it is drawn in place, on a
// screen of its own that is left however this ends.
func (v *peekView) watch(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	inPlace := v.screen.width != nil && !v.config.json
	if inPlace {
		if _, err := io.WriteString(v.out, enterScreen); err != nil {
			return err
		}
		defer io.WriteString(v.out, leaveScreen)
	}
	ticker := time.NewTicker(peekEvery)
	defer ticker.Stop()
	for {
		k, err := v.peeker.peek(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := v.out.Write(v.frame(v.render(k), inPlace)); err != nil {
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

// frame makes of a text what draws it over the one before.
func (v *peekView) frame(text []byte, inPlace bool) []byte {
	if !inPlace {
		if !v.config.json {
			text = append(text, '\n')
		}
		return text
	}
	text = firstLines(text, terminalHeight(v.out))
	text = bytes.ReplaceAll(text, []byte("\n"), []byte(clearLine+"\r\n"))
	return slices.Concat([]byte(drawAnew), text, []byte(clearLine+clearBelow))
}

// firstLines returns as many lines as fit on a screen without its scrolling; 0 of them: all.
func firstLines(text []byte, rows int) []byte {
	if rows == 0 {
		return text
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.TrimSuffix(bytes.Join(lines[:min(len(lines), rows)], nil), []byte("\n"))
}

func (v *peekView) render(k *peeked) []byte {
	if v.config.json {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false) // pids have < and >
		if err := e.Encode(k); err != nil {
			text.Reset() // a year past 9999 by the node's clock
			fmt.Fprintf(&text, "{\"v\":%d,\"error\":%q}", jsonVersion, err)
		}
		return append(escapeUnprintable(bytes.TrimSuffix(text.Bytes(), []byte("\n"))), '\n')
	}
	var b bytes.Buffer
	v.renderText(&b, k)
	return b.Bytes()
}

// renderText shows a node to a person.
func (v *peekView) renderText(b *bytes.Buffer, k *peeked) {
	line := func(title, format string, args ...any) {
		text := printable(fmt.Sprintf(format, args...))
		const indent = 13
		if columns := v.screen.columns(indent); columns > 0 {
			text = cut(text, columns)
		}
		fmt.Fprintf(b, "%s %s\n", v.screen.paint(fmt.Sprintf("%-12s", title), faint), text)
	}
	emulator := ""
	if k.Emulator != "" {
		emulator = " (" + k.Emulator + ")"
	}
	line("node", "%s, OTP %s, ERTS %s%s", k.Node, k.OTP, k.ERTS, emulator)
	line("up", "%s; its clock says %s", time.Duration(k.Uptime*float64(time.Second)).Round(time.Second), k.Time.Format(time.DateTime+" MST"))
	line("processes", "%v; ports %v; atoms %v; ETS tables %v", k.Processes, k.Ports, k.Atoms, k.ETS)
	m := k.Memory
	line("memory", "%s: processes %s, atoms %s, binaries %s, code %s, ETS %s, system %s in all", bytesText(float64(m.Total)),
		bytesText(float64(m.Processes)), bytesText(float64(m.Atom)), bytesText(float64(m.Binary)), bytesText(float64(m.Code)),
		bytesText(float64(m.ETS)), bytesText(float64(m.System)))
	line("schedulers", "%d of %d online, run queue %d", k.Schedulers.Online, k.Schedulers.All, k.RunQueue)
	r := k.Rates
	line("a second", "%.0f reductions, %s in, %s out, %.0f garbage collections, %.0f context switches (over %.2g s)", r.Reductions,
		bytesText(r.Input), bytesText(r.Output), r.GarbageCollections, r.ContextSwitches, r.Over)
	line("nodes", "%s", namesText(k.Nodes))
	line("hidden nodes", "%s", namesText(k.HiddenNodes))
	var apps []string
	for _, a := range k.Applications {
		apps = append(apps, a.Name+" "+a.Vsn)
	}
	line("applications", "%s", namesText(apps))
	v.renderBusiest(b, k)
}

// renderBusiest shows the busiest processes as a table.
func (v *peekView) renderBusiest(b *bytes.Buffer, k *peeked) {
	fmt.Fprintf(b, "\nbusiest of %d processes that were looked at, of %d\n", k.Sampled, k.Processes.Count)
	head := fmt.Sprintf("%-12s %9s %9s %12s  %-14s %s", "by", "memory", "messages", "reductions", "pid", "name, or what it is in")
	fmt.Fprintln(b, v.screen.paint(head, bold))
	for _, kind := range []struct {
		by   string
		list []process
	}{{"memory", k.ByMemory}, {"messages", k.ByMessages}, {"reductions", k.ByReductions}} {
		by := kind.by
		for _, p := range kind.list {
			what := strings.TrimPrefix(p.Name+", "+p.Function, ", ")
			row := fmt.Sprintf("%-12s %9s %9d %12d  %-14s %s", by, bytesText(float64(p.Memory)), p.Messages, p.Reductions, p.PID, printable(what))
			if columns := v.screen.columns(0); columns > 0 {
				row = cut(row, columns)
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
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
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
