package main

import (
	"fmt"
	"io"
	"slices"
)

// table prints its rows as they come.
type table struct {
	w    io.Writer
	rows int
}

func (t *table) head() {
	fmt.Fprintf(t.w, "%-54s %12s %12s %9s  %s\n", "", "ours", "stock", "", "aimed at")
}

// row prints one figure. The verdict is whether it is what is aimed at.
func (t *table) row(what, ours, stock, ratio, target string, met bool) {
	verdict := "met"
	switch {
	case target == "":
		verdict = ""
	case !met:
		verdict = "MISSED"
	}
	t.rows++
	fmt.Fprintf(t.w, "%-54s %12s %12s %9s  %-9s %s\n", what, ours, stock, ratio, target, verdict)
}

// better prints how many times ours is better than the stock, and whether that is at least target.
func (t *table) better(what string, c comparison, format func(float64) string, target float64) {
	t.row(what, format(c.ours), format(c.stock), fmt.Sprintf("%.2f x", c.ratio),
		fmt.Sprintf(">= %g x", target), c.ratio >= target)
}

// atMost prints a figure of ours that has an upper bound beside the stock's, which is for
// information.
func (t *table) atMost(what string, ours float64, stock string, format func(float64) string, limit float64) {
	t.row(what, format(ours), stock, "", "<= "+format(limit), ours <= limit)
}

func micros(seconds float64) string { return fmt.Sprintf("%.1f us", seconds*1e6) }
func millis(seconds float64) string { return fmt.Sprintf("%.2f ms", seconds*1e3) }
func perSecond(v float64) string    { return fmt.Sprintf("%.0f /s", v) }
func megabytes(v float64) string    { return fmt.Sprintf("%.2f MB", v) }
func times(v float64) string        { return fmt.Sprintf("%.2f x", v) }

// comparison is one figure of both daemons.
type comparison struct {
	ours, stock float64 // medians
	ratio       float64 // median of how many times ours was better in a round
}

// cheaper compares two series of costs.
func cheaper(ours, stock []float64) comparison { return compared(ours, stock, stock, ours) }

// faster compares two series of rates.
func faster(ours, stock []float64) comparison { return compared(ours, stock, ours, stock) }

func compared(ours, stock, over, under []float64) comparison {
	ratios := make([]float64, len(over))
	for i := range over {
		ratios[i] = over[i] / under[i]
	}
	return comparison{median(ours), median(stock), median(ratios)}
}

func median(v []float64) float64 { return percentile(v, 50) }

// percentile returns the value that p of 100 of v are not above.
func percentile(v []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
