package epmd

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/goerlang/eclus/internal/message"
	"github.com/goerlang/eclus/internal/places"
	"github.com/goerlang/eclus/registry"
)

// DefaultPacketTimeout is the default of Config.PacketTimeout.
const DefaultPacketTimeout = 60 * time.Second

// Errors of Serve.
var (
	// ErrKilled is what Serve returns after a KILL_REQ that was granted.
	ErrKilled = errors.New("killed by request")
	// ErrHandOver is the cause to cancel Serve's context with if another server goes on. The
	// sockets that listen and those of registered nodes stay open. See Server.HandOver.
	ErrHandOver = errors.New("handed over")
)

// Keeper keeps the connections of nodes for when this process has ended. Keep and Release must
// not block.
type Keeper interface {
	// Keep is called before the registration of n is answered. It is called again for a restored
	// node that has had no answer. fd is the node's connection and stays open until Release. Keep
	// reports whether the answer may be sent now, because the connection is kept or can't be.
	// Otherwise the Keeper calls kept once it may, within some seconds. It does so in another
	// goroutine, and holds no lock that Keep or Release take.
	Keep(fd int, n *registry.Node, kept func()) bool
	// Release is called when n has gone or is to go, before its connection is closed.
	Release(n *registry.Node)
	// Flush is called when nobody registers any more, before connections are closed. It keeps
	// what is not kept yet, and calls kept for each. It gives up after some seconds.
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

	// Supervised says that a service manager starts epmd again. Then KillReq is granted to root and
	// to the user of this process alone: for anybody else it would just disturb all nodes.
	Supervised bool

	// UserOf returns the user at the other end of a connection of this host. It must not block. It
	// is not called concurrently. nil: the kernel is asked.
	UserOf func(fd int) (uint32, error)

	// OwnerOf returns who answers at an address of another host, such as its MAC address, or else
	// the address itself. Peers share streams by it. It must not block. nil: each address is
	// somebody's own.
	OwnerOf func(netip.Addr) string

	// PacketTimeout is how long a connection that has not registered may say nothing. Each byte
	// starts it anew. The server closes up to a second later, as OTP's epmd does. 0:
	// DefaultPacketTimeout.
	PacketTimeout time.Duration

	DelayAccept time.Duration // before each new connection is looked at, to simulate a busy server
	DelayWrite  time.Duration // before each answer, to simulate a busy server

	// Files bounds the connections. At most Files-64 nodes can be registered, or Files/2 if that
	// is more. One user can have half of them, and each next one half of what is left. The rest is
	// for lookups and for the process itself. 0: the process's limit on open files.
	Files int

	// Keeper keeps connections for the next process. With one, Serve unregisters nobody when it
	// ends. nil: registrations end with Serve.
	Keeper Keeper

	// Own reports whether a node that registered from there is this process itself. Such a node
	// is no reason to refuse KillReq. Own must not block. nil: none is.
	Own func(peer netip.AddrPort) bool

	// Restored are registered nodes to begin with. Serve takes them over.
	Restored []Restored

	// Hello returns what this epmd says of itself to peers: its version and id. It must not block.
	// nil: it says nothing but the name of its host.
	Hello func() PeerHello

	// Asked is told of each peer of another host that watches this one and says who it is. It must
	// not block. nil: nobody wants to know.
	Asked func(PeerAsk)

	// Looked is closed once it is known where the restored nodes listen, and what this host is
	// called. Before that, a peer that watches is told of no node: it would take the others for
	// gone. nil: all is known.
	Looked <-chan struct{}

	// LinkOf returns the name of the interface that has a local address, and all addresses of that
	// interface without zones. A link-local address has its zone. "" means that no interface has
	// the address. nil: the kernel is asked, at most once a second.
	LinkOf func(local netip.Addr) (link string, addrs []netip.Addr)
}

