package listing

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/registry"
)

// tablePrinter shows nodes to a person:
//
//	epmd on port 4369: 2 nodes, 1 on the LAN
//
//	NODE            ADDRESS        PORT   TYPE    ORIGIN  REACHABLE  SINCE                VIA
//	a@hosta.local   127.0.0.1      41233  normal  local   yes        2026-03-01 12:00:00  -
//	b@hostb.local   198.51.100.12  41237  hidden  lan     no         2026-03-01 12:00:02  epmd
//
// From VIA on, columns are there if there is something in them. VIA says how a neighbour is known:
// "epmd" if the epmd of its host says so. EPMD is the port of a node's epmd if it
// differs from ours. PID, USER and UNIT are those of the process behind a node of this host. It
// shows each change on a line. "+" begins that of a new node, "~" of one that changed, "-" of one
// that went. Columns that the screen is too narrow for are left out, and names cut.
type tablePrinter struct {
	out    io.Writer
	screen screen.Screen
	zone   *time.Location
	users  userNames
	port   uint32 // of this epmd
}

// Columns of the table. Those from viaColumn on are left out where they are empty.
const (
	nodeColumn = iota
	addressColumn
	portColumn
	typeColumn
	originColumn
	reachColumn
	sinceColumn
	viaColumn
	epmdColumn
	pidColumn
	userColumn
	unitColumn
	columnCount
)

var tableHead = [columnCount]string{"NODE", "ADDRESS", "PORT", "TYPE", "ORIGIN", "REACHABLE", "SINCE", "VIA", "EPMD", "PID", "USER", "UNIT"}

// cell is what a column says of a node. It is printable.
type cell struct {
	text string
	mark string // follows, and is never cut off
	look screen.Look
}

func (c cell) width() int { return screen.TextWidth(c.text) + screen.TextWidth(c.mark) }

// row has a cell for each column.
type row [columnCount]cell

const (
	emptyCell    = "-"
	columnsApart = 2
)

// whyTexts explain why nodes of this host are not announced, in short lines.
var whyTexts = []struct {
	why  registry.Why
	text string
}{
	{registry.WhyName, "OTP takes no such name"},
	{registry.WhyHost, "its host is loopback"},
	{registry.WhyClosed, "nobody listens there"},
	{registry.WhyLoopback, "listens on loopback only"},
	{registry.WhyInterface, "listens on none to a LAN"},
}

// unsureMark follows the name of a node that did not tell it.
const unsureMark = " ?"

func (p tablePrinter) snapshot(k *knownNodes) {
	list := k.listed()
	var counts [registry.Origins]int
	unsure := 0
	why := make(map[registry.Why]bool)
	for _, n := range list {
		why[n.Why] = true
		counts[n.Origin]++
		if !n.Sure {
			unsure++
		}
	}
	elsewhere := ""
	if n := counts[registry.Peer]; n > 0 {
		elsewhere = fmt.Sprintf(", %d elsewhere", n)
	}
	fmt.Fprintf(p.out, "epmd on port %d: %s, %d on the LAN%s\n", k.epmdPort, k.count(len(list)), counts[registry.LAN], elsewhere)
	if k.lanOff != "" {
		fmt.Fprintf(p.out, "LAN discovery off: %s\n", screen.Printable(k.lanOff))
	}
	if k.silent != "" {
		fmt.Fprintf(p.out, "this host is not announced: %s\n", screen.Printable(k.silent))
	}
	p.printWithout(k.without)
	if len(list) > 0 {
		fmt.Fprintln(p.out)
		p.printRows(list)
	}
	if unsure > 0 {
		fmt.Fprintf(p.out, "\n%s: full name not confirmed by the node\n", strings.TrimSpace(unsureMark))
	}
	p.explain(why)
}

// maxWithout is how many epmds are shown that give no stream.
const maxWithout = 5

// printWithout says which epmds give no stream, and why.
func (p tablePrinter) printWithout(list []registry.NoStream) {
	for i, n := range list {
		if i == maxWithout {
			fmt.Fprintf(p.out, "no stream from %d more\n", len(list)-maxWithout)
			return
		}
		from := n.EPMD.String()
		if n.Host != "" {
			from = n.Host + " (" + from + ")"
		}
		fmt.Fprintf(p.out, "no stream from %s: %s\n", screen.Printable(from), screen.Printable(n.Why))
	}
}

// explain says what the reasons mean for which nodes are not announced.
func (p tablePrinter) explain(why map[registry.Why]bool) {
	first := "\nkept from the LAN:\n"
	for _, w := range whyTexts {
		if why[w.why] {
			fmt.Fprintf(p.out, "%s%s: %s\n", first, w.why, w.text)
			first = ""
		}
	}
}

// printRows prints the head of the table and the nodes, in columns.
func (p tablePrinter) printRows(list []registry.Node) {
	rows := []row{headRow()}
	for _, n := range list {
		rows = append(rows, p.row(n))
	}
	l := layOut(rows, p.screen.Columns(0))
	for _, r := range rows {
		fmt.Fprintln(p.out, p.line(r, l))
	}
}

