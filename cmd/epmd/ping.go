package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

// How long steps of -ping may take. A node that is well takes milliseconds.
const (
	resolveTime   = 6 * time.Second // multicast DNS gives up after 5 s
	pingStepTime  = 3 * time.Second
	localTime     = 500 * time.Millisecond // that the epmd of this host has to tell what it knows
	handshakeTime = 8 * time.Second        // the first TLS connection of a node's life takes long
	smallTime     = time.Second            // for an answer of a byte, by which a large one is judged
	busyTime      = 2 * time.Second        // that another epmd of this host may be connected to the node
	busyPause     = 20 * time.Millisecond
)

// jsonVersion is that of the objects that -ping and -peek print. It changes when a key goes or comes to mean something else.
const jsonVersion = 1

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
	net    world
	show   func(pingStep)
	report pingReport

	alive, host string
	addrs       []netip.Addr
	epmd        netip.AddrPort
	answer      epmd.PortResp // of the epmd; Result is not 0 if it does not know the node
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
	{"large", (*pinger).askLarge},
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
func ping(ctx context.Context, c config, s screen.Screen, getenv func(string) (string, bool), stdout io.Writer) error {
	p := newPinger(c, getenv)
	if !c.json {
		p.show = func(step pingStep) { printStep(stdout, s, step) }
	}
	began := time.Now()
	p.report.Pong = p.walkTo(ctx, "large")
	p.report.Millis = millis(time.Since(began))
	if p.conn != nil {
		p.conn.Close()
	}
	if err := p.conclude(stdout, s); err != nil {
		return err
	}
	if !p.report.Pong {
		return exit.Status(1)
	}
	return nil
}

// newPinger returns a pinger that shows nothing.
func newPinger(c config, getenv func(string) (string, bool)) *pinger {
	return &pinger{
		config: c, getenv: getenv, net: realWorld(c), show: func(pingStep) {},
		report: pingReport{Version: jsonVersion, Node: c.name, Steps: []pingStep{}},
	}
}

// conclude prints what comes after the steps.
func (p *pinger) conclude(stdout io.Writer, s screen.Screen) error {
	if p.config.json {
		text, err := json.Marshal(p.report)
		if err == nil {
			_, err = fmt.Fprintf(stdout, "%s\n", screen.EscapeUnprintable(text))
		}
		return err
	}
	verdict, l := "pang", screen.Red
	if p.report.Pong {
		verdict, l = "pong", screen.Green
	}
	_, err := fmt.Fprintf(stdout, "%s from %s after %.1f ms\n", s.Paint(verdict, l), screen.Printable(p.report.Node), p.report.Millis)
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
func printStep(w io.Writer, s screen.Screen, step pingStep) {
	mark, l := "✓", screen.Green
	if !step.OK {
		mark, l = "✗", screen.Red
	}
	const indent = 23 // of what was found
	found := screen.Printable(step.Found)
	if columns := s.Columns(indent); columns > 0 {
		found = screen.Cut(found, columns)
	}
	took := fmt.Sprintf("%8.1f ms", step.Millis)
	fmt.Fprintf(w, "%s %-8s %s  %s\n", s.Paint(mark, l), step.Step, s.Paint(took, screen.Faint), found)
	for _, line := range step.Advice {
		fmt.Fprintf(w, "%*s%s\n", indent, "", screen.Printable(line))
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
	addrs, err := p.net.addresses(ctx, p.host)
	if err != nil {
		return "", failed(err.Error(), p.resolveAdvice(ctx)...)
	}
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !lacksZone(a) }) {
		return "", failed(fmt.Sprintf("%s is %s, a link-local address without its zone", p.host, strings.Join(texts, ", ")), zoneAdvice)
	}
	p.addrs = addrs
	return fmt.Sprintf("%s is %s", p.host, strings.Join(texts, ", ")), nil
}

