package stream

import (
	"context"
	"net/netip"

	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
)

// session tries to get a stream, and reads it. It has one goroutine for that, then another.
type session struct {
	events chan event // read by the Follower until it cancels; never closed
	cancel context.CancelFunc
}

// event is news of a session: it has a stream, or a line has come, or it has ended.
type event struct {
	stream Stream
	who    told.Who // with stream, and with a line of kind PeerName
	line   epmd.Line
	err    error
}

// open begins to try these addresses.
func (f *Follower) open(ctx context.Context, addrs []netip.AddrPort) *session {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{make(chan event), cancel}
	ours, alive := f.Hello(), f.KeepAlive()
	f.sessions.Go(func() {
		stream, err := f.Watch(ctx, addrs, ours, alive)
		if err != nil {
			s.send(ctx, event{err: err})
			return
		}
		// Whoever has connected keeps a stack of 8 KiB, and to read takes half of that.
		f.sessions.Go(func() { s.read(ctx, stream) })
	})
	return s
}

// read sends what comes on a stream, until it ends or ctx does.
func (s *session) read(ctx context.Context, stream Stream) {
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	defer stream.Close()
	for e := (event{stream: stream, who: stream.Who()}); s.send(ctx, e) && e.err == nil; {
		e = event{}
		if e.line, e.err = stream.Next(); e.line.Kind == epmd.PeerName {
			e.who = stream.Who()
		}
	}
}

// send reports whether the Follower has taken the event.
func (s *session) send(ctx context.Context, e event) bool {
	select {
	case s.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}