// Server is an epmd. It answers from the registry alone and waits for nothing else, connections
// included. The number of those that have not registered is bounded: the oldest gives way.
type Server struct {
	cfg    Config
	log    *slog.Logger
	engine *engine
	feeds  *feeds

	// nodeAlive ends the registration of a node over an address that has gone. A node that is slow
	// or stopped is none: its kernel answers.
	nodeAlive KeepAlive

	// What follows is guarded by the engine's lock.
	links    links
	refused  refusals // of peers that are not answered
	warnings refusals // of requests
	out      []byte   // the answer made last
	names    *listing
	dump     *listing
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
	s := &Server{
		cfg: cfg, log: cfg.Log, feeds: newFeeds(cfg),
		nodeAlive: KeepAlive{Idle: time.Minute, Interval: 15 * time.Second, Timeout: 2 * time.Minute},
		warnings:  refusals{burst: maxWarnings},
		names:     namesListing(cfg.Registry, cfg.Port),
		dump:      dumpListing(cfg.Registry, cfg.Port),
	}
	s.engine = &engine{
		protocol: s,
		engineConfig: engineConfig{
			log:   cfg.Log,
			files: cfg.Files,
			// OTP's epmd compares whole seconds and closes once they exceed the time-out, up to a
			// second after it is over. Ours gives everybody that second.
			silence:     cfg.PacketTimeout + time.Second,
			delayAccept: cfg.DelayAccept,
			delayWrite:  cfg.DelayWrite,
			kept:        cfg.Keeper != nil,
			ownerOf:     cfg.OwnerOf,
		},
	}
	return s
}

// admits reports whether a peer is answered. It logs those that are not.
func (s *Server) admits(from caller) bool {
	if from.local || s.cfg.Access.allows(from.peer.Addr(), s.links.contains) {
		return true
	}
	if count := s.refused.add(from.peer.Addr(), time.Now()); count > 0 {
		s.log.Warn("peer refused", message.PeerRefused.Attr(), "peer", from.peer.Addr(), "connections", count, "allow", s.cfg.Access.String())
	}
	return false
}

// handle decides on one whole request.
func (s *Server) handle(from caller, req []byte) answer {
	tag := Tag(req[0])
	switch tag {
	case TagPort:
		return s.handlePort(from, req)
	case TagNames:
		s.debug("names asked for", from)
		return answer{listing: s.names}
	case TagNodes, TagWatch:
		return s.handleNodes(from, tag == TagWatch, req)
	case TagAlive, TagDump, TagKill, TagStop:
	default:
		s.engine.complain(from, "unknown request", "tag", int(tag))
		return answer{}
	}
	if !from.local {
		s.engine.complain(from, "request refused: not from this host", "tag", string(rune(tag)))
		return answer{}
	}
	return s.handleLocal(from, tag, req)
}

// handleLocal answers the requests that only this host may make.
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
		return answer{listing: s.dump}
	}
	return answer{}
}

// handleNodes answers a NodesReq or WatchReq. Programs of this host get all that is known. Other
// hosts, and an epmd that says it is one, get this host's own nodes.
func (s *Server) handleNodes(from caller, follow bool, req []byte) answer {
	var hello *PeerHello
	var name string
	if !follow {
		name = string(req[1:])
	} else {
		var err error
		if hello, err = parseHello(string(req[1:])); err != nil {
			s.engine.complain(from, "bad request", "err", err)
			return answer{}
		}
	}
	s.debug("nodes asked for", from)
	switch {
	case !from.local || hello != nil:
		return answer{stream: s.peerStream(from, follow, hello, name)}
	case name != "":
		return s.find(from, name)
	}
	return answer{stream: s.programStream(from, follow)}
}

// maxFound is how many nodes of one name are told of at once. More have a stream: anybody may
// announce thousands, and nobody else waits until those are told of.
const maxFound = 32

// find answers a NodesReq that has a name, as directly as a PortReq.
func (s *Server) find(from caller, name string) answer {
	found := s.cfg.Registry.Find(name)
	if len(found) > maxFound {
		return answer{stream: s.foundStream(from, found)}
	}
	s.out = appendNodes(s.out[:0], s.cfg.Port, found)
	return answer{out: s.out}
}

