// Package daemon is the list of the daemon's parts. It begins and ends them, listens, and hands
// over to another program.
//
// It binds sockets and handles the signals of the process. It uses systemd, Avahi and D-Bus by
// their packages. Serve blocks until the daemon ends; each part has a goroutine.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/cmd/epmd/internal/daemonlog"
	"github.com/goerlang/eclus/cmd/epmd/internal/holders"
	"github.com/goerlang/eclus/cmd/epmd/internal/hosts"
	"github.com/goerlang/eclus/cmd/epmd/internal/identify"
	"github.com/goerlang/eclus/cmd/epmd/internal/journal"
	"github.com/goerlang/eclus/cmd/epmd/internal/listening"
	"github.com/goerlang/eclus/cmd/epmd/internal/named"
	"github.com/goerlang/eclus/cmd/epmd/internal/neighbours"
	"github.com/goerlang/eclus/cmd/epmd/internal/nodesd"
	"github.com/goerlang/eclus/cmd/epmd/internal/nodeserver"
	"github.com/goerlang/eclus/cmd/epmd/internal/orphans"
	"github.com/goerlang/eclus/cmd/epmd/internal/peers"
	"github.com/goerlang/eclus/cmd/epmd/internal/reach"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/vouch"
	"github.com/goerlang/eclus/dbus"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/bus"
	"github.com/goerlang/eclus/internal/message"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/systemd"
)

// gcPercent lets the heap grow by half before a collection, rather than to twice its size. Most of
// it is registrations, which stay. Lookups allocate nothing.
const gcPercent = 50

// headStart is how long the daemon only answers. Its other parts begin after that, as they would
// take the processor from the first answers.
const headStart = 10 * time.Millisecond

// nameTime is how long peers wait after a restart for Avahi to say what this host is called.
const nameTime = 2 * time.Second

// Options are what the daemon needs to know.
type Options struct {
	Args    []string // those that the process was started with; another program goes on with them
	Stderr  io.Writer
	Starter net.Conn // to the process that waits for this one to listen; nil: none does

	Port      uint16
	Addresses []netip.Addr // to listen on; empty: everywhere
	Systemd   bool         // the sockets are those of systemd
	Debug     int          // how many -d
	Daemon    bool         // another process waits for this one to listen

	Access        epmd.Access
	Relaxed       bool
	PacketTimeout time.Duration // this and the next two: 0: not given
	DelayAccept   time.Duration
	DelayWrite    time.Duration
	KeepPerUser   int // nodes of one user that systemd keeps; 0: as many as usual

	Publish, Browse bool            // the parts of LAN discovery that are wanted
	Interfaces      []string        // of the LAN; empty: those that lead to one
	Peers           []named.Who     // epmds that are asked for their nodes, wherever they are
	NodesDirs       []nodesd.Folder // with nodes files
	HostsFile       string          // for net_adm:world/0; empty: none
	EtcHosts        string          // for lookups of names; empty: none
	Bus             bus.Address     // zero: none
	Identify        bool            // ask nodes of this host for their names

	AsNode   bool // be a hidden node too
	NodeName string
	Cookie   node.Cookie

	HostName func() string // returns the first label of this host's name
	Version  string        // what this epmd calls itself
}

