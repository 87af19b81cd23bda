// Package way goes the way to a node of any host. The steps are its name, the host's addresses, the
// epmd there, the node's port, its identity and the cookie. Where the way ends it says why, and
// what to do about it.
//
// The cookie is proved to whoever answers, and such a proof can be passed on. So it is proved only
// at an address that the resolver gives, unless Options.Prove is set.
//
// It runs getent, and connects to epmds and nodes by TCP. Each step blocks, for a few seconds at
// most.
package way

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/registry"
)

// How long steps may take. A node that is well takes milliseconds.
const (
	resolveTime   = 6 * time.Second // multicast DNS gives up after 5 s
	stepTime      = 3 * time.Second
	localTime     = 500 * time.Millisecond // that the epmd of this host has to tell what it knows
	handshakeTime = 8 * time.Second        // the first TLS connection of a node's life takes long
)

// Options say which way to go.
type Options struct {
	Node       string // full name
	Port       uint16 // of epmds
	CookieFile string // empty: where OTP looks
	HostName   string // the first label of this host's name
	// Prove has the cookie proved at an address that only an announcement gives.
	Prove bool
	// Roots are the authorities that vouch for nodes. With them, a node must speak TLS and have a
	// certificate for its host. Without, certificates are not verified.
	Roots  *x509.CertPool
	Getenv func(string) (string, bool)
}

// Step is a step of the way to a node.
type Step struct {
	Step   string   `json:"step"`
	OK     bool     `json:"ok"`
	Millis float64  `json:"ms"`
	Found  string   `json:"found"`            // what was seen
	Advice []string `json:"advice,omitempty"` // what that means and what to try
}

// Seen is what has been seen of a node on the way. What is not known is left out.
type Seen struct {
	Address string `json:"address,omitempty"`
	// Announced says that only an announcement gives the address.
	Announced bool   `json:"announced,omitempty"`
	Port      uint16 `json:"port,omitempty"`
	Dist      string `json:"dist,omitempty"`
	// Verified says whether the node's certificate is; nil: it has shown none, or not yet.
	Verified *bool  `json:"verified,omitempty"`
	Type     string `json:"type,omitempty"`
	Flags    string `json:"flags,omitempty"` // hexadecimal
	Creation uint32 `json:"creation,omitempty"`
	Steps    []Step `json:"steps"` // ends with the first that failed
}

// Way is the way to a node, as far as it has been gone.
type Way struct {
	Seen
	Identity node.Identity
	Answer   epmd.PortResp // of the node's epmd; Result is not 0 if that does not know the node
	Conn     *node.Conn    // to the node; nil: the way ended before. The caller closes it

	options     Options
	net         world
	show        func(Step)
	alive, host string
	addrs       []netip.Addr
	epmd        netip.AddrPort
	addr        netip.AddrPort
	sayer       string   // who alone gives the address, if the resolver does not
	unresolved  Failure  // why the resolver has no address of the host
	advice      []string // of the step that is being taken, if it does not fail
	cookie      node.Cookie
	from        string // where the cookie comes from
}

// steps are the steps of the way in their order. Each returns what it has found, or an error, which
// may be a Failure.
var steps = []struct {
	name string
	take func(*Way, context.Context) (string, error)
}{
	{"name", (*Way).checkName},
	{"resolve", (*Way).resolveHost},
	{"epmd", (*Way).askEPMD},
	{"lookup", (*Way).lookUp},
	{"connect", (*Way).connect},
	{"identify", (*Way).identify},
	{stepTrust, (*Way).trust},
	{"cookie", (*Way).authenticate},
}

// stepTrust is the step that only the way to an announced address has.
const stepTrust = "trust"

// New returns the way to a node, no step of which has been taken. show is told of each that is;
// nil: nobody is.
func New(o Options, show func(Step)) *Way {
	if show == nil {
		show = func(Step) {}
	}
	return &Way{Seen: Seen{Steps: []Step{}}, options: o, net: realWorld(o.Port), show: show}
}

// Go takes all steps, or until one fails, and reports whether none did. There is a connection then.
func (w *Way) Go(ctx context.Context) bool {
	for _, step := range steps {
		if step.name == stepTrust && !w.Announced {
			continue
		}
		if !w.Take(ctx, step.name, func(ctx context.Context) (string, error) { return step.take(w, ctx) }) {
			return false
		}
	}
	return true
}

