package test

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// relay is a host without the cookie that logs in at a victim with the proof of somebody else. It
// answers under a node's name, and passes on the challenge of the victim.
type relay struct {
	evil   *host
	victim string // its address and port
	name   string // of the node that it pretends to be

	mu     sync.Mutex
	met    int // handshakes that were begun
	proofs int // that it was given
	logins int // that the victim has accepted
}

// answer is one handshake. The connection to the victim stays until whoever has given the proof
// has gone, and longer, so that the victim shows it.
func (r *relay) answer(t *testing.T, c net.Conn) {
	m, err := readPacket(c, 2)
	if err != nil {
		return
	}
	them, err := node.ParseSendName(m)
	if err != nil {
		return // as on a greeting of TLS
	}
	r.mu.Lock()
	r.met++
	// A handshake under the name of another one would wait for that.
	us := fmt.Sprintf("relay%d@evil.local", r.met)
	r.mu.Unlock()
	v, challenge, err := r.connect(us, them)
	if err != nil {
		t.Errorf("relay: %v", err)
		return
	}
	t.Cleanup(func() { v.Close() })
	challenge.Name = r.name
	writePacket(c, node.Status{Code: node.OK}.Append(nil))
	writePacket(c, challenge.Append(nil))
	reply, err := readPacket(c, 2)
	if err != nil {
		v.Close()
		return
	}
	writePacket(v, reply)
	ack, err := readPacket(v, 2)
	if err == nil {
		_, err = node.ParseChallengeAck(ack)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.proofs++
	if err == nil {
		r.logins++
	}
}

// connect begins a handshake with the victim under a name, and returns the victim's challenge.
func (r *relay) connect(us string, them node.SendName) (v net.Conn, ch node.Challenge, err error) {
	err = r.evil.inside(func() error {
		v, err = net.Dial("tcp", r.victim)
		return err
	})
	if err != nil {
		return nil, ch, err
	}
	writePacket(v, node.SendName{Flags: them.Flags, Creation: 7, Name: us}.Append(nil))
	for range 2 { // status and challenge
		var m []byte
		if m, err = readPacket(v, 2); err != nil {
			v.Close()
			return nil, ch, fmt.Errorf("the victim: %w", err)
		}
		ch, err = node.ParseChallenge(m)
	}
	return v, ch, err
}

// TestLANRelay has a host announce a node and relay the handshakes to a real node, the victim. By
// itself nothing proves the cookie to it: not -ping, -peek, eclus_cluster, a recipe for Erlang or
// Elixir, or the resolver for dns_cluster. With -prove the relay gets in.
func TestLANRelay(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "evil", "hostb")
	a, evil, b := hosts[0], hosts[1], hosts[2]
	a.start(t)
	b.start(t)
	evil.start(t, "-lan", "off")
	victim := a.erl(t, "-name", "victim@hosta.local")
	seen := a.watch(t)
	at, err := a.lookup(wait.Soon(t), "victim")
	wait.Must(t, err)
	r := &relay{evil: evil, victim: net.JoinHostPort(a.Address().String(), strconv.Itoa(int(at.Port))), name: "b@ghost.local"}
	port := evil.serve(t, func(c net.Conn) { r.answer(t, c) })
	evil.registerAs(t, aliveReq("b", port))
	publish(t, evil, "any", "_epmd._tcp", strconv.Itoa(int(port)), "node="+r.name)
	seen.until(t, present(r.name))

	joining := joinBesideRelay(t, a)
	resolver := resolverArgs(t)
	first := a.erl(t, append([]string{"-name", "b@" + a.Address().String()}, resolver...)...)
	second := b.erl(t, append([]string{"-name", "b@" + b.Address().String()}, resolver...)...)
	a.ping(t, r.name).checkFails(t, "trust", `only an announcement says that ghost\.local is`, "pass it on.*log in elsewhere")
	a.refused(t, "trust: only an announcement", eclusBinary(t), "-peek", r.name)
	joining["mate@hosta.local"] = a.erl(t, "-name", "mate@hosta.local") // the last, which is joined
	for name, e := range joining {
		others := slices.DeleteFunc(slices.Sorted(maps.Keys(joining)), func(other string) bool { return other == name })
		awaitConnected(t, e, strings.Join(others, " "))
	}
	awaitConnected(t, first, "b@"+b.Address().String())
	awaitConnected(t, second, "b@"+a.Address().String())
	r.mu.Lock()
	if r.proofs != 0 {
		t.Errorf("%d proofs without anybody asking for it, and %d logins", r.proofs, r.logins)
	}
	r.mu.Unlock()
	eval(t, victim, "nodes(connected).", "[]")

	a.pingArgs(t, r.name, "-prove")
	eval(t, victim, `[N || N <- nodes(connected), "relay" =:= string:slice(atom_to_list(N), 0, 5)] =/= [].`, "true")
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logins != 1 || r.proofs != 1 {
		t.Errorf("with -prove: %d proofs, %d logins; want one", r.proofs, r.logins)
	}
}

// joinBesideRelay starts nodes that join mate@hosta.local by eclus_cluster and by each recipe, and
// would join b of that host and of the relay's. They are keyed by their names.
func joinBesideRelay(t *testing.T, a *host) map[string]*lan.Erl {
	t.Helper()
	const join = `[<<"b@hosta.local">>, <<"b@evil.local">>, <<"mate@hosta.local">>]`
	args := map[string][]string{"cluster@hosta.local": {"-pa", application(t), "-epmd_module", "eclus_epmd",
		"-eclus", "join", join, "-eval", "ok = application:start(eclus)."}}
	for i, r := range recipes {
		args[fmt.Sprintf("recipe%d@hosta.local", i)] =
			compiled(t, r.name, r.source(t), r.compile, strings.Replace(r.start, "JOIN", join, 1))
	}
	nodes := make(map[string]*lan.Erl)
	for name, more := range args {
		nodes[name] = a.erl(t, append([]string{"-name", name}, more...)...)
	}
	return nodes
}