// lacksZone reports whether nobody can tell at which interface an address is.
func lacksZone(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" }

// askEPMD asks the epmd of the host for the node, at all addresses. What it says is for lookUp.
func (p *pinger) askEPMD(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	answer, at, err := p.net.lookup(ctx, atPort(p.addrs, p.config.port), p.alive)
	switch {
	case errors.Is(err, epmd.ErrNotRegistered):
		answer.Result = 1
	case err != nil:
		return "", p.eachFailed(ctx, err, p.epmdFailure)
	}
	p.answer, p.epmd, p.report.Address = answer, at, at.Addr().String()
	return fmt.Sprintf("%v answers", at), nil
}

// atPort returns that port at addresses.
func atPort(addrs []netip.Addr, port uint16) []netip.AddrPort {
	list := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		list[i] = netip.AddrPortFrom(a, port)
	}
	return list
}

// lookUp looks at what the epmd says of the node.
func (p *pinger) lookUp(ctx context.Context) (string, error) {
	if p.answer.Result != 0 {
		ctx, cancel := context.WithTimeout(ctx, pingStepTime)
		defer cancel()
		names, err := p.net.names(ctx, p.epmd)
		return "", failed(fmt.Sprintf("%q is not registered there", p.alive), append(p.portAdvice(ctx), othersAdvice(names, err)...)...)
	}
	p.report.Port = p.answer.Port
	return fmt.Sprintf("%s is registered, at port %d", p.alive, p.answer.Port), nil
}

// connect opens the distribution port and closes it again, at the address where the epmd answered or another
// one of the host.
func (p *pinger) connect(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	addrs := epmd.AtPort(p.addrs, p.epmd.Addr(), p.answer.Port)
	if p.isLibrary() {
		p.addr = addrs[0]
		return "left to the step cookie: a C or Java node may accept a single connection", nil
	}
	at, err := p.net.connect(ctx, addrs)
	if err != nil {
		return "", p.eachFailed(ctx, err, p.connectFailure)
	}
	p.addr, p.report.Address = at, at.Addr().String()
	found := fmt.Sprintf("%v is open", at)
	if at != addrs[0] {
		found += fmt.Sprintf("; %v is not", addrs[0])
	}
	return found, nil
}

// identify asks the node for its own name.
func (p *pinger) identify(ctx context.Context) (string, error) {
	if p.isLibrary() {
		p.report.Type = p.answer.Type.String()
		return fmt.Sprintf("left to the step cookie: registered as a node of type %d", p.answer.Type), nil
	}
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
		return "", failed(fmt.Sprintf("the node calls itself %s", id.Name), p.nameAdvice(ctx)...)
	}
	return fmt.Sprintf("%s, %s node, %s, flags %#x", id.Name, p.report.Type, carrier, uint64(id.Flags)), nil
}

