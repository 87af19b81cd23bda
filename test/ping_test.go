package test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/node"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// pinged is what -ping -json prints.
type pinged struct {
	V     int
	Node  string
	Pong  bool
	MS    float64
	Dist  string
	Type  string
	Steps []struct {
		Step   string
		OK     bool
		Found  string
		Advice []string
	}
}

// ping runs epmd -ping on the host and returns what it prints as JSON.
func (h *host) ping(t *testing.T, node string, env ...string) pinged {
	t.Helper()
	return h.pinging(t, node, env...)()
}

// pinging is ping for what takes long: it starts epmd -ping. The function that it returns waits for
// the end.
func (h *host) pinging(t *testing.T, node string, env ...string) func() pinged {
	t.Helper()
	end := h.begin(t, env, "-ping", node, "-json")
	return func() (p pinged) {
		t.Helper()
		out, err := end()
		if json.Unmarshal([]byte(out), &p) != nil || p.V != 1 || p.Node != node {
			t.Fatalf("epmd -ping %s -json prints %s, %v", node, out, err)
		}
		if (err == nil) != p.Pong {
			t.Errorf("epmd -ping %s ends with %v: %s", node, err, out)
		}
		checkShown(t, "epmd -ping -json", out)
		return p
	}
}

// begin starts our epmd with these arguments. The function that it returns waits for its end and
// returns what it has printed.
func (h *host) begin(t *testing.T, env []string, args ...string) (end func() (string, error)) {
	t.Helper()
	cmd := h.Command(wait.Soon(t), eclusBinary(t), args...)
	cmd.Env = append(cmd.Env, env...)
	var out strings.Builder
	cmd.Stdout = &out
	wait.Must(t, cmd.Start())
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

// checkFails fails the test unless a ping ends at that step, with texts that match.
func (p pinged) checkFails(t *testing.T, step, found, advice string) {
	t.Helper()
	last := p.Steps[len(p.Steps)-1]
	if p.Pong || last.OK || last.Step != step || !regexp.MustCompile(found).MatchString(last.Found) ||
		!regexp.MustCompile(advice).MatchString(strings.Join(last.Advice, "\n")) {
		t.Errorf("ping of %s: %+v; want it to end at %s with %q and %q", p.Node, p, step, found, advice)
	}
}

// TestLANPing goes the way to nodes of another host, and has it end at every step.
func TestLANPing(t *testing.T) {
	t.Parallel()
	hosts := running(t, "hosta", "hostb", "hostc")
	a, b, c := hosts[0], hosts[1], hosts[2]
	seen := a.watch(t)
	node := b.erl(t, "-name", "b@hostb.local")
	c.erl(t, "-name", "c@hostc.local")
	seen.until(t, present("b@hostb.local", sure)) // the epmd on B has asked it for its name
	b.register(t, "two\nlines", 4710)             // of which nobody but -names takes notice
	eval(t, node, "net_kernel:monitor_nodes(true).", "ok")
	value(t, node, "erlang:system_info(atom_count).")
	if p := a.ping(t, "b@hostb.local"); !p.Pong || len(p.Steps) != 9 || p.Dist != "tcp" || p.Type != "normal" {
		t.Fatalf("no pong: %+v", p)
	}
	before := value(t, node, "erlang:system_info(atom_count).")
	var took []float64
	for range 20 {
		p := a.ping(t, "b@hostb.local")
		if !p.Pong {
			t.Fatalf("no pong: %+v", p)
		}
		took = append(took, p.MS)
	}
	slices.Sort(took)
	t.Logf("pong after %.1f ms (median of %d)", took[len(took)/2], len(took))
	if after := value(t, node, "erlang:system_info(atom_count)."); after != before {
		t.Errorf("%s atoms, %s before", after, before)
	}
	eval(t, node, "{nodes(), erlang:process_info(self(), messages)}.", "{[],{messages,[]}}")
	checkSilent(t, node)

	t.Run("name", func(t *testing.T) {
		a.ping(t, "b").checkFails(t, "name", "NAME@HOST", "full node name")
		a.ping(t, "b@host\x1bb").checkFails(t, "name", "printable", "")
	})
	t.Run("patient", func(t *testing.T) { testPingPatient(t, a, b, c, seen) })
	t.Run("resolve", func(t *testing.T) {
		a.ping(t, "b@nohost").checkFails(t, "resolve", `"nohost"`, "short name")
		switching, err := os.ReadFile(a.Path("/etc/nsswitch.conf"))
		wait.Must(t, err)
		wait.Must(t, a.WriteFile("/etc/nsswitch.conf", "hosts: files dns\n", 0o644))
		a.ping(t, "b@hostb.local").checkFails(t, "trust", `only an announcement says that hostb\.local is 198\.51\.100\.12`, "-prove(?s:.*)libnss-mdns")
		a.refused(t, "trust: only an announcement says", eclusBinary(t), "-peek", "b@hostb.local")
		if out := a.pingArgs(t, "b@hostb.local", "-prove"); !strings.Contains(out, "pong from b@hostb.local") {
			t.Errorf("with -prove: %s", out)
		}
		if out := a.ask(t, "-peek", "b@hostb.local", "-prove"); !strings.Contains(out, "b@hostb.local, OTP ") {
			t.Errorf("a peek with -prove: %s", out)
		}
		wait.Must(t, a.WriteFile("/etc/nsswitch.conf", string(switching), 0o644))
	})
	t.Run("rejected", func(t *testing.T) { testPingRejected(t, a, b) })
	t.Run("cookie", func(t *testing.T) { testPingCookie(t, a) })
	t.Run("epmd", func(t *testing.T) {
		b.stop(t)
		a.ping(t, "b@hostb.local").checkFails(t, "epmd", "nothing listens on 198.51.100.12:4369", "loopback only")
		b.start(t, "-allow", "local")
		a.ping(t, "b@hostb.local").checkFails(t, "epmd", "closes the connection without an answer", "-allow")
		wait.Must(t, b.LinkDown(wait.Soon(t), "eth0"))
		a.ping(t, "b@198.51.100.12").checkFails(t, "epmd", "no (answer|way)", "down")
	})
}

// testPingPatient has four ways at once on which epmd or mDNS waits for 5 s, and does others
// meanwhile. The four are to a name that nobody has, to a suspended node, to one whose large
// packets get lost, and to a host that has another name now. From a host only one at a time leads
// to a node: the second would end the first.
func testPingPatient(t *testing.T, a, b, c *host, seen *watcher) {
	nohost := a.pinging(t, "b@nohost.local")
	short := b.erl(t, "-sname", "short", "-start_epmd", "false")
	a.ping(t, "short@hostb.local").checkFails(t, "identify", "the node calls itself short@hostb$", "can't be connected")
	wait.Freeze(t, short.Pid())
	suspended := a.pinging(t, "short@hostb.local")
	b.filter(t, "output", fmt.Sprintf("tcp sport %d ip length > 1200 drop", b.portOf(t, "b")))
	large := a.pinging(t, "b@hostb.local")
	peeked := b.begin(t, nil, "-peek", "b@hostb.local", "-json")

	t.Run("renamed", func(t *testing.T) { testPingRenamed(t, a, b, c, seen) })
	t.Run("lookup", func(t *testing.T) {
		a.ping(t, "c@hostb.local").checkFails(t, "lookup", `"c" is not registered`, "These are: (b, short|short, b)$")
	})
	t.Run("connect", func(t *testing.T) {
		b.registerOnly(t, "nothing", 4711)
		a.ping(t, "nothing@hostb.local").checkFails(t, "connect", "nothing listens on 198.51.100.12:4711", "inet_dist_use_interface")
	})
	t.Run("identify", func(t *testing.T) {
		port := b.serve(t, func(conn net.Conn) { fmt.Fprint(conn, "220 smtp\r\n\x1b[2J") })
		b.registerOnly(t, "mail", port)
		a.ping(t, "mail@hostb.local").checkFails(t, "identify", ".", "no Erlang node")
	})

	nohost().checkFails(t, "resolve", `"nohost\.local"`, "Nobody on the LAN")
	suspended().checkFails(t, "identify", "takes connections, but does not answer", "suspended")
	wait.Must(t, short.Signal(syscall.SIGCONT))
	wait.Must(t, short.Stop(wait.Soon(t)))
	large().checkFails(t, "large", "8 kB does not arrive", "MTU")
	out, err := peeked()
	wait.Must(t, err)
	if !strings.Contains(out, `"unanswered":[`) || !strings.Contains(out, `"run_queue":`) || strings.Contains(out, `"by_memory":`) {
		t.Errorf("a peek at a node whose large answers get lost: %s", out)
	}
	b.Output(wait.Soon(t), "nft", "flush ruleset")
	if p := a.ping(t, "b@hostb.local"); !p.Pong {
		t.Errorf("no pong without the filter: %+v", p)
	}
}

// portOf returns the port of a node of the host.
func (h *host) portOf(t *testing.T, name string) (port uint16) {
	t.Helper()
	wait.Must(t, h.inside(func() error {
		resp, err := h.client().Lookup(wait.Soon(t), name)
		port = resp.Port
		return err
	}))
	return port
}

// testPingRenamed gives host C another name, and then its own again. A goes to the node by the old
// name, and B by the new one.
func testPingRenamed(t *testing.T, a, b, c *host, seen *watcher) {
	wait.Must(t, c.SetHostName(wait.Soon(t), "hostc-2"))
	seen.until(t, present("c@hostc.local", onHost("hostc-2.local")))
	var byOld, byNew pinged
	// The epmd there says so before Avahi has forgotten the name.
	wait.True(t, "hostc.local resolves no longer", func() bool {
		end := b.pinging(t, "c@hostc-2.local")
		byOld = a.ping(t, "c@hostc.local")
		byNew = end()
		return !byOld.Pong
	})
	byOld.checkFails(t, "trust", "hostc.local is 198", `(?s)announces itself as hostc-2\.local \(198\.51\.100\.13.*\n.*renames.*\n.*-name c@hostc-2\.local`)
	byNew.checkFails(t, "identify", "calls itself c@hostc.local", `hostc\.local resolves nowhere here`)
	wait.Must(t, c.SetHostName(wait.Soon(t), "hostc"))
	seen.until(t, present("c@hostc.local", onHost("hostc.local")))
}

// testPingCookie goes with other cookies than the node's.
func testPingCookie(t *testing.T, a *host) {
	wait.Must(t, a.WriteFile(lan.Home+"/wrong", "s3cret\n", 0o600))
	cookieFile := a.pingArgs(t, "b@hostb.local", "-cookie_file", lan.Home+"/wrong")
	if !strings.Contains(cookieFile, "✗ cookie") || !strings.Contains(cookieFile, "does not accept the cookie in ") || strings.Contains(cookieFile, "s3cret") {
		t.Errorf("wrong cookie file: %s", cookieFile)
	}
	a.ping(t, "b@hostb.local", "ERLANG_COOKIE=other").checkFails(t, "cookie", "does not accept the cookie in ERLANG_COOKIE", "get_cookie")
	a.ping(t, "b@hostb.local", "HOME=/nonexistent").checkFails(t, "cookie", "no cookie", "")
	wait.Must(t, os.Chmod(a.Path(lan.Home+"/wrong"), 0o644))
	if out := a.pingArgs(t, "b@hostb.local", "-cookie_file", lan.Home+"/wrong"); !strings.Contains(out, "mode 644") {
		t.Errorf("cookie file for everybody: %s", out)
	}
}

// testPingRejected has a firewall reject connections as some do. The error is that of a host that
// is not there.
func testPingRejected(t *testing.T, a, b *host) {
	const reject = "reject with icmp host-unreachable"
	b.filter(t, "input", "tcp dport 4369 "+reject)
	a.ping(t, "b@hostb.local").checkFails(t, "epmd", "connections to 198.51.100.12:4369 are rejected", "The host is there, and a firewall rejects")
	b.filter(t, "input", "tcp dport > 4369 "+reject)
	a.ping(t, "b@hostb.local").checkFails(t, "connect", "connections to 198.51.100.12:.* are rejected", "The epmd answers there, so a firewall rejects")
	b.Output(wait.Soon(t), "nft", "flush ruleset")
}

// filter has packets of the host pass this one rule.
func (h *host) filter(t *testing.T, hook, rule string) {
	t.Helper()
	_, err := h.Output(wait.Soon(t), "nft", fmt.Sprintf(
		"flush ruleset; table inet test { chain one { type filter hook %s priority 0; %s; }; }", hook, rule))
	wait.Must(t, err)
}

// TestPingLocalhost pings nodes of this host by names that OTP understands. One is the name of an
// address at which the node does not listen. Another is the name of no address at all.
func TestPingLocalhost(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	wait.Must(t, h.WriteFile("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n", 0o644))
	wait.Must(t, h.WriteFile("/etc/nsswitch.conf", "hosts: files\n", 0o644))
	h.start(t, "-lan", "off")
	for _, node := range []string{"c@localhost", "c@hosta", "c@ip6-localhost"} {
		e := h.erl(t, "-sname", node)
		if p := h.ping(t, node); p.Pong != (node != "c@ip6-localhost") {
			t.Errorf("%s: %+v", node, p)
		}
		if node != "c@ip6-localhost" {
			h.peek(t, node)
		}
		wait.Must(t, e.Stop(wait.Soon(t)))
	}
	six := h.erl(t, "-proto_dist", "inet6_tcp", "-name", "six@::1", "-kernel", "inet_dist_use_interface", "{0,0,0,0,0,0,0,1}")
	if p := h.ping(t, "six@localhost"); p.Pong || p.Steps[4].Found == "" || !strings.Contains(p.Steps[5].Found, "calls itself six@::1") {
		t.Errorf("a node at one address: %+v", p)
	}
	wait.Must(t, six.Stop(wait.Soon(t)))
}

// TestPingTLS goes the way to nodes that speak TLS. One that demands a certificate can't be talked
// to.
func TestPingTLS(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	h.start(t, "-lan", "off")
	secure := []string{"-proto_dist", "inet_tls", "-ssl_dist_optfile"}
	for _, server := range []string{"", ",{versions,['tlsv1.2']},{ciphers,[\"ECDHE-ECDSA-AES128-SHA256\"]}"} {
		node := h.erl(t, append([]string{"-name", "tls@127.0.0.1"}, append(secure, tlsOptions(t, server))...)...)
		if p := h.ping(t, "tls@127.0.0.1"); !p.Pong || p.Dist != "tls" || len(p.Steps) != 9 {
			t.Errorf("%s: no pong: %+v", server, p)
		}
		if p := h.peek(t, "tls@127.0.0.1"); p.OTP == "" || p.Processes.Count < 30 {
			t.Errorf("%s: got %+v", server, p)
		}
		checkSilent(t, node)
		h.ping(t, "tls@127.0.0.1", "ERLANG_COOKIE=other").checkFails(t, "cookie", "does not accept the cookie in ERLANG_COOKIE", "get_cookie")
		wait.Must(t, node.Stop(wait.Soon(t)))
	}
	testVerified(t, h, secure)
	strict := h.erl(t, append([]string{"-name", "strict@127.0.0.1"}, append(secure, tlsOptions(t, ",{verify,verify_peer},{fail_if_no_peer_cert,true}"))...)...)
	h.ping(t, "strict@127.0.0.1").checkFails(t, "identify", "does not complete a handshake", "fail_if_no_peer_cert")
	checkSilent(t, strict)
}

// testVerified verifies the certificate of a node, which is for localhost, by its authority and by
// another. Only a node that is verified, or for which that is not asked, gets the cookie.
func testVerified(t *testing.T, h *host, secure []string) {
	options := tlsOptions(t, "")
	ours, theirs := filepath.Join(filepath.Dir(options), "cert.pem"), filepath.Join(filepath.Dir(tlsOptions(t, "")), "cert.pem")
	node := h.erl(t, append([]string{"-name", "safe@localhost"}, append(secure, options)...)...)
	plain := h.erl(t, "-name", "plain@localhost")
	for _, tt := range []struct{ args, step, found string }{
		{"safe@localhost", "", "accepted our cookie, .*; its certificate is not verified"},
		{"safe@localhost -ca " + ours, "", "accepted our cookie, .*; its certificate is verified"},
		{"safe@localhost -ca " + theirs, "cookie", "certificate not verified: .*unknown authority"},
		{"plain@localhost -ca " + ours, "cookie", "does not speak TLS"},
	} {
		args := strings.Fields(tt.args)
		out := h.pingArgs(t, args[0], args[1:]...)
		if !regexp.MustCompile(tt.found).MatchString(out) || strings.Contains(out, "pong") != (tt.step == "") {
			t.Errorf("-ping %s:\n%s", tt.args, out)
		}
	}
	if out := h.ask(t, "-peek", "safe@localhost", "-ca", ours); !strings.Contains(out, ", over TLS, verified\n") {
		t.Errorf("a peek at a node that is verified:\n%s", out)
	}
	if out := h.ask(t, "-peek", "safe@localhost"); !strings.Contains(out, ", over TLS, not verified (-ca)\n") {
		t.Errorf("a peek at a node that is not verified:\n%s", out)
	}
	h.refused(t, "certificate not verified", eclusBinary(t), "-peek", "safe@localhost", "-ca", theirs)
	checkSilent(t, plain)
	wait.Must(t, node.Stop(wait.Soon(t)))
}

// pingArgs runs epmd -ping for a person.
func (h *host) pingArgs(t *testing.T, node string, args ...string) string {
	t.Helper()
	out, _ := h.Command(wait.Soon(t), eclusBinary(t), append([]string{"-ping", node}, args...)...).Output()
	return string(out)
}

// serve accepts connections on the host until the test ends.
func (h *host) serve(t *testing.T, answer func(net.Conn)) (port uint16) {
	t.Helper()
	var ln net.Listener
	wait.Must(t, h.inside(func() (err error) {
		ln, err = net.Listen("tcp", "0.0.0.0:0")
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(wait.Patience))
			answer(conn)
			conn.Close()
		}
	}()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// TestLANProof has a host announce a node that answers under the name of another host, which
// resolves nowhere. It is proved no cookie unless that is asked for.
func TestLANProof(t *testing.T) {
	t.Parallel()
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{}, "hosta", "evil")
	a, evil := hosts[0], hosts[1]
	a.start(t)
	evil.start(t, "-lan", "off")
	seen := a.watch(t)
	var proofs atomic.Int32
	port := evil.serve(t, func(c net.Conn) { acceptProof(c, "b@ghost.local", &proofs) })
	evil.registerAs(t, aliveReq("b", port))
	publish(t, evil, "any", "_epmd._tcp", strconv.Itoa(int(port)), "node=b@ghost.local")
	seen.until(t, present("b@ghost.local"))
	a.ping(t, "b@ghost.local").checkFails(t, "trust", `only an announcement says that ghost\.local is 198\.51\.100\.12`, "pass it on.*log in elsewhere")
	a.refused(t, "trust: only an announcement", eclusBinary(t), "-peek", "b@ghost.local")
	if n := proofs.Load(); n != 0 {
		t.Errorf("%d proofs of the cookie went to an announced address", n)
	}
	a.pingArgs(t, "b@ghost.local", "-prove")
	if n := proofs.Load(); n != 1 {
		t.Errorf("%d proofs with -prove; want 1", n)
	}
}

// acceptProof goes through the handshake as far as the peer's proof, and counts it.
func acceptProof(c net.Conn, name string, proofs *atomic.Int32) {
	m, err := readPacket(c, 2)
	if err == nil {
		_, err = node.ParseSendName(m)
	}
	if err != nil {
		return // as on a greeting of TLS
	}
	writePacket(c, node.Status{Code: node.OK}.Append(nil))
	writePacket(c, node.Challenge{Flags: node.Mandatory | node.Published, Challenge: 7, Creation: 9, Name: name}.Append(nil))
	if m, err := readPacket(c, 2); err == nil {
		if _, err := node.ParseChallengeReply(m); err == nil {
			proofs.Add(1)
		}
	}
}