func (p tablePrinter) change(kind registry.EventKind, n registry.Node) {
	sign := map[registry.EventKind]cell{
		registry.Up:      {text: "+", look: screen.Green},
		registry.Changed: {text: "~", look: screen.Yellow},
		registry.Down:    {text: "-", look: screen.Red},
	}[kind]
	r := p.row(n)
	l := layOut([]row{r}, p.screen.Columns(len("+ ")))
	fmt.Fprintln(p.out, p.screen.Paint(sign.text, sign.look), p.line(r, l))
}

func headRow() row {
	var r row
	for column, title := range tableHead {
		r[column] = cell{text: title, look: screen.Bold}
	}
	return r
}

func (p tablePrinter) row(n registry.Node) row {
	name := cell{text: screen.Printable(n.Node)}
	if !n.Sure {
		name.mark, name.look = unsureMark, screen.Faint
	}
	address := emptyCell
	if len(n.Addresses) > 0 {
		address = screen.Printable(n.Addresses[0].String())
	}
	pid, owner, unit := p.holderCells(n.Holder)
	return row{
		nodeColumn:    name,
		addressColumn: {text: address},
		portColumn:    {text: strconv.Itoa(int(n.Port))},
		typeColumn:    {text: n.Type.String()},
		originColumn:  {text: n.Origin.String()},
		reachColumn:   reachCell(n),
		sinceColumn:   {text: n.Since.In(p.zone).Format(time.DateTime)},
		viaColumn:     {text: screen.Printable(cmp.Or(n.Via, emptyCell))},
		epmdColumn:    {text: p.epmdCell(n)},
		pidColumn:     {text: pid},
		userColumn:    {text: owner},
		unitColumn:    {text: unit},
	}
}

func reachCell(n registry.Node) cell {
	switch {
	case n.Why != "":
		return cell{text: screen.Printable(string(n.Why)), look: screen.Yellow}
	case n.Reach == registry.Unchecked:
		return cell{text: emptyCell}
	case n.Reach == registry.Unreachable:
		return cell{text: n.Reach.String(), look: screen.Red}
	}
	return cell{text: n.Reach.String()}
}

// epmdCell returns the port of a node's epmd if it differs from ours.
func (p tablePrinter) epmdCell(n registry.Node) string {
	if n.EPMDPort == 0 || uint32(n.EPMDPort) == p.port {
		return emptyCell
	}
	return strconv.Itoa(int(n.EPMDPort))
}

// holderCells returns what is shown of the process behind a node.
func (p tablePrinter) holderCells(h *registry.Holder) (pid, owner, unit string) {
	if h == nil {
		return emptyCell, emptyCell, emptyCell
	}
	pid, unit = emptyCell, screen.Printable(cmp.Or(h.Unit, emptyCell))
	if h.PID != 0 {
		pid = strconv.Itoa(int(h.PID))
	}
	return pid, cmp.Or(screen.Printable(p.users.of(h.UID)), strconv.FormatUint(uint64(h.UID), 10)), unit
}

// layout says which columns are shown, and how wide.
type layout struct {
	columns []int
	widths  [columnCount]int
}

// What is left out of a table that is too wide, first to last. From shortNames on, names are first
// cut, down to minNameWidth.
var expendable = []int{unitColumn, userColumn, pidColumn, viaColumn, sinceColumn, originColumn, typeColumn, epmdColumn, addressColumn, portColumn, reachColumn}

const (
	shortNames   = 5
	minNameWidth = 20
)

// layOut fits rows into lines of that width; 0: of any.
func layOut(rows []row, width int) layout {
	var l layout
	for column := range columnCount {
		for _, r := range rows {
			l.widths[column] = max(l.widths[column], r[column].width())
		}
		if column < viaColumn || !isEmptyColumn(rows, column) {
			l.columns = append(l.columns, column)
		}
	}
	if width == 0 {
		return l
	}
	name := l.widths[nodeColumn]
	for i, column := range expendable {
		if i == shortNames {
			name = min(name, minNameWidth)
		}
		if l.besideNames()+name <= width {
			break
		}
		l.columns = slices.DeleteFunc(l.columns, func(c int) bool { return c == column })
	}
	l.widths[nodeColumn] = min(l.widths[nodeColumn], width-l.besideNames())
	return l
}

// besideNames returns how much of a line is not for the name.
func (l layout) besideNames() int {
	total := 0
	for _, column := range l.columns {
		if column != nodeColumn {
			total += columnsApart + l.widths[column]
		}
	}
	return total
}

// isEmptyColumn reports whether no node has anything in a column.
func isEmptyColumn(rows []row, column int) bool {
	return !slices.ContainsFunc(rows, func(r row) bool {
		return r[column].text != emptyCell && r[column].text != tableHead[column]
	})
}

// line returns a row as it is printed.
func (p tablePrinter) line(r row, l layout) string {
	r[nodeColumn].text = screen.Cut(r[nodeColumn].text, l.widths[nodeColumn]-screen.TextWidth(r[nodeColumn].mark))
	var line strings.Builder
	for i, column := range l.columns {
		c := r[column]
		line.WriteString(p.screen.Paint(c.text+c.mark, c.look))
		if i < len(l.columns)-1 {
			line.WriteString(strings.Repeat(" ", max(0, l.widths[column]-c.width())+columnsApart))
		}
	}
	return line.String()
}
