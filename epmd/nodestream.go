package epmd

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/goerlang/eclus/registry"
)

// streamTimeout is how long a peer may take over one whole write: the snapshot, or all changes
// that were waiting. Progress does not prolong it.
const streamTimeout = 10 * time.Second

// errBehind is why a subscriber is cut off: it reads more slowly than nodes come and go. To learn
// what has gone, it must ask anew.
var errBehind = errors.New("subscriber fell behind")

// nodeStream answers one NodesReq or WatchReq.
type nodeStream struct {
	registry *registry.Registry
	port     uint16
	follow   bool
	found    []*registry.Node // not nil: tell of these alone
	conn     *os.File         // a non-blocking socket
	peer     netip.AddrPort
	log      *slog.Logger
}

// nodeStream returns the stream that answers a NodesReq, or a WatchReq if it is to follow
// changes. Each of the two has a share of its own.
func (s *Server) nodeStream(from caller, follow bool) *stream {
	ns := &nodeStream{
		registry: s.cfg.Registry,
		port:     s.cfg.Port,
		follow:   follow,
		peer:     from.peer,
		log:      s.log,
	}
	requests := "nodes"
	if follow {
		requests = "watch"
	}
	return &stream{shares: []share{{requests, maxStreams}}, reserve: true, run: ns.run}
}

// foundStream returns the stream that tells of the nodes that were found.
func (s *Server) foundStream(from caller, found []*registry.Node) *stream {
	ns := &nodeStream{port: s.cfg.Port, found: found, peer: from.peer, log: s.log}
	return &stream{shares: []share{{"nodes", maxStreams}}, reserve: true, run: ns.run}
}

// appendNodes appends the port and a line for each node, as an answer has them.
func appendNodes(dst []byte, port uint16, nodes []*registry.Node) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(port))
	for _, n := range nodes {
		dst = appendNode(dst, NodeKnown, n)
	}
	return dst
}

// run sends the snapshot and, if it is to follow, every change. It ends with ctx, when the peer
// ends, or when the peer falls behind. It closes the connection.
func (s *nodeStream) run(ctx context.Context, conn *os.File) {
	s.conn = conn
	// Not from the context below: a peer that closes its half first is still told what it asked
	// for.
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.awaitPeer()
		stop()
	}()
	if err := s.send(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("subscriber cut off", "peer", s.peer, "err", err)
	}
	s.conn.Close()
	<-closed
}

// awaitPeer returns when the peer closes, or says anything: it has nothing more to say.
func (s *nodeStream) awaitPeer() {
	var b [1]byte
	s.conn.Read(b[:])
}

func (s *nodeStream) send(ctx context.Context) error {
	if s.found != nil {
		return s.write(appendNodes(nil, s.port, s.found))
	}
	changes := s.registry.Subscribe()
	defer changes.Close()
	first := changes.Take()
	out := appendNodes(nil, s.port, first.Nodes)
	if !s.follow {
		return s.write(out)
	}
	for _, n := range s.registry.NoStreams() {
		out = appendNoStream(out, n)
	}
	out = appendSnapshotEnd(out, len(first.Nodes), *first.LAN)
	for {
		if err := s.write(out); err != nil {
			return err
		}
		b, err := changes.Next(ctx)
		if err != nil {
			return err
		}
		if b.Anew {
			return errBehind
		}
		out = out[:0]
		for _, e := range b.Events {
			out = appendNode(out, lineKind(e.Kind), e.Node)
		}
	}
}

func lineKind(k registry.EventKind) LineKind {
	if k == registry.Down {
		return NodeGone
	}
	return NodeKnown
}

func (s *nodeStream) write(b []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(streamTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(b)
	return err
}