// Serve is the daemon. It listens, then starts all else, until a signal or a KILL_REQ ends it. It
// returns nil then.
func Serve(ctx context.Context, o Options) error {
	debug.SetGCPercent(gcPercent)
	log := daemonlog.Open(daemonlog.Options{Debug: o.Debug, Daemon: o.Daemon, Stderr: o.Stderr})
	defer log.Close()
	in, err := inherit(ctx, o, log.Logger)
	if errors.Is(err, errTaken) {
		log.Info(errTaken.Error(), "port", o.Port, "err", err)
		return nil
	}
	if err != nil {
		_ = o.report(systemd.Status(err.Error()))
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := newService(o, in, log)
	err = s.run(ctx, stop, in.Listeners)
	if errors.Is(err, epmd.ErrKilled) {
		return nil
	}
	return err
}

// report tells how the daemon has begun: to the process that has started it, or to the service
// manager.
func (o Options) report(assignments ...string) error {
	if o.Starter != nil {
		return systemd.NotifyOn(o.Starter, assignments...)
	}
	return systemd.NewManager().Notify(assignments...)
}

// service is the parts of the daemon.
type service struct {
	reg     *registry.Registry
	config  epmd.Config
	lan     *avahi.Discovery
	others  *neighbours.Asker
	peers   *peers.Peers
	macs    *netif.MACs // of other hosts
	named   *named.Finder
	files   *nodesd.Reader       // nil: not wanted
	asker   *identify.Identifier // nil: not wanted
	listens *listening.Watcher
	hosts   []*hosts.Keeper
	bus     *dbus.Service      // nil: not wanted
	node    *nodeserver.Server // nil: not wanted
	journal *journal.Journal
	manager *systemd.Manager // nil: nobody wants to know how this process is
	store   *systemd.Store   // nil: not a service of systemd
	log     *daemonlog.Log

	server   atomic.Pointer[epmd.Server] // that answers now; nil: not yet
	links    chan struct{}               // holds a token when network interfaces have changed
	looked   chan struct{}               // closed when peers may be told of the nodes
	restored bool                        // nodes of an earlier process

	report   func(assignments ...string) error // how it has begun
	shortage chan struct{}                     // holds a token when that of the store has changed
	args     []string                          // of this process
	hangup   chan os.Signal                    // SIGHUP
	orphans  <-chan os.Signal                  // have ended; nil: this is not PID 1
}

// newService makes all parts that are wanted.
func newService(o Options, in systemd.Inherited, log *daemonlog.Log) *service {
	port := in.Listeners[0].Addr().(*net.TCPAddr).AddrPort().Port()
	old := registry.OldNames
	if o.Debug > 0 {
		old = registry.OldNamesDebug
	}
	host := o.HostName()
	reg := registry.New(host+".local", old)
	s := &service{
		reg:      reg,
		others:   neighbours.New(neighbours.Options{Registry: reg, Log: log.Logger}),
		listens:  listening.New(listening.Options{Registry: reg, Interfaces: o.Interfaces, Log: log.Logger}),
		macs:     netif.NewMACs(),
		log:      log,
		report:   o.report,
		manager:  systemd.NewManager(),
		shortage: make(chan struct{}, 1),
		links:    make(chan struct{}, 1),
		looked:   make(chan struct{}),
		args:     o.Args,
		hangup:   make(chan os.Signal, 1),
		orphans:  orphans.Notify(),
		config: epmd.Config{
			Registry:      reg,
			Log:           log.Logger,
			Port:          port,
			Access:        o.Access,
			Relaxed:       o.Relaxed,
			Supervised:    systemd.NewManager() != nil,
			PacketTimeout: o.PacketTimeout,
			DelayAccept:   o.DelayAccept,
			DelayWrite:    o.DelayWrite,
			Restored:      restore(reg, &in, log.Logger),
		},
	}
	s.restored = len(s.config.Restored) > 0
	reg.SetOwners(s.macs.Of)
	s.config.OwnerOf = s.macs.Of
	s.openStore(o, in)
	s.makeNeighbours(o, in.Listeners)
	s.makeOptional(o, host, in.Listeners)
	return s
}

// makeNeighbours makes what learns of other hosts' nodes. LAN discovery introduces epmds to each
// other, and they tell each other their nodes.
func (s *service) makeNeighbours(o Options, lns []*net.TCPListener) {
	hello := func() epmd.PeerHello {
		return epmd.PeerHello{Version: o.Version, ID: s.reg.PeerID(), Host: s.reg.Host(), Port: s.config.Port}
	}
	s.peers = peers.New(peers.Options{
		Registry:       s.reg,
		Hello:          hello,
		AskBack:        o.Browse,
		Interfaces:     o.Interfaces,
		Silent:         !o.Publish || isLoopbackOnly(lns) || o.Access.LocalOnly(),
		Others:         s.others,
		StreamsChanged: func() { s.lan.StreamsChanged() },
		FindAgain:      func(host string) { s.lan.FindAgain(host) },
		Owners:         s.macs,
		Log:            s.log.Logger,
	})
	s.lan = newLAN(o, s.reg, s.config.Port, lns, s.peers, s.log.Logger)
	s.named = named.New(named.Options{Port: s.config.Port, Configure: s.peers.Configure, Log: s.log.Logger})
	s.named.Set("-peer", false, o.Peers)
	if len(o.NodesDirs) > 0 {
		s.files = nodesd.New(nodesd.Options{Registry: s.reg, Folders: o.NodesDirs, Whos: s.named.Set, Log: s.log.Logger})
	}
	s.config.Hello, s.config.Asked, s.config.Looked = hello, s.peers.Asked, s.looked
}

// makeOptional makes the parts that not everybody wants. It also makes the journal, which tells one
// of them of new nodes.
func (s *service) makeOptional(o Options, host string, lns []*net.TCPListener) {
	log, port := s.log.Logger, s.config.Port
	finder := holders.New(s.reg, log)
	var arrived func(*registry.Node, bool)
	if o.Identify {
		s.asker = identify.New(identify.Options{Registry: s.reg, Holders: finder, Host: host, Known: s.known, Log: log})
		arrived = s.asker.Ask
	}
	s.journal = journal.New(journal.Options{Registry: s.reg, Holders: finder, Arrived: arrived, Log: log})
	keep := func(format *hosts.Format, path string) {
		if path != "" {
			s.hosts = append(s.hosts, hosts.New(hosts.Options{
				Registry: s.reg, Format: format, Path: path, Port: port, HostName: o.HostName, Log: log,
			}))
		}
	}
	keep(hosts.World, o.HostsFile)
	keep(hosts.Table, o.EtcHosts)
	if !o.Bus.IsZero() {
		s.bus = dbus.New(s.reg, dbus.Options{Bus: o.Bus, Port: port, Version: o.Version, Allow: o.Access.String()}, log)
	}
	if o.AsNode {
		s.node = newNode(o, s, lns)
		s.config.Own = s.node.Owns
	}
}

// newNode returns the epmd as a node. If the epmd listens on loopback alone, so does the node. It
// takes an address of the epmd, as a host may have one loopback address alone.
func newNode(o Options, s *service, lns []*net.TCPListener) *nodeserver.Server {
	n := nodeserver.Options{
		Registry: s.reg,
		Access:   o.Access,
		Port:     s.config.Port,
		Cookie:   o.Cookie,
		Name:     o.NodeName,
		Host:     o.HostName,
		Known:    s.known,
		Log:      s.log.Logger,
	}
	if isLoopbackOnly(lns) {
		n.Address = lns[0].Addr().(*net.TCPAddr).AddrPort().Addr()
	}
	return nodeserver.New(n)
}

// openStore begins to keep registrations, unless this is no service of systemd.
func (s *service) openStore(o Options, in systemd.Inherited) {
	store, err := systemd.OpenStore(s.reg, in, systemd.Options{PerUser: o.KeepPerUser, Changed: s.shortageChanged}, s.log.Logger)
	if err != nil {
		s.log.Warn("registrations end with this process", "err", err)
	}
	if store != nil {
		s.store, s.config.Keeper = store, store
	}
}

// shortageChanged has the status looked at again. It does not block.
func (s *service) shortageChanged() {
	select {
	case s.shortage <- struct{}{}:
	default: // it will be looked at in any case
	}
}

// known is told of a node that was asked who it is.
func (s *service) known(n *registry.Node) {
	s.store.Update(n)
}

// restore enters what earlier processes had registered.
func restore(reg *registry.Registry, in *systemd.Inherited, log *slog.Logger) []epmd.Restored {
	reg.SkipIDs(in.LastID)
	if in.PeerID != [16]byte{} {
		reg.SetPeerID(in.PeerID)
	}
	for _, old := range in.Old {
		reg.RestoreOld(old)
	}
	var restored []epmd.Restored
	for _, k := range in.Kept {
		r, err := reg.Restore(k.Node)
		if err != nil {
			log.Error("registration not restored", "err", err)
			in.Drop(k)
			continue
		}
		restored = append(restored, epmd.Restored{FD: k.FD, Registration: r})
	}
	if len(restored) > 0 {
		log.Info("state restored", message.StateRestored.Attr(), "nodes", len(restored), "names", len(in.Old))
	}
	return restored
}

// run answers first, and begins the rest after headStart. Nothing of the rest ends the daemon. stop
// ends ctx.
func (s *service) run(ctx context.Context, stop func(), lns []*net.TCPListener) error {
	alive := aliveCheck(lns)
	g, ctx := errgroup.WithContext(ctx)
	defer s.catchSignals(stop)() // whoever has an answer may send one
	g.Go(func() error { return s.answer(ctx, lns) })
	s.log.Info("listening", "addresses", addresses(lns))
	if err := s.report(systemd.Ready, systemd.Status(s.status())); err != nil {
		s.log.Warn("service manager not told", "err", err)
	}
	background := func(name string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn(name, "err", err)
			}
			return nil
		})
	}
	background("registrations no longer kept", s.store.Run) // its answers wait for that
	select {
	case <-ctx.Done():
	case <-time.After(headStart):
	}
	s.runOthers(background)
	background("watchdog ended", func(ctx context.Context) error { return s.manager.Watchdog(ctx, alive, s.unwell) })
	return g.Wait()
}

