package table

import (
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
)

func cells(texts ...string) (row []Cell) {
	for _, text := range texts {
		row = append(row, Cell{Text: text})
	}
	return row
}

// TestLines shows one table on screens that are more and more narrow.
func TestLines(t *testing.T) {
	table := Table{
		Titles:     []string{"NAME", "PORT", "TYPE", "NOTE", "MORE"},
		Optional:   3,
		Expendable: []int{4, 2, 1},
		Short:      2,
		MinWidth:   4,
	}
	rows := [][]Cell{cells("alphabet", "1", "normal", Empty, "x"), cells("b", "20", "hidden", Empty, Empty)}
	rows[1][0].Mark = " ?"
	for width, want := range map[int]string{
		0:  "NAME      PORT  TYPE    MORE\nalphabet  1     normal  x\nb ?       20    hidden  -",
		28: "NAME      PORT  TYPE    MORE\nalphabet  1     normal  x\nb ?       20    hidden  -",
		27: "NAME      PORT  TYPE\nalphabet  1     normal\nb ?       20    hidden",
		19: "NAME      PORT\nalphabet  1\nb ?       20",
		12: "NAME    PORT\nalpha…  1\nb ?     20",
		9:  "NAME\nalphabet\nb ?",
		5:  "NAME\nalph…\nb ?",
	} {
		table.Screen = screen.Screen{Width: func() int { return width }}
		lines := table.Lines(rows)
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ")
		}
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("%d columns: got\n%s\nwant\n%s", width, got, want)
		}
	}
	if rows[0][0].Text != "alphabet" {
		t.Errorf("the row became %v", rows[0])
	}
}

// TestLine shows a row that stands alone.
func TestLine(t *testing.T) {
	table := Table{Screen: screen.Screen{Width: func() int { return 10 }}, Titles: []string{"NAME", "PORT"}, Optional: 1, Expendable: []int{1}}
	for _, tt := range []struct {
		row  []Cell
		want string
	}{
		{cells("ab", "1"), "ab  1"},
		{cells("abcdef", "12"), "abc…  12"},
		{cells("ab", Empty), "ab"},
	} {
		if got := table.Line(slices.Clone(tt.row), 2); got != tt.want {
			t.Errorf("got %q; want %q", got, tt.want)
		}
	}
}