// Take takes one step more. take returns what it has found, or an error, which may be a Failure.
// Take reports whether it has not.
func (w *Way) Take(ctx context.Context, name string, take func(context.Context) (string, error)) bool {
	began := time.Now()
	found, err := take(ctx)
	step := Step{Step: name, OK: err == nil, Millis: Millis(time.Since(began)), Found: found, Advice: w.advice}
	w.advice = nil
	if err != nil {
		step.Found = err.Error()
		var f Failure
		if errors.As(err, &f) {
			step.Advice = f.advice
		}
	}
	w.Steps = append(w.Steps, step)
	w.show(step)
	return step.OK
}

// Millis returns a time in milliseconds, to the microsecond.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Failure is why a step has failed, with what to do about it.
type Failure struct {
	found  string
	advice []string
}

// Error returns what was seen.
func (f Failure) Error() string { return f.found }

// Failed returns a Failure. What found says of others is quoted.
func Failed(found string, advice ...string) Failure { return Failure{found, advice} }

// checkName checks the form of the name.
func (w *Way) checkName(context.Context) (string, error) {
	name := w.options.Node
	if err := node.CheckName(name); err != nil {
		return "", Failed(err.Error(), "A full node name is NAME@HOST, as node() in the node's shell and epmd -nodes have it.")
	}
	w.alive, w.host, _ = strings.Cut(name, "@")
	if isLong(w.host) {
		return fmt.Sprintf("%s, a long name (-name)", name), nil
	}
	return fmt.Sprintf("%s, a short name (-sname)", name), nil
}

// isLong reports whether nodes of a host have long names. As for OTP, a dot makes one, or the colon
// of an address.
func isLong(host string) bool { return strings.ContainsAny(host, ".:") }

func (w *Way) resolveHost(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	addrs, err := w.net.addresses(ctx, w.host)
	if err != nil {
		return w.takeKnown(ctx, err)
	}
	if !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !lacksZone(a) }) {
		return "", Failed(fmt.Sprintf("%s is %s, a link-local address without its zone", w.host, addrsText(addrs)), zoneAdvice)
	}
	w.addrs = addrs
	return fmt.Sprintf("%s is %s", w.host, addrsText(addrs)), nil
}

// takeKnown takes the addresses that our epmd knows of a host that the resolver does not. The epmd
// of a peer that this host's owner has named counts as the resolver, and so does his nodes file. An
// announcement does not, nor what a program has written.
func (w *Way) takeKnown(ctx context.Context, unresolved error) (string, error) {
	w.unresolved = Failed(unresolved.Error(), w.resolveAdvice(ctx)...)
	known, isKnown := w.known(ctx)
	addrs := slices.DeleteFunc(slices.Clone(known.Addresses), lacksZone)
	if !isKnown || len(addrs) == 0 {
		return "", w.unresolved
	}
	w.addrs, w.Announced, w.advice = addrs, !known.Named, w.knownAdvice(known)
	w.sayer = "an announcement"
	if known.Origin == registry.Peer {
		w.sayer = written
	}
	who := fmt.Sprintf("only %s gives an address", w.sayer)
	if !w.Announced {
		who = "what was named by -peer or in a nodes file says"
	}
	return fmt.Sprintf("%s resolves nowhere; %s: %s", w.host, who, addrsText(addrs)), nil
}

// written is the word of a program, which is not that of this host's owner.
const written = "what a program has written below /run"

