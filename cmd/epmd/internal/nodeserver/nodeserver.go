// Package nodeserver makes the epmd a hidden node. It tells other nodes what the epmd knows.
//
// A Server registers with the epmd on this host and listens on a TCP port of its own. It has
// goroutines for the nodes that are connected. Run blocks until its context ends. Package node
// speaks the protocol.
package nodeserver

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/node/etf"
	"github.com/goerlang/eclus/registry"
)

// nodeName is the alive name of the epmd as a node, and of its process.
const nodeName = "epmd"

// maxMessage is how many bytes a message of another node has at most.
const maxMessage = 64 << 10

// Pauses between tries to be a node. The epmd before this one may hold the name.
const (
	firstNodeRetry = time.Second
	lastNodeRetry  = time.Minute
)

// Server is the epmd as a hidden node, epmd@HOST or the name that -node gives it, which answers
//
//	net_adm:ping(Node)
//	gen_server:call({epmd, Node}, nodes)    a list of maps, one for each known node
//
// and nobody else's calls. Who has the cookie may read what anybody on this host may. Nothing can
// be changed or run. Whom -allow refuses can't connect.
type Server struct {
	reg     *registry.Registry
	access  epmd.Access
	port    uint16 // of the epmd
	address string // where to listen
	cookie  node.Cookie
	name    string               // full; empty: as nameFor has it
	host    func() string        // returns the first label of this host's name
	known   func(*registry.Node) // told of this node when it has registered
	log     *slog.Logger

	encoding sync.Mutex
	peer     atomic.Pointer[netip.AddrPort] // as the epmd sees it; nil: not registered
}

// Options are what a Server needs.
type Options struct {
	Registry *registry.Registry
	Access   epmd.Access
	Port     uint16     // of the epmd
	Address  netip.Addr // where to listen; zero: everywhere
	Cookie   node.Cookie
	Name     string               // full; empty: epmd@ what the other node calls this host
	Host     func() string        // returns the first label of this host's name
	Known    func(*registry.Node) // told of this node when it has registered
	Log      *slog.Logger
}

// New returns a Server that is no node before Run.
func New(o Options) *Server {
	s := &Server{
		reg:     o.Registry,
		access:  o.Access,
		port:    o.Port,
		address: ":0",
		cookie:  o.Cookie,
		name:    o.Name,
		host:    o.Host,
		known:   o.Known,
		log:     o.Log,
	}
	if o.Address.IsValid() {
		s.address = netip.AddrPortFrom(o.Address, 0).String()
	}
	return s
}

// Owns reports whether the node that registered from there is this one.
func (s *Server) Owns(peer netip.AddrPort) bool {
	own := s.peer.Load()
	return own != nil && *own == peer
}

// Run is a node until ctx ends, and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	for retry := firstNodeRetry; ctx.Err() == nil; retry = min(2*retry, lastNodeRetry) {
		began := time.Now()
		err := s.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		s.log.Warn("epmd is no node for now", "err", err)
		if time.Since(began) > lastNodeRetry {
			retry = firstNodeRetry
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
	return nil
}

// serve registers the node and answers until the registration or ctx ends.
func (s *Server) serve(ctx context.Context) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	name := cmp.Or(s.name, nodeName+"@"+s.reg.Host())
	alive, _, _ := strings.Cut(name, "@")
	// Hidden nodes of OTP register as normal ones too.
	req := epmd.AliveReq{Port: uint16(ln.Addr().(*net.TCPAddr).Port), Type: registry.Normal, High: 6, Low: 6, Name: alive}
	registration, err := epmd.NewLocalClient(s.port).Register(ctx, req)
	if err != nil {
		ln.Close()
		return err
	}
	defer registration.Close()
	peer := registration.LocalAddr()
	s.peer.Store(&peer)
	defer s.peer.Store(nil)
	go func() {
		registration.Done()
		cancel(errors.New("registration has ended"))
	}()
	s.introduce(req, registry.Identity{Node: name, Dist: registry.TCP, Hidden: true, Creation: registration.Creation})
	server := &node.Server{
		Name:    name,
		NameFor: s.nameFor,
		Cookie:  s.cookie,
		Options: node.Options{
			Creation: registration.Creation, MaxMessage: maxMessage,
			Processes: map[etf.Atom]node.Handler{nodeName: s.handle},
		},
		Refused: func(peer net.Addr, err error) { s.log.Debug("node refused", "peer", peer, "err", err) },
	}
	s.log.Info("epmd is a node", "node", server.Name)
	err = server.Serve(ctx, admitted{ln, s.access})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return err
}

// introduce enters what this node would say of itself. Nobody asks it.
func (s *Server) introduce(req epmd.AliveReq, id registry.Identity) {
	own := s.reg.Lookup(req.Name)
	if own == nil || own.Port != req.Port {
		return // it is gone already: epmd is not this one
	}
	if err := s.reg.Identify(own, id); err != nil {
		s.log.Warn("epmd's own node not identified", "err", err)
		return
	}
	if own = s.reg.Lookup(req.Name); own != nil {
		s.known(own)
	}
}