// LinksChanged says that interfaces or addresses of this host may have changed. Streams to peers
// ask Config.LinkOf anew. Without it they do so when a node has changed. It does not block.
func (s *Server) LinksChanged() { s.feeds.linksChanged() }

func (s *Server) handlePort(from caller, req []byte) answer {
	name, err := portReqName(req)
	if err != nil {
		s.engine.complain(from, "bad request", "err", err)
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
		s.engine.complain(from, "bad request", "err", err)
		return answer{}
	}
	resp := AliveResp{Wide: alive.High >= 6, Result: 1, Creation: refusedCreation}
	var reg *registry.Registration
	if err == nil {
		reg, err = s.register(from, alive)
	}
	if err != nil {
		s.warn(from, "name refused", message.NameRefused.Attr(),
			"name", alive.Name, "err", err, "holder", s.holder(alive.Name))
		s.out = resp.Append(s.out[:0])
		return answer{out: s.out, stay: true}
	}
	if !from.peer.Addr().IsLoopback() {
		if err := s.nodeAlive.set(from.fd); err != nil {
			s.log.Debug("no keep-alive", "name", alive.Name, "err", err)
		}
	}
	resp.Result, resp.Creation = 0, s.cfg.Registry.Node(reg).Creation
	s.out = resp.Append(s.out[:0])
	return answer{out: s.out, reg: reg, withhold: !s.keep(from.fd, reg)}
}

// holder returns who has that name, as far as it is known.
func (s *Server) holder(name string) *registry.Holder {
	if n := s.cfg.Registry.Lookup(name); n != nil {
		return n.Holder
	}
	return nil
}

// keep asks the Keeper to keep the connection of a node. It reports whether the answer may be sent.
func (s *Server) keep(fd int, reg *registry.Registration) bool {
	if s.cfg.Keeper == nil {
		return true
	}
	return s.cfg.Keeper.Keep(fd, s.cfg.Registry.Node(reg), func() { s.engine.release(reg) })
}

