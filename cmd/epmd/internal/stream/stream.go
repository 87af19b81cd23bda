// Package stream keeps a stream to one epmd, which tells its nodes.
//
// A Follower tries the addresses of the epmd until it has a stream. If the stream is lost, it tries
// again, and decides what becomes of the nodes. An Owner knows why the epmd is followed, and who
// may be at the other end. Network is TCP.
//
// A Follower has a goroutine, Run, with all its timers. It has a second one while there is a stream
// or a try. Run returns when both have ended. The other methods don't block.
package stream

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/goerlang/eclus/cmd/epmd/internal/told"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/throttle"
	"github.com/goerlang/eclus/registry"
)

// Stream is what an epmd tells. [epmd.PeerStream] says what Next returns.
type Stream interface {
	Next() (epmd.Line, error)
	Who() told.Who // by another goroutine only before the first Next
	SetKeepAlive(epmd.KeepAlive) error
	Close() error
}

// WatchFunc asks the epmd at these addresses, the best first, for a stream.
type WatchFunc func(ctx context.Context, addrs []netip.AddrPort, ours epmd.PeerHello, alive epmd.KeepAlive) (Stream, error)

// Watch is WatchFunc over the network.
func Watch(ctx context.Context, addrs []netip.AddrPort, ours epmd.PeerHello, alive epmd.KeepAlive) (Stream, error) {
	s, err := epmd.NewClient(addrs...).WatchPeer(ctx, ours, alive)
	if err != nil {
		return nil, err
	}
	return tcpStream{s}, nil
}

type tcpStream struct{ *epmd.PeerStream }

func (s tcpStream) Who() told.Who { return told.Who{Hello: s.Hello, Addr: s.Addr, Local: s.Local} }

// Options are what all Followers share.
type Options struct {
	Watch     WatchFunc
	Hello     func() epmd.PeerHello // what this epmd says of itself
	KeepAlive func() epmd.KeepAlive // for a new stream
	Nodes     *told.All
	Slots     Slots
	Say       *throttle.Throttle
	Once      *throttle.Minute // that a host gives no stream, and why
	Log       *slog.Logger
}

// Slots have room for those that make a connection. Those to epmds that are away keep no others
// waiting. Each holds a token for each of them.
type Slots struct {
	Now   chan struct{} // to epmds that have just asked us: KickNow
	First chan struct{} // first tries
	Again chan struct{} // after a try that has failed
}

// NewSlots returns slots with so much room of each kind.
func NewSlots(n int) Slots {
	return Slots{make(chan struct{}, n), make(chan struct{}, n), make(chan struct{}, n)}
}

// Owner is whoever has an epmd followed. Its methods may be called concurrently. They don't block,
// except for what the kernel says of an address.
type Owner interface {
	// Facts returns what is known, and takes the Kick.
	Facts() Facts

	// Tries returns those of the addresses that may be tried now. None are left if the epmd is
	// tried too often, or has moved to where nobody may be led by an announcement.
	Tries([]netip.AddrPort) []netip.AddrPort

	// Settle decides who is at the other end of a new stream, or of one that has a new host name.
	// The Owner has the stream from then on, if it is Welcome, until Lost.
	Settle(told.Who, Stream) Verdict

	// Lost notes that the stream has ended.
	Lost()

	// Moved notes that the epmd may have other addresses than are known.
	Moved()

	// SetStreamed enters whether the epmd gives a stream, so that nothing of it is resolved.
	SetStreamed(bool)

	// Explain notes why no stream can be had. nil: there is one, or none is wanted.
	Explain(error)

	// AskNames begins or ends asking a configured epmd by NAMES_REQ.
	AskNames(bool)

	// Forget notes that the epmd has been unreachable for 10 minutes.
	Forget()

	// Release reports whether nothing says any more that the epmd exists. If so, Run returns.
	Release() bool
}

// Kick says that an epmd without a stream is to be tried.
type Kick uint8

// Kicks, the weakest first.
const (
	KickNot  Kick = iota
	KickSoon      // after some jitter, as others are kicked too
	KickNow
)

// Facts are what an Owner knows of an epmd.
type Facts struct {
	Addrs   []netip.AddrPort // the best first
	Origin  registry.Origin  // of its nodes; the last one counts while not Sourced
	Named   bool             // this host's owner has named it; as Origin
	Sourced bool             // it is announced, has asked us or is configured
	Kick    Kick
	Evicted bool   // another epmd has its host name
	Host    string // for the log; empty: not known
}

// Verdict says what becomes of a stream once the other end has said who it is.
type Verdict uint8

// Verdicts.
const (
	Welcome   Verdict = iota
	Ourselves         // it is this epmd
	Twin              // another stream leads to the same epmd over the same link
	Impostor          // another epmd has its host name
	Greedy            // too many streams lead there
)

// Error says why there is no stream.
func (v Verdict) Error() string {
	return [...]string{"", "it is this epmd", "there is another stream to it", "another epmd has its host name",
		"too many streams lead to its address"}[v]
}
