// Package table lays out rows of cells in columns. If a screen is too narrow for all, columns are
// left out, and the texts of one column cut.
package table

import (
	"slices"
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
)

// Empty stands in a cell that says nothing.
const Empty = "-"

// apart is how many blanks are between two columns.
const apart = 2

// Cell is what a column says in a row. It is printable.
type Cell struct {
	Text string
	Mark string // follows, and is never cut off
	Look screen.Look
}

func (c Cell) width() int { return screen.TextWidth(c.Text) + screen.TextWidth(c.Mark) }

// Table says what columns there are. A row has a cell for each.
type Table struct {
	Screen   screen.Screen
	Titles   []string
	Optional int // this column and those after it are left out where they are empty

	// What is left out of a table that is too wide, first to last. From place Short on, texts of
	// column Cut are first cut, down to MinWidth.
	Expendable           []int
	Short, Cut, MinWidth int
}

// Lines returns the titles and the rows, as many columns wide as the screen. Titles are bold.
func (t Table) Lines(rows [][]Cell) []string {
	var head []Cell
	for _, title := range t.Titles {
		head = append(head, Cell{Text: title, Look: screen.Bold})
	}
	rows = slices.Insert(slices.Clone(rows), 0, head)
	l := t.layOut(rows, t.Screen.Columns(0))
	var lines []string
	for _, r := range rows {
		lines = append(lines, t.line(r, l))
	}
	return lines
}

// Line returns a row that stands alone, after so many columns of the screen.
func (t Table) Line(row []Cell, after int) string {
	return t.line(row, t.layOut([][]Cell{row}, t.Screen.Columns(after)))
}

// layout says which columns are shown, and how wide each is.
type layout struct{ columns, widths []int }

// layOut fits rows into lines of that width; 0: of any.
func (t Table) layOut(rows [][]Cell, width int) layout {
	l := layout{widths: make([]int, len(t.Titles))}
	for column := range t.Titles {
		for _, r := range rows {
			l.widths[column] = max(l.widths[column], r[column].width())
		}
		if column < t.Optional || !t.isEmpty(rows, column) {
			l.columns = append(l.columns, column)
		}
	}
	if width == 0 {
		return l
	}
	cut := l.widths[t.Cut]
	for i, column := range t.Expendable {
		if i == t.Short {
			cut = min(cut, t.MinWidth)
		}
		if l.beside(t.Cut)+cut <= width {
			break
		}
		l.columns = slices.DeleteFunc(l.columns, func(c int) bool { return c == column })
	}
	l.widths[t.Cut] = min(l.widths[t.Cut], width-l.beside(t.Cut))
	return l
}

// beside returns how much of a line is for other columns.
func (l layout) beside(column int) int {
	total := 0
	for _, c := range l.columns {
		if c != column {
			total += apart + l.widths[c]
		}
	}
	return total
}

// isEmpty reports whether no row has anything in a column.
func (t Table) isEmpty(rows [][]Cell, column int) bool {
	return !slices.ContainsFunc(rows, func(r []Cell) bool {
		return r[column].Text != Empty && r[column].Text != t.Titles[column]
	})
}

// line returns a row as it is printed.
func (t Table) line(r []Cell, l layout) string {
	var line strings.Builder
	for i, column := range l.columns {
		c := r[column]
		if column == t.Cut {
			c.Text = screen.Cut(c.Text, l.widths[column]-screen.TextWidth(c.Mark))
		}
		line.WriteString(t.Screen.Paint(c.Text+c.Mark, c.Look))
		if i < len(l.columns)-1 {
			line.WriteString(strings.Repeat(" ", max(0, l.widths[column]-c.width())+apart))
		}
	}
	return line.String()
}