// register enters a node. The name of one that has just closed its connection is free, even if
// the new connection was noticed first. Nodes that restart quickly depend on that.
func (s *Server) register(from caller, alive AliveReq) (*registry.Registration, error) {
	if holder := s.cfg.Registry.Lookup(alive.Name); holder != nil {
		if c := s.engine.registeredAt(int(holder.FD)); c != nil {
			s.engine.readOn(c)
		}
	}
	if err := s.engine.roomToRegister(from); err != nil {
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

// gone ends a node's registration, as its connection ends.
func (s *Server) gone(r registration, reason string) {
	reg := r.(*registry.Registration)
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
		s.warn(from, "stop refused: no -relaxed_command_check")
		return answer{}
	case err != nil:
		s.engine.complain(from, "bad request", "err", err)
		return answer{}
	}
	n := s.cfg.Registry.Lookup(stop.Name)
	if n == nil {
		return answer{out: []byte("NOEXISTSTOPPED")}
	}
	s.drop(n, "stopped by request")
	return answer{out: []byte("STOPPED")}
}

// drop ends the connection that n is registered over, if it is one of this server.
func (s *Server) drop(n *registry.Node, reason string) {
	c := s.engine.registeredAt(int(n.FD))
	if c != nil && s.cfg.Registry.Node(c.reg.(*registry.Registration)).ID == n.ID {
		s.engine.end(c, reason)
	}
}

func (s *Server) handleKill(from caller) answer {
	if s.cfg.Supervised {
		if user := s.engine.user(from.fd); user != 0 && int(user) != os.Geteuid() {
			s.warn(from, "kill refused: neither root nor the user of epmd asks", "user", places.UserName(user))
			return answer{out: []byte("NO")}
		}
	}
	if nodes := s.living(); nodes > 0 && !s.cfg.Relaxed {
		s.warn(from, "kill refused: nodes are registered", "nodes", nodes)
		return answer{out: []byte("NO")}
	}
	s.log.Info("killed by request", "peer", from.peer)
	return answer{out: []byte("OK"), stop: ErrKilled}
}

// living returns how many nodes are registered, without this process itself.
func (s *Server) living() int {
	count := 0
	for _, n := range s.cfg.Registry.Local() {
		if s.cfg.Own == nil || !s.cfg.Own(n.Peer()) {
			count++
		}
	}
	return count
}

// namesListing returns the answer to NamesReq.
func namesListing(reg *registry.Registry, port uint16) *listing {
	return &listing{
		version: reg.LocalVersion,
		lines:   func() int { local, _ := reg.Counts(); return local },
		append: func(dst []byte) []byte {
			dst = Names{EPMDPort: uint32(port)}.Append(dst)
			for _, n := range reg.Local() {
				dst = appendNamesLine(dst, n.Name, n.Port)
			}
			return dst
		},
	}
}

// dumpListing returns the answer to DumpReq.
func dumpListing(reg *registry.Registry, port uint16) *listing {
	return &listing{
		version: reg.LocalVersion,
		lines:   func() int { local, _ := reg.Counts(); return local },
		append:  func(dst []byte) []byte { return appendDump(dst, uint32(port), reg.Local(), reg.Old()) },
	}
}

// logs reports whether anybody reads entries of that level. Their arguments cost more than a
// lookup.
func (s *Server) logs(level slog.Level) bool { return s.log.Enabled(context.Background(), level) }

// debug logs a request.
func (s *Server) debug(msg string, from caller) {
	if s.logs(slog.LevelDebug) {
		s.log.Debug(msg, "peer", from.peer)
	}
}

// Serve answers on all listeners until ctx ends or a KILL_REQ is granted. It takes them over and
// closes them. It returns nil then, or ErrKilled. Any other error says that Serve could not
// begin, or that a listener broke. All registrations end with Serve, except as Config.Keeper and
// ErrHandOver say. Call it once.
func (s *Server) Serve(ctx context.Context, listeners ...*net.TCPListener) error {
	defer s.openUsers()()
	parent := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if err := s.engine.open(ctx, stop, listeners); err != nil {
		return err
	}
	s.restore()
	err := s.engine.run(ctx)
	stop(nil) // for subscribers, if a listener broke
	if s.cfg.Keeper != nil {
		s.cfg.Keeper.Flush()
	}
	defer s.feeds.wait()
	if errors.Is(context.Cause(parent), ErrHandOver) {
		s.feeds.close(false)
		s.engine.leave()
		return ErrHandOver
	}
	s.feeds.close(s.cfg.Keeper == nil)
	s.engine.close("epmd ends")
	if errors.Is(context.Cause(ctx), ErrKilled) {
		err = ErrKilled
	}
	return err
}

// restore takes over the connections that nodes have with an earlier process. A node that has had
// no answer gets one, once it is kept.
func (s *Server) restore() {
	s.engine.mu.Lock() // the Keeper may call back at once
	defer s.engine.mu.Unlock()
	for _, r := range s.cfg.Restored {
		n := s.cfg.Registry.Node(r.Registration)
		a := answer{reg: r.Registration}
		if unanswered(r.FD) {
			a.out = AliveResp{Wide: n.High >= 6, Creation: n.Creation}.Append(nil)
			a.withhold = !s.keep(r.FD, r.Registration)
		}
		s.engine.adopt(caller{r.FD, n.Peer(), true}, a)
	}
}

// HandOver returns the sockets that listen, and the registered nodes with their connections. The
// nodes are in order of registration. Call it after Serve has returned ErrHandOver.
func (s *Server) HandOver() (listeners []*os.File, nodes []Restored) {
	for _, c := range s.engine.conns {
		if c != nil {
			nodes = append(nodes, Restored{c.fd, c.reg.(*registry.Registration)})
		}
	}
	id := func(r Restored) uint64 { return s.cfg.Registry.Node(r.Registration).ID }
	slices.SortFunc(nodes, func(a, b Restored) int { return cmp.Compare(id(a), id(b)) })
	return s.engine.listeners, nodes
}
