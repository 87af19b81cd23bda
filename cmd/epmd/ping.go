package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"eclus/epmd"
	"eclus/node"
)

// How long steps of -ping may take. A node that is well takes milliseconds.
const (
	resolveTime   = 6 * time.Second // multicast DNS gives up after 5 s
	pingStepTime  = 3 * time.Second
	handshakeTime = 8 * time.Second // the first TLS connection of a node's life takes long
	busyTime      = 2 * time.Second // that another epmd of this host may be connected to the node
	busyPause     = 20 * time.Millisecond
)

// pingStep is a step of the way to a node.
type pingStep struct {
	Step   string   `json:"step"`
	OK     bool     `json:"ok"`
	Millis float64  `json:"ms"`
	Found  string   `json:"found"`            // what was seen
	Advice []string `json:"advice,omitempty"` // what that means and what to try, if it is not well
}

// pingReport is what -ping -json prints. Steps ends with the first that failed. What is not known is left out.
type pingReport struct {
	Version  int        `json:"v"`
	Node     string     `json:"node"`
	Pong     bool       `json:"pong"`
	Millis   float64    `json:"ms"`
	Address  string     `json:"address,omitempty"`
	Port     uint16     `json:"port,omitempty"`
	Dist     string     `json:"dist,omitempty"`
	Type     string     `json:"type,omitempty"`
	Flags    string     `json:"flags,omitempty"` // hexadecimal
	Creation uint32     `json:"creation,omitempty"`
	Steps    []pingStep `json:"steps"`
}

// pinger goes the way to a node, step by step.
type pinger struct {
	config config
	getenv func(string) (string, bool)
	show   func(pingStep)
	report pingReport

	alive, host string
	addrs       []netip.Addr
	epmd        netip.AddrPort
	names       []string // that the epmd has
	addr        netip.AddrPort
	identity    node.Identity
	cookie      node.Cookie
	from        string // where the cookie comes from
	conn        *node.Conn
}

// The steps of -ping in their order. Each returns what it has found and, where it has failed, an error, which
// may be a failure with advice.
var pingSteps = []struct {
	name string
	take func(*pinger, context.Context) (string, error)
}{
	{"name", (*pinger).checkName},
	{"resolve", (*pinger).resolveHost},
	{"epmd", (*pinger).askEPMD},
	{"lookup", (*pinger).lookUp},
	{"connect", (*pinger).connect},
	{"identify", (*pinger).identify},
	{"cookie", (*pinger).authenticate},
	{"ping", (*pinger).ping},
}

// failure is why a step has failed, with what to do about it.
type failure struct {
	found  string
	advice []string
}

func (f failure) Error() string { return f.found }

// failed returns a failure. What found says of others is quoted.
func failed(found string, advice ...string) failure { return failure{found, advice} }

// ping goes the way to the node that -ping names and shows each step. Its error is exit status 1 if there is no pong.
func ping(ctx context.Context, c config, s screen, getenv func(string) (string, bool), stdout io.Writer) error {
	p := newPinger(c, getenv)
	if !c.json {
		p.show = func(step pingStep) { printStep(stdout, s, step) }
	}
	began := time.Now()
	p.report.Pong = p.walkTo(ctx, "ping")
	p.report.Millis = millis(time.Since(began))
	if p.conn != nil {
		p.conn.Close()
	}
	if err := p.conclude(stdout, s); err != nil {
		return err
	}
	if !p.report.Pong {
		return exitStatus(1)
	}
	return nil
}

// newPinger returns a pinger that shows nothing.
func newPinger(c config, getenv func(string) (string, bool)) *pinger {
	return &pinger{
		config: c, getenv: getenv, show: func(pingStep) {},
		report: pingReport{Version: jsonVersion, Node: c.name, Steps: []pingStep{}},
	}
}

