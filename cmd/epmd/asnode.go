package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"eclus/epmd"
	"eclus/node"
	"eclus/node/etf"
	"eclus/registry"
)

// nodeName is the alive name of the epmd as a node, and of the process that answers there.
const nodeName = "epmd"

// Pauses between tries to be a node: the name may be held by the epmd before this one.
const (
	firstNodeRetry = time.Second
	lastNodeRetry  = time.Minute
)

// asNode is the epmd as a hidden node, epmd@HOST or the name that -node gives it, which answers
//
//	net_adm:ping(Node)
//	gen_server:call({epmd, Node}, nodes)    a list of maps, one for each known node
//
// and nobody else's calls. Who has the cookie may read what anybody on this host may; nothing can be changed or run.
// Whom -allow refuses can't connect.
type asNode struct {
	reg     *registry.Registry
	access  epmd.Access
	port    uint16 // of the epmd
	address string // where to listen
	cookie  node.Cookie
	name    string               // full; empty: nodeName@HOST, whatever the other node calls this host
	known   func(*registry.Node) // told of this node when it has registered
	log     *slog.Logger

	peer atomic.Pointer[netip.AddrPort] // of the registration, as the epmd sees it; nil: there is none
}

func newAsNode(c config, reg *registry.Registry, lns []*net.TCPListener, known func(*registry.Node), log *slog.Logger) *asNode {
	n := &asNode{
		reg:     reg,
		access:  c.access,
		port:    lns[0].Addr().(*net.TCPAddr).AddrPort().Port(),
		address: ":0",
		cookie:  c.cookie,
		name:    c.nodeName,
		known:   known,
		log:     log,
	}
	if isLoopbackOnly(lns) {
		n.address = netip.AddrPortFrom(addrOf(lns[0].Addr()), 0).String() // a host may have one loopback alone
	}
	return n
}

// owns reports whether the node that registered from there is this one.
func (n *asNode) owns(peer netip.AddrPort) bool {
	own := n.peer.Load()
	return own != nil && *own == peer
}

// run is a node until ctx ends.
func (n *asNode) run(ctx context.Context) {
	for retry := firstNodeRetry; ctx.Err() == nil; retry = min(2*retry, lastNodeRetry) {
		began := time.Now()
		err := n.serve(ctx)
		if ctx.Err() != nil {
			break
		}
		n.log.Warn("epmd is no node for now", "err", err)
		if time.Since(began) > lastNodeRetry {
			retry = firstNodeRetry
		}
		pause(ctx, retry)
	}
}

// serve registers the node, as any other, and answers until the registration or ctx ends.
func (n *asNode) serve(ctx context.Context) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", n.address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	name := cmp.Or(n.name, nodeName+"@"+n.reg.Host())
	alive, _, _ := strings.Cut(name, "@")
	// As a hidden node of OTP does, it registers as a normal one.
	req := epmd.AliveReq{Port: uint16(ln.Addr().(*net.TCPAddr).Port), Type: registry.Normal, High: 6, Low: 6, Name: alive}
	registration, err := epmd.NewLocalClient(n.port).Register(ctx, req)
	if err != nil {
		ln.Close()
		return err
	}
	defer registration.Close()
	peer := registration.LocalAddr()
	n.peer.Store(&peer)
	defer n.peer.Store(nil)
	go func() {
		registration.Done()
		cancel(errors.New("registration has ended"))
	}()
	n.introduce(req, registry.Identity{Node: name, Dist: "tcp", Hidden: true, Creation: registration.Creation})
	server := &node.Server{
		Name:    name,
		NameFor: n.nameFor,
		Cookie:  n.cookie,
		Options: node.Options{Creation: registration.Creation, Processes: map[etf.Atom]node.Handler{nodeName: n.handle}},
		Refused: func(peer net.Addr, err error) { n.log.Debug("node refused", "peer", peer, "err", err) },
	}
	n.log.Info("epmd is a node", "node", server.Name)
	err = server.Serve(ctx, admitted{ln, n.access})
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return err
}

// introduce enters what this node would say of itself. Nobody asks it.
func (n *asNode) introduce(req epmd.AliveReq, id registry.Identity) {
	own := n.reg.Lookup(req.Name)
	if own == nil || own.Port != req.Port {
		return // it is gone already: epmd is not this one
	}
	if err := n.reg.Identify(own, id); err != nil {
		n.log.Warn("epmd's own node not identified", "err", err)
		return
	}
	if own = n.reg.Lookup(req.Name); own != nil {
		n.known(own)
	}
}

// fqdnTime is how long the resolver may take to tell this host's name in DNS.
const fqdnTime = 2 * time.Second

// nameFor returns the name that a node of the name peer will have connected to, as nodes with short names
// (-sname) and with long ones (-name) call the same host differently: by its first label, by the name that
// multicast DNS has for it, by its name in DNS, or by the address that was connected to.
func (n *asNode) nameFor(peer string, local net.Addr) string {
	if n.name != "" {
		return n.name
	}
	_, host, _ := strings.Cut(peer, "@")
	_, noIP := netip.ParseAddr(host)
	switch {
	case noIP == nil:
		host = addrOf(local).Unmap().WithZone("").String()
	case host == "localhost": // which is this host for all that call it so
	case !isLong(host):
		host = hostName()
	case strings.HasSuffix(host, ".local"):
		host = n.reg.Host()
	default:
		host = cmp.Or(dnsName(), n.reg.Host())
	}
	return nodeName + "@" + host
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// dnsName returns the name of this host with its domain, as "hostname -f" does, or "".
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
func (n *asNode) handle(c *node.Conn, m node.Message) {
	call, ok := m.Call()
	if !ok {
		return
	}
	var what etf.Atom
	var answer any = etf.Tuple{etf.Atom("error"), etf.Atom("badarg")}
	if call.Request.Unmarshal(&what) == nil && what == "nodes" {
		answer = n.nodes()
	}
	if err := c.Reply(call, answer); err != nil {
		n.log.Debug("call not answered", "node", c.PeerName(), "err", err)
	}
}

// nodeTerm is a node as it is told to nodes. What others have named is binaries, as atoms would stay with the caller for good.
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

func (n *asNode) nodes() []nodeTerm {
	known, changes := n.reg.Subscribe()
	changes.Close()
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