// catchSignals has signals do what they are for: SIGHUP reloads, SIGTERM and SIGINT stop. A second
// one of these finds the default action. SIGPIPE, of whoever read the log, does nothing.
func (s *service) catchSignals(stop func()) (release func()) {
	signal.Ignore(syscall.SIGPIPE)
	signal.Notify(s.hangup, syscall.SIGHUP)
	caught, releaseStop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(caught, func() {
		releaseStop()
		stop()
	})
	return func() {
		signal.Stop(s.hangup)
		releaseStop()
	}
}

// runOthers begins the parts that no answer waits for.
func (s *service) runOthers(background func(name string, f func(context.Context) error)) {
	background("no longer looked where nodes listen", s.listens.Run)
	background("peers are told of nodes early", s.look)
	if s.asker != nil {
		background("identifying ended", s.asker.Run)
	}
	background("events ended", s.journal.Run)
	background("changes of network interfaces no longer noticed", s.watchLinks)
	background("neighbours no longer checked", s.checkReach)
	for _, k := range s.hosts {
		background("hosts file no longer kept", k.Run)
	}
	if s.bus != nil {
		background("D-Bus service ended", func(ctx context.Context) error { s.bus.Run(ctx); return nil })
	}
	if s.node != nil {
		background("epmd is no node any more", s.node.Run)
	}
	background("epmds of the LAN no longer asked", s.others.Run)
	background("hosts in nodes' names no longer resolved", vouch.New(vouch.Options{Registry: s.reg, Log: s.log.Logger}).Run)
	background("MAC addresses no longer read", s.macs.Run)
	background("no more streams from other epmds", s.peers.Run)
	background("epmds that are named no longer found", s.named.Run)
	if s.files != nil {
		background("nodes files no longer read", s.files.Run)
	}
	background("LAN discovery ended", func(ctx context.Context) error { s.lan.Run(ctx); return nil })
	background("status no longer told", s.tell)
	background("log no longer written", s.log.Run)
}

