package node

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// secure are the arguments of a node with TLS; OPTFILE stands for a file of options for its server.
var secure = []string{"-proto_dist", "inet_tls", "-ssl_dist_optfile", "OPTFILE"}

var otpTests = []struct {
	name   string
	args   []string
	server string // options of the TLS server, besides its certificate
	want   Identity
	err    error
}{
	{name: "short", args: []string{"-sname", "short"}},
	{name: "long", args: []string{"-name", "long@long.host"}},
	{name: "hidden", args: []string{"-hidden", "-sname", "hidden"}, want: Identity{Hidden: true}},
	{name: "six", args: []string{"-proto_dist", "inet6_tcp", "-name", "six@::1"}},
	{name: "tls", args: append(secure, "-sname", "tls"), want: Identity{TLS: true}},
	{name: "tls13", args: append(secure, "-sname", "tls13"), server: ",{versions,['tlsv1.3']}", want: Identity{TLS: true}},
	{name: "asks", args: append(secure, "-sname", "asks"), server: ",{verify,verify_peer}",
		want: Identity{TLS: true}, err: ErrTLS},
	{name: "demands", args: append(secure, "-sname", "demands"), server: ",{verify,verify_peer},{fail_if_no_peer_cert,true}",
		want: Identity{TLS: true}, err: ErrTLS},
	{name: "demands13", args: append(secure, "-sname", "demands13"),
		server: ",{verify,verify_peer},{fail_if_no_peer_cert,true},{versions,['tlsv1.3']}",
		want:   Identity{TLS: true}, err: ErrTLS},
}

func TestIdentifyOTP(t *testing.T) {
	epmd := startEPMD(t)
	for _, tt := range otpTests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			args, level := tt.args, "info"
			if tt.want.TLS { // at info the ssl application tells of each process it starts
				args, level = withOptions(t, args, tt.server), "notice"
			}
			n := startNode(t, epmd, level, args)
			addr := epmd.find(t, tt.name)
			if strings.HasPrefix(tt.name, "six") {
				addr = netip.AddrPortFrom(netip.IPv6Loopback(), addr.Port())
			}
			if tt.err == nil {
				tt.want.Name = n.eval("atom_to_list(node())")
				tt.want.Creation = uint32(n.number("erts_internal:get_creation()"))
			}
			identifyOften(t, n, addr, tt.want, tt.err)
		})
	}
}

// identifyOften asks n for its name a hundred times. That must leave no trace but the prober's
// atom.
func identifyOften(t *testing.T, n *erl, addr netip.AddrPort, want Identity, wantErr error) {
	t.Helper()
	n.eval("net_kernel:monitor_nodes(true, [{node_type, all}])")
	idle := n.busy()
	if want.TLS {
		idle++ // ssl keeps a process from its first connection on
	}
	// The first connection of its life makes a node load modules. So do our first questions.
	identifyOnce(t, addr, "warm@up", want, wantErr)
	n.settle(idle)
	n.trace()
	before := n.trace()
	var took []time.Duration
	for range 100 {
		took = append(took, identifyOnce(t, addr, prober, want, wantErr))
		n.settle(idle)
	}
	slices.Sort(took)
	t.Logf("median %v, longest %v", took[len(took)/2], took[len(took)-1])

	after := n.trace()
	if after.log != before.log {
		t.Errorf("log has grown by:\n%s", strings.TrimPrefix(after.log, before.log))
	}
	if after.atoms > before.atoms+1 {
		t.Errorf("%d atoms, %d before; want at most one more", after.atoms, before.atoms)
	}
	if after.news != "[[],{messages,[]}]" {
		t.Errorf("connected nodes and news of nodes: %s; want none", after.news)
	}
}

// trace is what a connection may leave in a node.
type trace struct {
	log   string
	atoms int
	news  string // connected nodes, and what the node's monitor_nodes has told
}

func (n *erl) trace() trace {
	n.t.Helper()
	return trace{
		log:   n.log(),
		atoms: n.number("erlang:system_info(atom_count)"),
		news:  n.eval("[nodes(connected), process_info(self(), messages)]"),
	}
}

// busy counts the node's processes and ports. A connection is at least one of each.
const busy = "(length(processes()) + length(erlang:ports()))"

func (n *erl) busy() int {
	n.t.Helper()
	return n.number(busy)
}

// settle waits until the node is no busier than idle: until all its handshakes are over.
func (n *erl) settle(idle int) {
	n.t.Helper()
	const settled = "(fun W(0) -> " + busy + "; W(I) -> case " + busy + " =< %d of true -> 0;" +
		" false -> receive after 1 -> W(I - 1) end end end)(%d)"
	if got := n.number(fmt.Sprintf(settled, idle, wait.Patience.Milliseconds())); got != 0 {
		n.t.Fatalf("%d processes and ports in the node after %v; want at most %d", got, wait.Patience, idle)
	}
}

// identifyOnce asks a node for its name, and returns how long that took. A machine that stops for
// seconds is given two more chances.
func identifyOnce(t *testing.T, addr netip.AddrPort, prober string, want Identity, wantErr error) time.Duration {
	t.Helper()
	start := time.Now()
	got, err := Identify(t.Context(), addr, prober)
	for range 2 {
		if errors.Is(err, context.DeadlineExceeded) {
			start = time.Now()
			got, err = Identify(t.Context(), addr, prober)
		}
	}
	took := time.Since(start)
	if !errors.Is(err, wantErr) || err == nil && got.Flags&Mandatory&^UnlinkID&^V4NC&^Mandatory25Digest == 0 {
		t.Fatalf("got %+v, %v; want error %v", got, err, wantErr)
	}
	got.Flags = 0 // differ by release
	if got != want {
		t.Fatalf("got %+v; want %+v", got, want)
	}
	return took
}

