package epmd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/goerlang/eclus/registry"
)

// DefaultPacketTimeout is the default of Config.PacketTimeout.
const DefaultPacketTimeout = 60 * time.Second

// Errors of Serve.
var (
	// ErrKilled is what Serve returns after a KILL_REQ that was granted.
	ErrKilled = errors.New("killed by request")
	// ErrHandOver is the cause with which Serve's context is cancelled for another to go on: the sockets
	// that listen and those of registered nodes stay open, see Server.HandOver.
	ErrHandOver = errors.New("handed over")
)

// Keeper keeps the connections of nodes for when this process has ended. Keep and Release must not block.
type Keeper interface {
	// Keep is called before the registration of n is answered, and again for a restored node that has had no
	// answer. Its connection is fd, which stays open until Release. Keep reports whether the answer may be sent
	// now: the connection is kept, or it is known that it can't be. If not, kept is called once it may,
	// within some seconds, by another goroutine and with no lock held that Keep or Release take.
	Keep(fd int, n *registry.Node, kept func()) bool
	// Release is called when n has gone, or is to go, before its connection is closed.
	Release(n *registry.Node)
	// Flush is called when nobody registers any more and before connections are closed. It keeps what is
	// not kept yet, calling kept for each, and gives up after some seconds.
	Flush()
}

// Restored is a node that was registered with an earlier process, and its connection.
type Restored struct {
	FD           int // non-blocking, and checked to be alive
	Registration *registry.Registration
}

// Config says how a Server behaves. Only Registry must be set.
type Config struct {
	Registry *registry.Registry
	Log      *slog.Logger // Debug: each request; Warn: what was refused; must not block; nil: none
	Port     uint16       // told in answers; 0: DefaultPort
	Access   Access       // who is answered
	Relaxed  bool         // grant StopReq, and KillReq while nodes are registered

	// PacketTimeout is how long a connection that has not registered may say nothing. Each byte starts it
	// anew. As OTP's epmd does, the server closes up to a second later. 0: DefaultPacketTimeout.
	PacketTimeout time.Duration

	DelayAccept time.Duration // before each round of accepting, to simulate a busy server
	DelayWrite  time.Duration // before each answer, to simulate a busy server

	// Files bounds the connections: at most Files-64 nodes can be registered, or Files/2 if that is more,
	// which leaves some for lookups and for the rest of the process. 0: the process's limit on open files.
	Files int

	// Keeper keeps connections for the next process. With one, Serve unregisters nobody when it ends. nil:
	// registrations end with Serve.
	Keeper Keeper

	// Own reports whether a node that registered from there is this process itself, which is no reason to
	// refuse KillReq. It must not block. nil: none is.
	Own func(peer netip.AddrPort) bool

	// Restored are registered nodes to begin with, which Serve takes over.
	Restored []Restored

	// LANOff returns why there is no LAN discovery, or "" if there is; WatchReq is told. nil: there is.
	LANOff func() string

	// Unpublished returns why the nodes of this host are not announced though others are looked for, or "" if they are;
	// WatchReq is told. nil: they are.
	Unpublished func() string
}

// Server is an epmd. It answers from the registry alone and waits for nothing else: connections are
// never waited for either. The number of those that have not registered is bounded; the oldest gives
// way to a new one.
type Server struct {
	cfg   Config
	log   *slog.Logger
	links links
	loop
}

// NewServer returns a Server that has yet to Serve.
func NewServer(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.PacketTimeout == 0 {
		cfg.PacketTimeout = DefaultPacketTimeout
	}
	if cfg.LANOff == nil {
		cfg.LANOff = func() string { return "" }
	}
	if cfg.Unpublished == nil {
		cfg.Unpublished = func() string { return "" }
	}
	return &Server{cfg: cfg, log: cfg.Log}
}

// verdict says what becomes of a connection after its request.
type verdict uint8

const (
	hangUp verdict = iota // send the answer, if there is one, and close
	stay                  // send the answer and keep the connection until the peer ends it or says more
	stream                // hand the connection over to a goroutine of its own
	kill                  // send the answer, close, and end the server
)

// caller is who asks.
type caller struct {
	fd    int
	peer  netip.AddrPort
	local bool // of this host
}