// answer serves until ctx ends or a KILL_REQ is granted. When SIGHUP has found another program that
// can go on, that takes this one's place. If it fails after all, this one goes on.
func (s *service) answer(ctx context.Context, lns []*net.TCPListener) error {
	for reloading := false; ; reloading = true {
		serving, handOver := context.WithCancelCause(ctx)
		waiting := make(chan struct{})
		go func() {
			defer close(waiting)
			s.awaitHangup(serving, handOver, reloading)
		}()
		server := epmd.NewServer(s.config)
		s.server.Store(server)
		err := server.Serve(serving, lns...)
		handOver(nil)
		<-waiting
		if !errors.Is(err, epmd.ErrHandOver) {
			return err
		}
		if ctx.Err() != nil {
			return nil // a signal ended it before another program could go on
		}
		var files []*os.File
		files, s.config.Restored = server.HandOver()
		s.log.Error("program not replaced", "err", s.handOver(ctx, files))
		if lns, err = listenersOf(files); err != nil {
			return err
		}
	}
}

// look returns when peers may be told of the nodes, so that none seems to have gone by a restart.
// By then it is known where they listen. Avahi has said what this host is called, if it does so
// within 2 seconds.
func (s *service) look(ctx context.Context) error {
	defer close(s.looked)
	select {
	case <-s.listens.Looked():
	case <-ctx.Done():
		return nil
	}
	if !s.restored {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	changes := s.reg.SubscribeLocal()
	defer changes.Close()
	for s.reg.LAN().Off() == registry.Starting {
		if _, err := changes.Next(ctx); err != nil {
			return nil
		}
	}
	return nil
}

// checkReach keeps it known which neighbours can be reached until ctx ends.
func (s *service) checkReach(ctx context.Context) error {
	var links netif.Links
	ask := func(ctx context.Context, addrs []netip.Addr, port uint16) (*reach.Names, error) {
		names, err := reach.Ask(ctx, addrs, port)
		if err == nil && len(addrs) > 0 {
			// Then the registry knows whose share the nodes are of.
			s.macs.Now(addrs[0], links.OnLink(addrs[0]))
		}
		return names, err
	}
	w := reach.NewWatcher(reach.Options{Registry: s.reg, Ask: ask, OnLink: links.OnLink, Links: s.links, Log: s.log.Logger})
	return w.Run(ctx)
}

// watchLinks tells all who want to know when network interfaces or their addresses have changed.
func (s *service) watchLinks(ctx context.Context) error {
	links, err := netif.Watch()
	if err != nil {
		return err
	}
	defer links.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-links.Changed():
		}
		s.peers.LinksChanged()
		s.named.LinksChanged()
		if server := s.server.Load(); server != nil {
			server.LinksChanged()
		}
		select {
		case s.links <- struct{}{}:
		default: // the token is there already
		}
	}
}