// conclude prints what comes after the steps.
func (p *pinger) conclude(stdout io.Writer, s screen) error {
	if p.config.json {
		text, err := json.Marshal(p.report)
		if err == nil {
			_, err = fmt.Fprintf(stdout, "%s\n", escapeUnprintable(text))
		}
		return err
	}
	verdict, l := "pang", red
	if p.report.Pong {
		verdict, l = "pong", green
	}
	_, err := fmt.Fprintf(stdout, "%s from %s after %.1f ms\n", s.paint(verdict, l), printable(p.report.Node), p.report.Millis)
	return err
}

// walkTo takes the steps up to one, or until one fails, and tells whether none did.
func (p *pinger) walkTo(ctx context.Context, last string) bool {
	for _, step := range pingSteps {
		began := time.Now()
		found, err := step.take(p, ctx)
		taken := pingStep{Step: step.name, OK: err == nil, Millis: millis(time.Since(began)), Found: found}
		if err != nil {
			taken.Found = err.Error()
			var f failure
			if errors.As(err, &f) {
				taken.Advice = f.advice
			}
		}
		p.report.Steps = append(p.report.Steps, taken)
		p.show(taken)
		if err != nil {
			return false
		}
		if step.name == last {
			break
		}
	}
	return true
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// printStep prints a step on a line, and advice below it.
func printStep(w io.Writer, s screen, step pingStep) {
	mark, l := "✓", green
	if !step.OK {
		mark, l = "✗", red
	}
	const indent = 23 // of what was found
	found := printable(step.Found)
	if columns := s.columns(indent); columns > 0 {
		found = cut(found, columns)
	}
	took := fmt.Sprintf("%8.1f ms", step.Millis)
	fmt.Fprintf(w, "%s %-8s %s  %s\n", s.paint(mark, l), step.Step, s.paint(took, faint), found)
	for _, line := range step.Advice {
		fmt.Fprintf(w, "%*s%s\n", indent, "", printable(line))
	}
}

// checkName checks the form of the name.
func (p *pinger) checkName(context.Context) (string, error) {
	name := p.config.name
	if err := node.CheckName(name); err != nil {
		return "", failed(err.Error(), "A full node name is NAME@HOST, as node() in the node's shell and epmd -nodes have it.")
	}
	p.alive, p.host, _ = strings.Cut(name, "@")
	if isLong(p.host) {
		return fmt.Sprintf("%s, a long name (-name)", name), nil
	}
	return fmt.Sprintf("%s, a short name (-sname)", name), nil
}

// isLong tells whether a host makes its nodes' names long ones, as OTP does by the dot (or the colon of an address).
func isLong(host string) bool { return strings.ContainsAny(host, ".:") }

func (p *pinger) resolveHost(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	addrs, err := resolve(ctx, p.host)
	if err != nil {
		return "", failed(err.Error(), resolveAdvice(p.host)...)
	}
	p.addrs = addrs
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return fmt.Sprintf("%s is %s", p.host, strings.Join(texts, ", ")), nil
}

// resolveAdvice says why a host may have no address.
func resolveAdvice(host string) []string {
	switch {
	case strings.HasSuffix(host, ".local") && !resolvesLocal():
		return []string{"Names in .local are resolved by multicast DNS, for which this host lacks a resolver: install libnss-mdns."}
	case strings.HasSuffix(host, ".local"):
		return []string{
			"Nobody on the LAN answers to that name. Is the host up, on this network, and avahi-daemon running there and here?",
			"See: avahi-resolve -n " + host,
		}
	case isLong(host):
		return []string{"DNS and /etc/hosts don't have that host. See: getent ahosts " + host}
	}
	return []string{
		"A short name is looked up as it is, in /etc/hosts and the search domains of DNS.",
		"If the host is known by multicast DNS alone, start its node with -name " + "NAME@" + host + ".local.",
	}
}

// resolvesLocal tells whether the system looks names up by multicast DNS.
func resolvesLocal() bool {
	text, err := os.ReadFile("/etc/nsswitch.conf")
	if err != nil {
		return true // it can't be told
	}
	for line := range strings.Lines(string(text)) {
		if hosts, found := strings.CutPrefix(strings.TrimSpace(line), "hosts:"); found {
			return strings.Contains(hosts, "mdns") || strings.Contains(hosts, "resolve")
		}
	}
	return false
}

// askEPMD asks the epmd of the host for its names, at each of the addresses until one answers.
func (p *pinger) askEPMD(ctx context.Context) (string, error) {
	var failures []failure
	for _, addr := range p.addrs {
		at := netip.AddrPortFrom(addr, p.config.port)
		stepping, cancel := context.WithTimeout(ctx, pingStepTime)
		names, err := askNames(stepping, at)
		cancel()
		if err != nil {
			failures = append(failures, epmdFailure(at, err))
			continue
		}
		p.epmd, p.report.Address = at, addr.String()
		for _, n := range names {
			p.names = append(p.names, n.Name)
		}
		return fmt.Sprintf("%v answers and has %s", at, counted(len(names), "node")), nil
	}
	all := failures[0] // of the address that is the most likely to work
	for _, f := range failures[1:] {
		all.found += "; " + f.found
	}
	return "", all
}

// epmdFailure says what became of asking the epmd.
func epmdFailure(at netip.AddrPort, err error) failure {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return failed(fmt.Sprintf("nothing listens on %v for us", at),
			"The host is up, but no epmd takes connections there. Does one run (systemctl status epmd.socket; epmd -names on that host)?",
			"It may listen on loopback only: see its -address, and ERL_EPMD_ADDRESS.")
	case isTimeout(err):
		return failed(fmt.Sprintf("no answer from %v", at),
			fmt.Sprintf("The host is down, or a firewall drops what is for TCP port %d.", at.Port()))
	case errors.Is(err, epmd.ErrNoAnswer), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return failed(fmt.Sprintf("%v closes the connection without an answer", at),
			"The epmd there refuses this host, as -allow has it; its log says so (journalctl -u epmd). Or another program listens there.")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return failed(fmt.Sprintf("no way to %v", at), "The host is down or on another network: "+err.Error())
	}
	return failed(fmt.Sprintf("%v: %v", at, err), "What listens there may be no epmd.")
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// lookUp asks for the node's port.
func (p *pinger) lookUp(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	resp, err := epmd.NewClient(p.epmd).Lookup(ctx, p.alive)
	switch {
	case errors.Is(err, epmd.ErrNotRegistered):
		return "", failed(fmt.Sprintf("%q is not registered there", p.alive), p.othersAdvice()...)
	case err != nil:
		return "", failed(err.Error())
	}
	p.addr = netip.AddrPortFrom(p.epmd.Addr(), resp.Port)
	p.report.Port = resp.Port
	return fmt.Sprintf("%s is registered, at port %d", p.alive, resp.Port), nil
}

// othersAdvice says which names are registered.
func (p *pinger) othersAdvice() []string {
	const most = 20
	switch n := len(p.names); {
	case n == 0:
		return []string{"Nor is any other: is the node started with -name or -sname, and not with -start_epmd false or another epmd module?"}
	case n > most:
		return []string{fmt.Sprintf("These are, and %d more: %s", n-most, strings.Join(p.names[:most], ", "))}
	}
	return []string{"These are: " + strings.Join(p.names, ", ")}
}

// connect opens the distribution port and closes it again.
func (p *pinger) connect(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr.String())
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "", failed(fmt.Sprintf("nothing listens on %v for us", p.addr),
			"The node may listen on one address only (inet_dist_use_interface), or a firewall rejects the port.")
	case isTimeout(err):
		return "", failed(fmt.Sprintf("no answer from %v", p.addr),
			"A firewall drops what is for that port. Nodes take any port unless told a range (-kernel inet_dist_listen_min and _max): open it.")
	case err != nil:
		return "", failed(fmt.Sprintf("%v: %v", p.addr, err))
	}
	conn.Close()
	return fmt.Sprintf("%v is open", p.addr), nil
}