// TestOTPLogs sees what the other tests must not see: a node logs a missing flag, and tells of
// one connected.
func TestOTPLogs(t *testing.T) {
	epmd := startEPMD(t)
	n := startNode(t, epmd, "info", []string{"-sname", "logs"})
	addr := epmd.find(t, "logs")

	c, err := dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := frames{c, plainLenSize}
	if err := f.write(SendName{Flags: Mandatory &^ BigCreation, Name: prober}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	refused := new(StatusError)
	if err := readStatus(f); !errors.As(err, &refused) || refused.Code != NotAllowed {
		t.Errorf("without a mandatory flag: got %v; want %q", err, NotAllowed)
	}
	await(t, "an error in the log", func() bool { return strings.Contains(n.log(), "BIG_CREATION") })

	n.eval("net_kernel:allow(['other@host'])")
	if _, err := Identify(t.Context(), addr, prober); !errors.As(err, &refused) || refused.Code != NotAllowed {
		t.Errorf("not on the list: got %v; want %q", err, NotAllowed)
	}
}

// erl is a running node that evaluates what it reads.
type erl struct {
	t       *testing.T
	in      io.Writer
	out     *bufio.Reader
	logPath string
}

// readEval makes a node print, on one line, the value of each line it reads.
const readEval = `F = fun F() ->
	case io:get_line("") of
		eof -> halt(0, [{flush, false}]);
		L ->
			{ok, Ts, _} = erl_scan:string(L), {ok, Es} = erl_parse:parse_exprs(Ts),
			{value, V, _} = erl_eval:exprs(Es, []),
			io:format("~0tp~n", [V]), F()
	end
end, F().`

// startNode starts erl with args and a log at level. It ends with the test. It is registered at
// epmd when startNode returns.
func startNode(t *testing.T, epmd epmdPort, level string, args []string) *erl {
	t.Helper()
	dir := t.TempDir()
	n := &erl{t: t, logPath: filepath.Join(dir, "log")}
	args = append([]string{"-noinput", "-start_epmd", "false", "-setcookie", "secret", "-boot", "start_sasl",
		"-kernel", "logger_level", level,
		"-kernel", "logger", fmt.Sprintf("[{handler,default,logger_std_h,#{config=>#{file=>%q}}}]", n.logPath),
		"-eval", readEval}, args...)
	args[0] = "-noshell" // -noinput would not read either
	cmd := exec.Command(need.Program(t, "erl"), args...)
	cmd.Env = append(os.Environ(), "ERL_EPMD_PORT="+string(epmd), "HOME="+dir, "ERL_CRASH_DUMP_SECONDS=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.in, n.out = in, bufio.NewReader(out)
	start(t, cmd)
	n.eval("node()")
	return n
}

// eval returns the value of expr. It shows a string without quotes.
func (n *erl) eval(expr string) string {
	n.t.Helper()
	if _, err := fmt.Fprintf(n.in, "%s.\n", expr); err != nil {
		n.t.Fatalf("eval %s: %v", expr, err)
	}
	line, err := n.out.ReadString('\n')
	if err != nil {
		n.t.Fatalf("eval %s: %q, %v", expr, line, err)
	}
	return strings.Trim(line, "\"\n")
}

func (n *erl) number(expr string) int {
	n.t.Helper()
	v, err := strconv.Atoi(n.eval(expr))
	if err != nil {
		n.t.Fatalf("eval %s: %v", expr, err)
	}
	return v
}

// log returns all that the node has logged.
func (n *erl) log() string {
	n.t.Helper()
	n.eval("logger_std_h:filesync(default)")
	b, err := os.ReadFile(n.logPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	return string(b)
}

// epmdPort is the port of a running stock epmd.
type epmdPort string

func startEPMD(t *testing.T) epmdPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	start(t, exec.Command(need.Program(t, "epmd"), "-port", port, "-address", "127.0.0.1"))
	e := epmdPort(port)
	await(t, "epmd to listen", func() bool { _, err := e.names(); return err == nil })
	return e
}

// names asks for the registered nodes: a 4-byte port, then a line for each.
func (e epmdPort) names() (string, error) {
	c, err := net.Dial("tcp", "127.0.0.1:"+string(e))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte{0, 1, 'n'}); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b[min(4, len(b)):]), err
}

// find waits until name is registered and returns where it listens.
func (e epmdPort) find(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	line := regexp.MustCompile(`(?m)^name ` + name + ` at port (\d+)$`)
	var port string
	await(t, name+" to register", func() bool {
		s, err := e.names()
		if m := line.FindStringSubmatch(s); err == nil && m != nil {
			port = m[1]
		}
		return port != ""
	})
	return netip.MustParseAddrPort("127.0.0.1:" + port)
}

// withOptions replaces OPTFILE in args by a file for a TLS node. The file has a certificate, and
// server's options.
func withOptions(t *testing.T, args []string, server string) []string {
	t.Helper()
	dir := t.TempDir()
	cert := newCertificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certPath, optPath := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "opt.conf")
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	options := fmt.Sprintf("[{server,[{certfile,%q},{cacertfile,%[1]q}%s]}].\n", certPath, server)
	if err := errors.Join(os.WriteFile(certPath, both, 0o600), os.WriteFile(optPath, []byte(options), 0o600)); err != nil {
		t.Fatal(err)
	}
	args = slices.Clone(args)
	args[slices.Index(args, "OPTFILE")] = optPath
	return args
}

// newCertificate makes a certificate that has signed itself.
func newCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "localhost"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// start starts cmd and ends it with the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// await waits until something has happened.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for %s", wait.Patience, what)
		case <-tick.C:
		}
	}
}
