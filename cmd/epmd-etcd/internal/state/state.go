// Package state says how epmd-etcd is: to the service manager in a line, and in the log when it
// changes.
package state

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goerlang/eclus/internal/message"
)

// Messages that epmd-etcd.catalog explains to an operator.
const (
	Reached    message.ID = "3c1d7b0a52e94f0c8f5e6a9b7d204c11"
	Away       message.ID = "8e0f4a6c1b7d4f3a9a52c3d06e71b2f4"
	NotPut     message.ID = "b2a96d35c08e4e17a4f1d97c6053e8aa"
	Shared     message.ID = "f6d0b83e947a45c2b1c84e2a709d5f36"
	BadValue   message.ID = "4a7c2e91d6f04b58932b0d1e8c65f7a0"
	NotWritten message.ID = "d15e8f20b3c74a69b07a96e4c2f8d513"
)

// State is how epmd-etcd is. Make it with New. Its methods may be called concurrently, and none
// but Run blocks.
type State struct {
	log *slog.Logger

	mu       sync.Mutex
	endpoint string // of the etcd that tells of the hosts
	revision int64
	hosts    int
	own      netip.AddrPort // as it is in etcd

	away, notPut, notWritten trouble
	changed                  chan struct{} // holds a token after a change
}

// trouble is what does not work, since when and why.
type trouble struct {
	since time.Time // zero: it works
	why   string
	said  []string // each reason since then, the first maxSaid
}

// maxSaid is how many reasons of one trouble are logged.
const maxSaid = 8

func (t trouble) text(what string) string {
	return fmt.Sprintf("%s since %s: %s", what, t.since.Format("2006-01-02 15:04:05"), t.why)
}

// set says why something does not work, if err is an error. It reports whether that is news.
func (t *trouble) set(err error) (isNews bool) {
	if err == nil {
		isNews = !t.since.IsZero()
		*t = trouble{}
		return isNews
	}
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.why = oneLine(err.Error())
	if isNews = len(t.said) < maxSaid && !slices.Contains(t.said, t.why); isNews {
		t.said = append(t.said, t.why)
	}
	return isNews
}

// New returns the state of an epmd-etcd that has not reached etcd yet.
func New(log *slog.Logger) *State { return &State{log: log, changed: make(chan struct{}, 1)} }

// poke says that something is another. s.mu is held.
func (s *State) poke() {
	select {
	case s.changed <- struct{}{}:
	default: // the token is there already
	}
}

// SetReached says that etcd answers: from which endpoint, and with which revision.
func (s *State) SetReached(endpoint string, revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoint, s.revision = oneLine(endpoint), revision
	since := s.away.since
	if s.away.set(nil) {
		s.log.Info("etcd answers again", Reached.Attr(), "endpoint", endpoint, "revision", revision, "away", time.Since(since).Round(time.Millisecond))
	}
	s.poke()
}

// SetRevision says which revision etcd has told of.
func (s *State) SetRevision(revision int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision = revision
	s.poke()
}

// SetAway says why etcd can't be asked.
func (s *State) SetAway(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away.set(why) {
		s.log.Warn("etcd is away", Away.Attr(), "err", why, "hosts", s.hosts)
	}
	s.poke()
}

// SetPut says at which address etcd has this host.
func (s *State) SetPut(own netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notPut.set(nil) || s.own != own {
		s.log.Info("this host is in etcd", "address", own)
	}
	s.own = own
	s.poke()
}

// SetNotPut says why etcd does not have this host.
func (s *State) SetNotPut(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notPut.set(why) {
		s.log.Warn("this host is not in etcd", NotPut.Attr(), "err", why)
	}
	s.poke()
}

// SetWritten says how many hosts are in the nodes file, or why it could not be written.
func (s *State) SetWritten(hosts int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = hosts
	if s.notWritten.set(err) && err != nil {
		s.log.Warn("nodes file not written", NotWritten.Attr(), "err", err)
	}
	s.poke()
}

// Text returns the state in one line that can be shown.
func (s *State) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []string
	switch {
	case !s.away.since.IsZero():
		parts = append(parts, s.away.text("etcd away"))
	case s.endpoint == "":
		parts = append(parts, "etcd not reached yet")
	default:
		parts = append(parts, fmt.Sprintf("etcd %s at revision %d", s.endpoint, s.revision))
	}
	parts = append(parts, fmt.Sprintf("%d other hosts", s.hosts))
	if !s.notPut.since.IsZero() {
		parts = append(parts, s.notPut.text("this host is not in etcd"))
	} else if s.own.IsValid() {
		parts = append(parts, fmt.Sprintf("this host is %v", s.own))
	}
	if !s.notWritten.since.IsZero() {
		parts = append(parts, s.notWritten.text("nodes file not written"))
	}
	return strings.Join(parts, "; ")
}

const (
	tellEvery = 100 * time.Millisecond // at most
	tellAgain = time.Second            // after a failure
)

// Run calls tell with the text, now and when it changes, until ctx ends. If tell fails, Run calls
// it again a second later.
func (s *State) Run(ctx context.Context, tell func(text string) error) error {
	for said := ""; ; {
		pause := tellEvery
		if now := s.Text(); now != said {
			if err := tell(now); err == nil {
				said = now
			} else {
				s.log.Warn("service manager not told", "err", err)
				pause = tellAgain
				s.mu.Lock()
				s.poke()
				s.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		}
	}
}

// maxText is how much of another's text is shown, in bytes.
const maxText = 300

// oneLine returns the beginning of a text, with what can't be printed as in a Go string.
func oneLine(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	quoted := fmt.Sprintf("%q", s)
	return strings.ReplaceAll(cmp.Or(quoted[1:len(quoted)-1], "?"), `\"`, `"`)
}
