package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"eclus/registry"
)

// tablePrinter shows nodes to a person:
//
//	epmd on port 4369: 2 nodes, 1 on the LAN
//
//	NODE            ADDRESS        PORT   TYPE    ORIGIN  SINCE
//	a@hosta.local   127.0.0.1      41233  normal  local   2026-03-01 12:00:00
//	b@hostb.local   198.51.100.12  41237  hidden  lan     2026-03-01 12:00:02
//
// and, as far as anything is known of any, PID, USER and UNIT of the process behind each node of this host. It
// shows every change as a line that begins with "+" for a node that is new, "~" for one that has changed and "-"
// for one that has gone.
type tablePrinter struct {
	out   io.Writer
	zone  *time.Location
	users userNames
}

// tableHead is the first row. Columns from holderColumn on are left out where they are empty.
var tableHead = [...]string{"NODE", "ADDRESS", "PORT", "TYPE", "ORIGIN", "SINCE", "PID", "USER", "UNIT"}

const (
	holderColumn = 6
	emptyCell    = "-"
)

// unsureMark follows the name of a node that did not tell it.
const unsureMark = " ?"

func (p tablePrinter) snapshot(k *knownNodes) {
	list := k.sorted()
	rows := [][]string{tableHead[:]}
	lan, unsure := 0, 0
	for _, n := range list {
		rows = append(rows, p.row(n))
		if n.Origin == registry.LAN {
			lan++
		}
		if !n.Sure {
			unsure++
		}
	}
	fmt.Fprintf(p.out, "epmd on port %d: %s, %d on the LAN\n", k.epmdPort, counted(len(list), "node"), lan)
	if k.lanOff != "" {
		fmt.Fprintf(p.out, "LAN discovery off: %s\n", printable(k.lanOff))
	}
	if len(list) > 0 {
		fmt.Fprintln(p.out)
		printColumns(p.out, withoutEmpty(rows))
	}
	if unsure > 0 {
		fmt.Fprintf(p.out, "\n%s: full name not confirmed by the node\n", strings.TrimSpace(unsureMark))
	}
}

func (p tablePrinter) change(kind registry.EventKind, n registry.Node) {
	sign := map[registry.EventKind]string{registry.Up: "+", registry.Changed: "~", registry.Down: "-"}[kind]
	fmt.Fprintln(p.out, sign, strings.Join(withoutEmpty([][]string{p.row(n)})[0], "  "))
}

func (p tablePrinter) row(n registry.Node) []string {
	name := printable(n.Node)
	if !n.Sure {
		name += unsureMark
	}
	address := emptyCell
	if len(n.Addresses) > 0 {
		address = printable(n.Addresses[0].String())
	}
	pid, owner, unit := p.holderCells(n.Holder)
	return []string{
		name,
		address,
		strconv.Itoa(int(n.Port)),
		n.Type.String(),
		n.Origin.String(),
		n.Since.In(p.zone).Format(time.DateTime),
		pid,
		owner,
		unit,
	}
}

// holderCells returns what is shown of the process behind a node.
func (p tablePrinter) holderCells(h *registry.Holder) (pid, owner, unit string) {
	if h == nil {
		return emptyCell, emptyCell, emptyCell
	}
	pid, unit = emptyCell, printable(cmp.Or(h.Unit, emptyCell))
	if h.PID != 0 {
		pid = strconv.Itoa(int(h.PID))
	}
	return pid, cmp.Or(printable(p.users.of(h.UID)), strconv.FormatUint(uint64(h.UID), 10)), unit
}

// withoutEmpty returns rows of the table without those columns of holders in which no node has anything.
func withoutEmpty(rows [][]string) [][]string {
	kept := make([][]string, len(rows))
	for column, title := range tableHead {
		isEmpty := func(row []string) bool { return row[column] == emptyCell || row[column] == title }
		if column >= holderColumn && !slices.ContainsFunc(rows, func(row []string) bool { return !isEmpty(row) }) {
			continue
		}
		for i, row := range rows {
			kept[i] = append(kept[i], row[column])
		}
	}
	return kept
}

// printColumns prints rows with the columns below each other.
func printColumns(out io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		fmt.Fprintln(out, strings.TrimRight(line.String(), " "))
	}
}

// counted returns a number with what it counts, in the plural unless it is 1.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