// ask asks the node for its name, for some time also while it is being asked by another epmd of this host.
func (p *pinger) ask(ctx context.Context) (node.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	for until := time.Now().Add(busyTime); ; {
		id, err := p.net.identify(ctx, p.addr, p.self())
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

// isLibrary reports whether the node has registered as nodes of OTP don't, but those of erl_interface and
// jinterface do.
func (p *pinger) isLibrary() bool {
	return p.answer.Type == registry.Hidden || p.answer.Type == registry.CNode || p.answer.Type == registry.Java
}

func (p *pinger) identifyFailure(err error) error {
	var refused *node.StatusError
	var old *node.FlagsError
	switch {
	case errors.Is(err, node.ErrTLS):
		return failed("the node speaks TLS and does not complete a handshake with us",
			"It may demand a certificate of whoever connects (verify_peer with fail_if_no_peer_cert), which epmd has none of.")
	case errors.As(err, &refused) && refused.Code == node.NotAllowed:
		return failed("the node refuses "+p.self(),
			"Either net_kernel:allow/1 in the node restricts who may connect, or the node demands distribution flags that epmd does not announce.",
			"Its log says which.")
	case errors.As(err, &refused):
		return failed(fmt.Sprintf("the node is busy with another connection of %s: %q", p.self(), string(refused.Code)),
			"Another epmd -ping or -peek of this host is connected to it. Try again when that has ended.")
	case errors.As(err, &old), errors.Is(err, node.ErrHungUp) && p.answer.High < 6:
		return failed("an old node: "+err.Error(),
			"It speaks version 5 of the distribution's handshake, as OTP before 23 and some libraries do. epmd, and OTP since 25, speak version 6 alone.")
	case errors.Is(err, node.ErrHungUp):
		return failed(err.Error(),
			"What listens there may be no Erlang node, or one written in another language that does not understand the handshake. Its log may say more.")
	case tcp.IsTimeout(err):
		return failed("the node takes connections, but does not answer",
			"It is suspended, overloaded or hanging: see the process on its host (ps, top), and its log.")
	}
	return failed(err.Error(), "What listens there may be no Erlang node.")
}

// self is the name that this host asks under: of the kind that the node's own name is, short, with a domain
// or with an address. A node may go by whom it talks to; see asNode.nameFor.
func (p *pinger) self() string {
	_, domain, long := strings.Cut(p.host, ".")
	switch _, noIP := netip.ParseAddr(p.host); {
	case noIP == nil && p.addr.IsValid():
		return "eclus@" + cmp.Or(sourceOf(p.addr), hostName())
	case p.host == "localhost":
		return "eclus@localhost"
	case noIP == nil || !long:
		return "eclus@" + hostName()
	}
	return "eclus@" + hostName() + "." + domain
}

// sourceOf returns the address of this host from which packets go to another one, or "". It sends none.
func sourceOf(to netip.AddrPort) string {
	c, err := net.Dial("udp", to.String())
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("").String()
}

// authenticate connects with the cookie.
func (p *pinger) authenticate(ctx context.Context) (string, error) {
	var err error
	if p.cookie, p.from, err = cookie.Find(p.config.cookieFile, p.getenv); err != nil {
		return "", failed(err.Error(), "The way to the node is free as far as here. What remains takes its cookie.")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	p.conn, err = p.net.dial(p.dialer(), ctx, p.config.name, p.addr)
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
	if err := p.net.ping(ctx, p.conn); err != nil {
		if p.isLibrary() {
			return "", failed("connected, but no pong: "+err.Error(),
				"Name and cookie are right. A C or Java node answers pings only if its program answers what comes for net_kernel.")
		}
		return "", pingFailure(err)
	}
	return "pong", nil
}

// largeAnswer is how many bytes the last step asks for: more than the largest packets carry (jumbo frames of
// 9,000 bytes are for networks that are known to take them).
const largeAnswer = 8192

// askLarge asks for a large answer. A path can lose large packets and let all small ones through: then a node
// looks well until something of consequence is said. A node that runs no functions for others, as one that is
// written in another language, has nothing to say.
func (p *pinger) askLarge(ctx context.Context) (string, error) {
	small, cancel := context.WithTimeout(ctx, smallTime)
	defer cancel()
	err := p.net.answer(small, p.conn, 1)
	switch {
	case err != nil && tcp.IsClosed(err):
		return "", pingFailure(err)
	case err != nil && p.identity.Flags&node.Spawn == 0, err != nil && !tcp.IsTimeout(err):
		return "no large answer to ask for: the node runs no functions for others", nil
	case err != nil:
		return "", failed(err.Error(), "The node is connected, but starts no process for us: it is overloaded or hanging.")
	}
	large, cancel := context.WithTimeout(ctx, pingStepTime)
	defer cancel()
	if err := p.net.answer(large, p.conn, largeAnswer); err != nil {
		return "", largeFailure(err)
	}
	return fmt.Sprintf("an answer of %d kB arrives", largeAnswer>>10), nil
}