// answer is what a request leads to.
type answer struct {
	verdict verdict
	out     []byte                 // valid until the next request is handled, unless shared
	later   bool                   // out is to wait until reg is kept
	shared  bool                   // out is never written to again
	reg     *registry.Registration // stay: the connection's node; nil if it was refused
	follow  bool                   // stream: go on with changes
}

// handle decides on one whole request. It is called with s.mu held.
func (s *Server) handle(from caller, req []byte) answer {
	tag := Tag(req[0])
	switch tag {
	case TagPort:
		return s.handlePort(from, req)
	case TagNames:
		s.debug("names asked for", from)
		return answer{out: s.names(), shared: true}
	case TagAlive, TagDump, TagKill, TagStop, TagNodes, TagWatch:
	default:
		s.complain(from, "unknown request", "tag", int(tag))
		return answer{}
	}
	if !from.local {
		s.complain(from, "request refused: not from this host", "tag", string(rune(tag)))
		return answer{}
	}
	return s.handleLocal(from, tag, req)
}

// handleLocal decides on the requests that only this host may make.
func (s *Server) handleLocal(from caller, tag Tag, req []byte) answer {
	switch tag {
	case TagAlive:
		return s.handleAlive(from, req)
	case TagStop:
		return s.handleStop(from, req)
	case TagKill:
		return s.handleKill(from)
	case TagDump:
		s.debug("dump asked for", from)
		reg := s.cfg.Registry
		return answer{out: appendDump(nil, uint32(s.cfg.Port), reg.Local(), reg.Old()), shared: true}
	}
	s.debug("nodes asked for", from)
	return answer{verdict: stream, follow: tag == TagWatch}
}

func (s *Server) handlePort(from caller, req []byte) answer {
	name, err := portReqName(req)
	if err != nil {
		s.complain(from, "bad request", "err", err)
		return answer{}
	}
	resp := PortResp{Result: 1}
	if n := s.cfg.Registry.Lookup(string(name)); n != nil {
		resp = PortResp{0, n.Port, n.Told, n.Protocol, n.High, n.Low, n.Name, n.Extra}
	}
	if s.logs(slog.LevelDebug) {
		s.log.Debug("lookup", "name", string(name), "found", resp.Result == 0, "peer", from.peer)
	}
	s.out = resp.Append(s.out[:0])
	return answer{out: s.out}
}

func (s *Server) handleAlive(from caller, req []byte) answer {
	alive, err := ParseAliveReq(req)
	if err != nil && !errors.Is(err, ErrRefused) {
		s.complain(from, "bad request", "err", err)
		return answer{}
	}
	resp := AliveResp{Wide: alive.High >= 6, Result: 1, Creation: refusedCreation}
	var reg *registry.Registration
	if err == nil {
		reg, err = s.register(from, alive)
	}
	later := err == nil && !s.keep(from.fd, reg)
	if err == nil {
		resp.Result, resp.Creation = 0, s.cfg.Registry.Node(reg).Creation
	} else {
		s.log.Warn("name refused", "name", alive.Name, "err", err, "peer", from.peer, "holder", s.holder(alive.Name))
	}
	s.out = resp.Append(s.out[:0])
	return answer{verdict: stay, out: s.out, later: later, reg: reg}
}

// holder returns who has that name, as far as it is known.
func (s *Server) holder(name string) *registry.Holder {
	if n := s.cfg.Registry.Lookup(name); n != nil {
		return n.Holder
	}
	return nil
}

// keep has the connection of a node kept, and tells whether it is.
func (s *Server) keep(fd int, reg *registry.Registration) bool {
	if s.cfg.Keeper == nil {
		return true
	}
	return s.cfg.Keeper.Keep(fd, s.cfg.Registry.Node(reg), func() { s.answerLate(reg) })
}

// register enters a node. The name of one that has just closed its connection is free, even if the new
// connection was noticed before the end of the old one: nodes that restart quickly depend on it.
func (s *Server) register(from caller, alive AliveReq) (*registry.Registration, error) {
	if holder := s.cfg.Registry.Lookup(alive.Name); holder != nil {
		s.lookAt(int(holder.FD))
	}
	if err := s.roomToStay(); err != nil {
		return nil, err
	}
	return s.cfg.Registry.Register(registry.Node{
		Name:      alive.Name,
		Port:      alive.Port,
		Type:      alive.Type,
		Protocol:  alive.Protocol,
		High:      alive.High,
		Low:       alive.Low,
		Extra:     alive.Extra,
		Addresses: []netip.Addr{from.peer.Addr()},
		FD:        int32(from.fd),
		PeerPort:  from.peer.Port(),
	})
}