// identify asks the node for its own name.
func (p *pinger) identify(ctx context.Context) (string, error) {
	id, err := p.ask(ctx)
	if id.TLS {
		p.report.Dist = "tls"
	}
	if err != nil {
		return "", p.identifyFailure(err)
	}
	p.identity = id
	p.report.Dist, p.report.Type = "tcp", "normal"
	carrier := "without TLS"
	if id.TLS {
		p.report.Dist, carrier = "tls", "over TLS"
	}
	if id.Hidden {
		p.report.Type = "hidden"
	}
	p.report.Flags, p.report.Creation = fmt.Sprintf("%#x", uint64(id.Flags)), id.Creation
	if id.Name != p.config.name {
		return "", failed(fmt.Sprintf("the node calls itself %s", id.Name), p.nameAdvice()...)
	}
	return fmt.Sprintf("%s, %s node, %s, flags %#x", id.Name, p.report.Type, carrier, uint64(id.Flags)), nil
}

// ask asks the node for its name, for some time also while it is being asked by another epmd of this host.
func (p *pinger) ask(ctx context.Context) (node.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	for until := time.Now().Add(busyTime); ; {
		id, err := node.Identify(ctx, p.addr, p.self())
		var refused *node.StatusError
		busy := errors.As(err, &refused) && refused.Code != node.NotAllowed
		if !busy || time.Now().After(until) {
			return id, err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return id, err
		}
	}
}