func (s *service) tell(ctx context.Context) error {
	if err := s.manager.KeepStatus(ctx, s.reg, s.shortage, s.status); err != nil {
		return err
	}
	return s.manager.Notify(systemd.Stopping)
}

func (s *service) unwell(err error) {
	s.log.Error("service manager not told that all is well", "err", err)
}

// status says in a line how it goes.
func (s *service) status() string {
	text := fmt.Sprintf("%s registered, %d on the LAN", screen.Counted(s.reg.Count(registry.Local), "node"), s.reg.Count(registry.LAN))
	if n := s.reg.Count(registry.Peer); n > 0 {
		text += fmt.Sprintf(", %d elsewhere", n)
	}
	text += "; " + s.reg.LAN().String()
	shortage, bound := s.store.Shortage()
	switch {
	case shortage != "":
		text += "; " + shortage
	case bound >= 0:
		text += fmt.Sprintf("; up to %d are kept", bound)
	}
	if server := s.server.Load(); server != nil {
		if shortage := server.Shortage(); shortage != "" {
			text += "; " + shortage
		}
	}
	return text
}

func addresses(lns []*net.TCPListener) string {
	list := make([]string, len(lns))
	for i, l := range lns {
		list[i] = l.Addr().String()
	}
	return strings.Join(list, ",")
}