// unregister ends a node's registration; its connection goes with it.
func (s *Server) unregister(reg *registry.Registration, reason string) {
	n := s.cfg.Registry.Node(reg)
	s.cfg.Registry.Unregister(reg)
	if s.cfg.Keeper != nil {
		s.cfg.Keeper.Release(n)
	}
	if s.logs(slog.LevelDebug) {
		s.log.Debug("unregistered", n.LogNames(), "port", n.Port, "reason", reason)
	}
}

func (s *Server) handleStop(from caller, req []byte) answer {
	stop, err := ParseStopReq(req)
	switch {
	case !s.cfg.Relaxed:
		s.log.Warn("stop refused: no -relaxed_command_check", "peer", from.peer)
		return answer{}
	case err != nil:
		s.complain(from, "bad request", "err", err)
		return answer{}
	}
	n := s.cfg.Registry.Lookup(stop.Name)
	if n == nil {
		return answer{out: []byte("NOEXISTSTOPPED"), shared: true}
	}
	s.drop(n, "stopped by request")
	return answer{out: []byte("STOPPED"), shared: true}
}

func (s *Server) handleKill(from caller) answer {
	if nodes := s.living(); nodes > 0 && !s.cfg.Relaxed {
		s.log.Warn("kill refused: nodes are registered", "nodes", nodes, "peer", from.peer)
		return answer{out: []byte("NO"), shared: true}
	}
	s.log.Info("killed by request", "peer", from.peer)
	return answer{verdict: kill, out: []byte("OK"), shared: true}
}

// living returns how many nodes are registered that are not this process itself.
func (s *Server) living() int {
	count := 0
	for _, n := range s.cfg.Registry.Local() {
		if s.cfg.Own == nil || !s.cfg.Own(n.Peer()) {
			count++
		}
	}
	return count
}

// names returns the answer to NamesReq, which is made anew only after something has changed.
func (s *Server) names() []byte {
	version := s.cfg.Registry.LocalVersion()
	if s.namesAnswer != nil && s.namesVersion == version {
		return s.namesAnswer
	}
	out := Names{EPMDPort: uint32(s.cfg.Port)}.Append(nil)
	for _, n := range s.cfg.Registry.Local() {
		out = appendNamesLine(out, n.Name, n.Port)
	}
	s.namesAnswer, s.namesVersion = out, version
	return out
}

// complain logs what a peer did wrong, but once a minute an address: nobody may fill the log.
func (s *Server) complain(from caller, msg string, args ...any) {
	if count := s.complaints.add(from.peer.Addr(), time.Now()); count > 0 {
		s.log.Warn(msg, append(args, "peer", from.peer, "times", count)...)
	}
}

// logs tells whether anybody reads entries of that level: their arguments cost more than a lookup.
func (s *Server) logs(level slog.Level) bool { return s.log.Enabled(context.Background(), level) }

// debug logs a request.
func (s *Server) debug(msg string, from caller) {
	if s.logs(slog.LevelDebug) {
		s.log.Debug(msg, "peer", from.peer)
	}
}

// Serve answers on all listeners, which it takes over and closes, until ctx ends or a KILL_REQ is
// granted; the error is nil or ErrKilled then. Any other error means that it could not begin, or that
// a listener broke. All registrations end with it, but for what Config.Keeper and ErrHandOver say. It is
// called once.
func (s *Server) Serve(ctx context.Context, listeners ...*net.TCPListener) error {
	parent := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := s.open(ctx, stop, listeners); err != nil {
		return err
	}
	err := s.run(ctx)
	stop(nil) // for subscribers, if a listener broke
	if s.cfg.Keeper != nil {
		s.cfg.Keeper.Flush()
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(context.Cause(parent), ErrHandOver):
		s.leave()
		return ErrHandOver
	case errors.Is(cause, ErrKilled):
		err = ErrKilled
	}
	s.close()
	return err
}
