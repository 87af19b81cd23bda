package peers

import (
	"context"
	"net/netip"

	"github.com/goerlang/eclus/epmd"
)

// session tries to get a stream, and reads it. It has a goroutine.
type session struct {
	events chan event // read by the peer until it cancels; never closed
	cancel context.CancelFunc
}

// event is news of a session: it has a stream, or a line has come, or it has ended.
type event struct {
	stream Stream
	who    Who // with stream, and with a line of kind PeerName
	line   epmd.Line
	err    error
}

// open begins to try these addresses.
func (ps *Peers) open(ctx context.Context, addrs []netip.AddrPort) *session {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{make(chan event), cancel}
	ps.mu.Lock()
	alive := ps.keepAlive()
	ps.mu.Unlock()
	ours := ps.Hello()
	if ps.Silent {
		ours = epmd.PeerHello{}
	}
	ps.running.Go(func() { s.run(ctx, ps.Watch, addrs, ours, alive) })
	return s
}

func (s *session) run(ctx context.Context, watch WatchFunc, addrs []netip.AddrPort, ours epmd.PeerHello, alive epmd.KeepAlive) {
	stream, err := watch(ctx, addrs, ours, alive)
	if err != nil {
		s.send(ctx, event{err: err})
		return
	}
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	defer stream.Close()
	for e := (event{stream: stream, who: stream.Who()}); s.send(ctx, e) && e.err == nil; {
		e = event{}
		if e.line, e.err = stream.Next(); e.line.Kind == epmd.PeerName {
			e.who = stream.Who()
		}
	}
}

// send reports whether the peer has taken the event.
func (s *session) send(ctx context.Context, e event) bool {
	select {
	case s.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// watch is WatchFunc over the network.
func watch(ctx context.Context, addrs []netip.AddrPort, ours epmd.PeerHello, alive epmd.KeepAlive) (Stream, error) {
	s, err := epmd.NewClient(addrs...).WatchPeer(ctx, ours, alive)
	if err != nil {
		return nil, err
	}
	return tcpStream{s}, nil
}

type tcpStream struct{ *epmd.PeerStream }

func (s tcpStream) Who() Who { return Who{s.Hello, s.Addr, s.Local} }