// fqdnTime is how long the resolver has for this host's name in DNS.
const fqdnTime = 2 * time.Second

// nameFor returns the name by which the node peer has called this one. Nodes call a host by its
// first label if they have short names (-sname). With long names (-name) they call it by its name
// in multicast DNS or DNS, or by the address that they connected to.
func (s *Server) nameFor(peer string, local net.Addr) string {
	if s.name != "" {
		return s.name
	}
	_, host, _ := strings.Cut(peer, "@")
	_, noIP := netip.ParseAddr(host)
	switch {
	case noIP == nil:
		host = addrOf(local).Unmap().WithZone("").String()
	case host == "localhost": // which is this host for all that call it so
	case !isLong(host):
		host = s.host()
	case strings.HasSuffix(host, ".local"):
		host = s.reg.Host()
	default:
		host = cmp.Or(dnsName(), s.reg.Host())
	}
	return nodeName + "@" + host
}

// dnsName returns the name of this host with its domain, as "hostname -f" does. It is "" if there
// is none.
func dnsName() string {
	host, err := os.Hostname()
	if err != nil || isLong(host) {
		return host
	}
	ctx, cancel := context.WithTimeout(context.Background(), fqdnTime)
	defer cancel()
	name, err := net.DefaultResolver.LookupCNAME(ctx, host)
	name = strings.TrimSuffix(name, ".")
	if err != nil || !isLong(name) || node.CheckName(nodeName+"@"+name) != nil {
		return ""
	}
	return name
}

// admitted is a listener that takes no connections of whom -allow refuses.
type admitted struct {
	net.Listener
	access epmd.Access
}

func (a admitted) Accept() (net.Conn, error) {
	for {
		c, err := a.Listener.Accept()
		if err != nil || a.access.Admits(addrOf(c.RemoteAddr()), addrOf(c.LocalAddr())) {
			return c, err
		}
		c.Close()
	}
}

func addrOf(a net.Addr) netip.Addr {
	return a.(interface{ AddrPort() netip.AddrPort }).AddrPort().Addr()
}

// handle answers a message to the process epmd. What is no call gets no answer.
func (s *Server) handle(c *node.Conn, m node.Message) {
	call, ok := m.Call()
	if !ok {
		return
	}
	if err := s.answer(c, call); err != nil {
		s.log.Debug("call not answered", "node", c.PeerName(), "err", err)
	}
}

func (s *Server) answer(c *node.Conn, call node.GenCall) error {
	var what etf.Atom
	if call.Request.Unmarshal(&what) != nil || what != "nodes" {
		return c.Reply(call, etf.Tuple{etf.Atom("error"), etf.Atom("badarg")})
	}
	nodes, err := s.encodedNodes()
	if err != nil {
		return err
	}
	return c.Reply(call, nodes)
}

// nodeTerm is a node as it is told to nodes. Names from others are binaries. Atoms would stay with
// the caller for good.
type nodeTerm struct {
	Node      string   `erl:"node"`
	Name      string   `erl:"name"`
	Host      string   `erl:"host"`
	Port      uint16   `erl:"port"`
	Type      etf.Atom `erl:"type"`   // normal or hidden
	Origin    etf.Atom `erl:"origin"` // local or lan
	Sure      bool     `erl:"sure"`
	Reachable etf.Atom `erl:"reachable"` // yes, no or unknown
	Creation  uint32   `erl:"creation,omitempty"`
	Addresses []string `erl:"addresses"`
	Since     int64    `erl:"since"` // seconds since 1970
}

// encodedNodes encodes one answer at a time: with thousands of nodes each takes some megabytes.
func (s *Server) encodedNodes() (etf.Raw, error) {
	s.encoding.Lock()
	defer s.encoding.Unlock()
	return etf.Append(nil, s.nodes())
}

func (s *Server) nodes() []nodeTerm {
	known := s.reg.Nodes()
	terms := make([]nodeTerm, len(known))
	for i, k := range known {
		terms[i] = nodeTerm{
			Node: k.Node, Name: k.Name, Host: k.Host, Port: k.Port, Type: etf.Atom(k.Type.String()), Origin: etf.Atom(k.Origin.String()),
			Sure: k.Sure, Reachable: etf.Atom(k.Reach.String()), Creation: k.Creation, Since: k.Since.Unix(), Addresses: make([]string, len(k.Addresses)),
		}
		for j, a := range k.Addresses {
			terms[i].Addresses[j] = a.String()
		}
	}
	return terms
}

// isLong reports whether nodes of a host have long names. As for OTP, a dot makes one, or the colon
// of an address.
func isLong(host string) bool { return strings.ContainsAny(host, ".:") }