// addrsText returns addresses as a list.
func addrsText(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// trust ends the way to an announced address before the cookie is proved there.
func (w *Way) trust(context.Context) (string, error) {
	if w.options.Prove {
		return "the cookie is proved at an announced address (-prove)", nil
	}
	whose := "Any host of the LAN can announce that. "
	if w.sayer == written {
		whose = ""
	}
	return "", Failed(fmt.Sprintf("only %s says that %s is %v: no cookie is proved there", w.sayer, w.host, w.addr.Addr()),
		append([]string{
			whose + "Whoever gets a proof of the cookie can pass it on and log in elsewhere.",
			"Have the name resolve, or go on all the same with -prove. " + w.unresolved.found + ".",
		}, w.unresolved.advice...)...)
}

// lacksZone reports whether nobody can tell at which interface an address is.
func lacksZone(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" }

// askEPMD asks the epmd of the host for the node, at all addresses. What it says is for lookUp.
func (w *Way) askEPMD(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	answer, at, err := w.net.lookup(ctx, atPort(w.addrs, w.options.Port), w.alive)
	if err != nil {
		if n, is := w.listed(ctx); is {
			w.Answer = epmd.PortResp{Port: n.Port, Type: n.Type, High: n.High, Low: n.Low, Name: n.Name}
			w.epmd = netip.AddrPortFrom(w.addrs[0], w.options.Port)
			return fmt.Sprintf("none has it, but the nodes file %s", n.Via), nil
		}
	}
	switch {
	case errors.Is(err, epmd.ErrNotRegistered):
		answer.Result = 1
	case err != nil:
		return "", w.eachFailed(ctx, err, w.epmdFailure)
	}
	w.Answer, w.epmd, w.Address = answer, at, at.Addr().String()
	return fmt.Sprintf("%v answers", at), nil
}

// listed returns the node as a nodes file has it that no epmd has. What a program has written does
// not lead to where the resolver does not.
func (w *Way) listed(ctx context.Context) (registry.Node, bool) {
	n, _ := w.known(ctx)
	return n, n.Node == w.options.Node && n.HasNoEPMD() && (n.Named || w.Announced || w.options.Prove)
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
func (w *Way) lookUp(ctx context.Context) (string, error) {
	if w.Answer.Result != 0 {
		ctx, cancel := context.WithTimeout(ctx, stepTime)
		defer cancel()
		names, err := w.net.names(ctx, w.epmd)
		advice := slices.Concat(w.hereAdvice(ctx), w.portAdvice(ctx), othersAdvice(names, err))
		return "", Failed(fmt.Sprintf("%q is not registered there", w.alive), advice...)
	}
	w.Port = w.Answer.Port
	return fmt.Sprintf("%s is registered, at port %d", w.alive, w.Answer.Port), nil
}

// connect opens the distribution port and closes it again. It tries the address where the epmd
// answered first.
func (w *Way) connect(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	addrs := epmd.AtPort(w.addrs, w.epmd.Addr(), w.Answer.Port)
	if w.IsLibrary() {
		w.addr = addrs[0]
		return "left to the step cookie: a C or Java node may accept a single connection", nil
	}
	at, err := w.net.connect(ctx, addrs)
	if err != nil {
		return "", w.eachFailed(ctx, err, w.connectFailure)
	}
	w.addr, w.Address = at, at.Addr().String()
	found := fmt.Sprintf("%v is open", at)
	if at != addrs[0] {
		found += fmt.Sprintf("; %v is not", addrs[0])
	}
	return found, nil
}

// identify asks the node for its own name.
func (w *Way) identify(ctx context.Context) (string, error) {
	if w.IsLibrary() {
		w.Type = w.Answer.Type.String()
		return fmt.Sprintf("left to the step cookie: registered as a node of type %d", w.Answer.Type), nil
	}
	id, err := w.ask(ctx)
	if id.TLS {
		w.Dist = "tls"
	}
	if err != nil {
		return "", w.identifyFailure(err)
	}
	w.Identity = id
	w.Dist, w.Type = "tcp", "normal"
	carrier := "without TLS"
	if id.TLS {
		w.Dist, carrier = "tls", "over TLS"
	}
	if id.Hidden {
		w.Type = "hidden"
	}
	w.Flags, w.Creation = fmt.Sprintf("%#x", uint64(id.Flags)), id.Creation
	if id.Name != w.options.Node {
		return "", Failed(fmt.Sprintf("the node calls itself %s", id.Name), w.nameAdvice(ctx)...)
	}
	return fmt.Sprintf("%s, %s node, %s, flags %#x", id.Name, w.Type, carrier, uint64(id.Flags)), nil
}

// ask asks the node for its name. If another epmd of this host is asking, it tries for 2 s.
func (w *Way) ask(ctx context.Context) (node.Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	return node.WhileBusy(ctx, func() (node.Identity, error) { return w.net.identify(ctx, w.addr, w.self()) })
}

// IsLibrary reports whether the node registered as those of erl_interface and jinterface do.
func (w *Way) IsLibrary() bool {
	return w.Answer.Type == registry.Hidden || w.Answer.Type == registry.CNode || w.Answer.Type == registry.Java
}

func (w *Way) identifyFailure(err error) error {
	var refused *node.StatusError
	var old *node.FlagsError
	switch {
	case errors.Is(err, node.ErrTLS):
		return Failed("the node speaks TLS and does not complete a handshake with us",
			"It may demand a certificate of whoever connects (verify_peer with fail_if_no_peer_cert), which epmd has none of.")
	case errors.As(err, &refused) && refused.Code == node.NotAllowed:
		return Failed("the node refuses "+w.self(),
			"Either net_kernel:allow/1 in the node restricts who may connect, or the node demands distribution flags that epmd does not announce.",
			"Its log says which.")
	case node.IsBusy(err):
		return Failed(fmt.Sprintf("the node is busy with another connection of %s: %v", w.self(), err),
			"Another epmd -ping or -peek of this host is connected to it. Try again when that has ended.")
	case errors.As(err, &old), errors.Is(err, node.ErrHungUp) && w.Answer.High < 6:
		return Failed("an old node: "+err.Error(),
			"It speaks version 5 of the distribution's handshake, as OTP before 23 and some libraries do. epmd, and OTP since 25, speak version 6 alone.")
	case errors.Is(err, node.ErrHungUp):
		return Failed(err.Error(),
			"What listens there may be no Erlang node, or one written in another language that does not understand the handshake. Its log may say more.")
	case tcp.IsTimeout(err):
		return Failed("the node takes connections, but does not answer",
			"It is suspended, overloaded or hanging: see the process on its host (ps, top), and its log.")
	}
	return Failed(err.Error(), "What listens there may be no Erlang node.")
}

// self is the name that this host asks under. It is of the same kind as the node's: short, with a
// domain, or with an address. A node may go by whom it talks to; see nodeserver.
func (w *Way) self() string {
	_, domain, long := strings.Cut(w.host, ".")
	switch _, noIP := netip.ParseAddr(w.host); {
	case noIP == nil && w.addr.IsValid():
		return "eclus@" + cmp.Or(sourceOf(w.addr), w.options.HostName)
	case w.host == "localhost":
		return "eclus@localhost"
	case noIP == nil || !long:
		return "eclus@" + w.options.HostName
	}
	return "eclus@" + w.options.HostName + "." + domain
}

// sourceOf returns the address of this host for packets to another one, or "". It sends none.
func sourceOf(to netip.AddrPort) string {
	c, err := net.Dial("udp", to.String())
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("").String()
}

// authenticate connects with the cookie.
func (w *Way) authenticate(ctx context.Context) (string, error) {
	var err error
	if w.cookie, w.from, err = cookie.Find(w.options.CookieFile, w.options.Getenv); err != nil {
		return "", Failed(err.Error(), "The way to the node is free as far as here. What remains takes its cookie.")
	}
	if w.options.Roots != nil && !w.Identity.TLS {
		return "", Failed("the node does not speak TLS: it has no certificate that -ca could verify",
			"No cookie is proved to it. Without -ca it is.")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	w.Conn, err = w.net.dial(w.dialer(), ctx, w.options.Node, w.addr)
	switch {
	case errors.Is(err, node.ErrUnverified):
		return "", Failed(err.Error(), "No cookie is proved to it. The certificate must be for "+w.host+", and be signed by an authority in the file of -ca.")
	case errors.Is(err, node.ErrCookie):
		return "", Failed(fmt.Sprintf("the node does not accept the cookie in %s", w.from),
			"Compare it with erlang:get_cookie() in the node: it comes from -setcookie, or from ~/.erlang.cookie of the user it runs as.",
			"The node has logged this try.")
	case err != nil:
		return "", w.identifyFailure(err)
	}
	return fmt.Sprintf("the node accepted our cookie, that in %s%s", w.from, w.verification()), nil
}

// verification enters and says what the node's certificate is worth.
func (w *Way) verification() string {
	if !w.Identity.TLS {
		return ""
	}
	verified := w.options.Roots != nil
	if w.Verified = &verified; verified {
		return "; its certificate is verified"
	}
	return "; its certificate is not verified (-ca)"
}

// dialer connects as the node that has been identified demands.
func (w *Way) dialer() *node.Dialer {
	d := &node.Dialer{Name: w.self(), Cookie: w.cookie}
	switch {
	case w.Identity.TLS && w.options.Roots != nil:
		d.TLS = node.VerifiedTLS(w.options.Roots, w.host)
	case w.Identity.TLS:
		d.TLS = node.AnyTLS()
	}
	return d
}