// nameAdvice says what another name means.
func (p *pinger) nameAdvice() []string {
	_, host, _ := strings.Cut(p.identity.Name, "@")
	advice := []string{"Nodes talk to it by that name only: epmd -ping " + p.identity.Name}
	if isLong(host) != isLong(p.host) {
		advice = append(advice, "Nodes with short names (-sname) and nodes with long ones (-name) can't be connected.")
	}
	return advice
}

func (p *pinger) identifyFailure(err error) error {
	var refused *node.StatusError
	switch {
	case errors.Is(err, node.ErrTLS):
		return failed("the node speaks TLS and does not complete a handshake with us",
			"It may demand a certificate of whoever connects (verify_peer with fail_if_no_peer_cert), which epmd has none of.")
	case errors.As(err, &refused) && refused.Code == node.NotAllowed:
		return failed("the node refuses "+p.self(), "net_kernel:allow/1 in the node restricts who may connect.")
	case errors.As(err, &refused):
		return failed(fmt.Sprintf("the node is busy with another connection of %s: %q", p.self(), string(refused.Code)),
			"Another epmd -ping or -peek of this host is connected to it. Try again when that has ended.")
	case isTimeout(err):
		return failed("the node takes connections, but does not answer",
			"It is suspended, overloaded or hanging: see the process on its host (ps, top), and its log.")
	}
	return failed(err.Error(), "What listens there may be no Erlang node.")
}

// self is the name that this host asks under; see newIdentifier.
func (p *pinger) self() string { return "eclus@" + hostName() }

// authenticate connects with the cookie.
func (p *pinger) authenticate(ctx context.Context) (string, error) {
	var err error
	if p.cookie, p.from, err = findCookie(p.config.cookieFile, p.getenv); err != nil {
		return "", failed(err.Error(), "The way to the node is free as far as here. What remains takes its cookie.")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	p.conn, err = p.dialer().DialAddr(ctx, p.config.name, p.addr)
	switch {
	case errors.Is(err, node.ErrCookie):
		return "", failed(fmt.Sprintf("the cookie of %s is not the node's", p.from),
			"Compare it with erlang:get_cookie() in the node: it comes from -setcookie, or from ~/.erlang.cookie of the user it runs as.",
			"The node has logged this try.")
	case err != nil:
		return "", p.identifyFailure(err)
	}
	return fmt.Sprintf("that of %s is right", p.from), nil
}

// dialer connects as the node that has been identified demands.
func (p *pinger) dialer() *node.Dialer {
	d := &node.Dialer{Name: p.self(), Cookie: p.cookie}
	if p.identity.TLS {
		d.TLS = node.AnyTLS()
	}
	return d
}

func (p *pinger) ping(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	if err := p.conn.Ping(ctx); err != nil {
		return "", failed(err.Error(), "The node is connected, but its net_kernel does not answer: it is overloaded or hanging.")
	}
	return "pong", nil
}
