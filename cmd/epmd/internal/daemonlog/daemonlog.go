// Package daemonlog is the daemon's log: the journal or stderr.
//
// It writes to the journal's socket, or in a goroutine to stderr. Writing an entry never blocks.
// Run blocks until its context ends, and Close for at most a second.
package daemonlog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/goerlang/eclus/systemd"
)

// Log is where the daemon writes what happens. Writing never waits. Entries that the journal, a
// terminal or a pipe does not take wait in a bounded queue. Past it they are dropped and counted.
type Log struct {
	*slog.Logger
	journal *systemd.Journal // nil: text
	text    *patientWriter   // nil: the journal
}

// Options are what a Log needs.
type Options struct {
	Debug  int  // how many -d
	Daemon bool // this process is a daemon
	Stderr io.Writer
}

// Open opens a log that says as much as OTP's epmd. Without -d it has what an operator must know,
// with one -d who comes and goes, with two every request. It is the journal if stderr leads there.
// So it is if a daemon has no stderr, but a journal. The journal always has who comes and goes.
// Otherwise the log is text on stderr.
func Open(o Options) *Log {
	level := slog.LevelWarn
	switch {
	case o.Debug == 1:
		level = slog.LevelInfo
	case o.Debug > 1:
		level = slog.LevelDebug
	}
	if o.Stderr == os.Stderr && (systemd.StderrIsJournal() || o.Daemon && exists(systemd.JournalSocket)) {
		journal := systemd.NewJournal(systemd.JournalSocket, "epmd")
		return &Log{Logger: slog.New(journal.Handler(min(level, slog.LevelInfo))), journal: journal}
	}
	text := newPatientWriter(o.Stderr)
	return &Log{Logger: slog.New(slog.NewTextHandler(text, &slog.HandlerOptions{Level: level})), text: text}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Run does what takes time, until ctx ends, and returns nil.
func (l *Log) Run(ctx context.Context) error {
	if l.journal != nil {
		l.journal.Run(ctx)
	}
	return nil
}

// Close writes what still waits, if that goes quickly.
func (l *Log) Close() {
	if l.journal != nil {
		l.journal.Close() // fails where there is no journal to tell
		return
	}
	l.text.close()
}

// patientWriter writes in a goroutine of its own to something that may block.
type patientWriter struct {
	w     io.Writer
	queue chan []byte // entries that wait; what comes when it is full is dropped
	lost  atomic.Int64
	stop  chan struct{} // closed when no more entries come
	ended chan struct{}
}

const (
	maxLogWaiting = 1024
	logEndTime    = time.Second // for what waits at the end
)

func newPatientWriter(w io.Writer) *patientWriter {
	p := &patientWriter{w: w, queue: make(chan []byte, maxLogWaiting), stop: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

// Write takes one entry. After close it is lost.
func (p *patientWriter) Write(entry []byte) (int, error) {
	select {
	case p.queue <- append([]byte(nil), entry...):
	default:
		p.lost.Add(1)
	}
	return len(entry), nil
}

func (p *patientWriter) run() {
	defer close(p.ended)
	for {
		select {
		case entry := <-p.queue:
			p.write(entry)
			continue
		case <-p.stop:
		}
		for len(p.queue) > 0 {
			p.write(<-p.queue)
		}
		return
	}
}

func (p *patientWriter) write(entry []byte) {
	p.w.Write(entry) // there is nowhere to complain
	if lost := p.lost.Swap(0); lost > 0 {
		fmt.Fprintf(p.w, "%d log entries lost\n", lost)
	}
}

func (p *patientWriter) close() {
	close(p.stop)
	select {
	case <-p.ended:
	case <-time.After(logEndTime):
	}
}
