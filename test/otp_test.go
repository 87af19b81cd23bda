package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// loopback returns a host with no bus and no Avahi, where our epmd has not been started.
func loopback(t *testing.T) *host {
	t.Helper()
	return addHosts(t, lan.ForTest(t, "erl"), lan.HostOptions{NoBus: true}, "hosta")[0]
}

var kinds = []struct {
	alive      string
	args       []string
	node       string
	kind, dist string
}{
	{"short", []string{"-sname", "short"}, "short@hosta", "normal", "tcp"},
	{"long", []string{"-name", "long@127.0.0.1"}, "long@127.0.0.1", "normal", "tcp"},
	{"hidden", []string{"-name", "hidden@127.0.0.1", "-hidden"}, "hidden@127.0.0.1", "hidden", "tcp"},
	{"six", []string{"-proto_dist", "inet6_tcp", "-name", "six@::1"}, "six@::1", "normal", "tcp"},
	{"tls", []string{"-proto_dist", "inet_tls", "-name", "tls@127.0.0.1"}, "tls@127.0.0.1", "normal", "tls"},
}

// TestOTP registers nodes of every kind with our epmd, which knows of each what the node says
// itself. None of them notices more than of the epmd of OTP.
func TestOTP(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	h.start(t, "-lan", "off")
	w := h.watch(t)
	options := tlsOptions(t, "")
	nodes := make(map[string]*lan.Erl)
	for _, k := range kinds {
		nodes[k.alive] = h.erl(t, append(k.args, "-ssl_dist_optfile", options)...)
		w.until(t, local(k.node, sure))
	}
	listed := h.nodes(t)
	for _, k := range kinds {
		t.Run(k.alive, func(t *testing.T) {
			got := listed[k.node]
			want := shown{
				Node: k.node, Name: k.alive, Type: k.kind, Dist: k.dist, Origin: "local", Sure: true,
				Host: got.Host, Address: got.Address, Addresses: got.Addresses, Port: got.Port, Since: got.Since,
				Creation: number(t, nodes[k.alive], "erlang:system_info(creation)."),
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("listed as %+v, want %+v", got, want)
			}
			eval(t, nodes[k.alive], "node().", value(t, nodes["long"], "'"+k.node+"'."))
			resp, err := h.lookup(wait.Soon(t), k.alive)
			if err != nil || int(resp.Port) != got.Port || resp.High < 5 {
				t.Errorf("lookup: %+v, %v; want port %d", resp, err, got.Port)
			}
		})
	}
	t.Run("names", func(t *testing.T) {
		eval(t, nodes["long"], "{ok, L} = net_adm:names(), lists:sort([N || {N, _} <- L]).",
			value(t, nodes["long"], `["hidden","long","short","six","tls"].`))
	})
	t.Run("ping", func(t *testing.T) {
		for _, to := range []string{"hidden@127.0.0.1", "long@127.0.0.1"} {
			eval(t, nodes["long"], "net_adm:ping('"+to+"').", "pong")
		}
		eval(t, nodes["long"], "net_adm:ping('nobody@127.0.0.1').", "pang")
	})
	t.Run("name taken", func(t *testing.T) {
		_, err := h.StartErl(wait.Soon(t), "-name", "long@127.0.0.1")
		if err == nil || !strings.Contains(err.Error(), "the name long@127.0.0.1 seems to be in use by another Erlang node") {
			t.Errorf("a second node of a name: %v", err)
		}
		if resp, err := h.lookup(wait.Soon(t), "long"); err != nil || int(resp.Port) != listed["long@127.0.0.1"].Port {
			t.Errorf("lookup of the first: %+v, %v", resp, err)
		}
	})
	for _, e := range nodes {
		checkSilent(t, e)
	}
	t.Run("killed", func(t *testing.T) {
		begin := time.Now()
		wait.Must(t, nodes["long"].Kill(wait.Soon(t)))
		w.until(t, gone("long@127.0.0.1"))
		t.Logf("killed, and gone after %v", since(begin))
		again := h.erl(t, "-name", "long@127.0.0.1")
		w.until(t, local("long@127.0.0.1", sure))
		if first, now := listed["long@127.0.0.1"].Creation, number(t, again, "erlang:system_info(creation)."); first == now {
			t.Errorf("creation %d again", now)
		}
	})
}

// gone holds if the host itself has no node of that full name.
func gone(node string) condition {
	return condition{node + " goes", func(known map[string]registry.Node) bool {
		return !some(known, registry.Local, node, nil)
	}}
}

func number(t *testing.T, e *lan.Erl, expressions string) uint32 {
	t.Helper()
	var n uint32
	if _, err := fmt.Sscan(value(t, e, expressions), &n); err != nil {
		t.Fatalf("%s: %v", expressions, err)
	}
	return n
}

// TestOTPWatch sees a node come and go as "epmd -nodes" shows it.
func TestOTPWatch(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	h.start(t, "-lan", "off")
	programs := make(map[string]*lan.Process)
	for _, flags := range []string{"-watch", "-watch -json"} {
		p, err := h.Start(t.Context(), eclusBinary(t), append([]string{"-nodes"}, strings.Fields(flags)...)...)
		wait.Must(t, err)
		programs[flags] = p
	}
	want := func(flags, pattern string) {
		t.Helper()
		_, err := programs[flags].WaitOutput(wait.Soon(t), pattern)
		wait.Must(t, err)
	}
	want("-watch", `(?m)^epmd on port 4369: 0 nodes, 0 on the LAN\nLAN discovery off: `)
	want("-watch -json", `(?m)^\{"v":1,"event":"snapshot","port":4369,"nodes":0,"lan":"off","reason":"[^"]+"\}$`)
	e := h.erl(t, "-name", "a@127.0.0.1", "-hidden")
	want("-watch", `(?m)^\+ a@127\.0\.0\.1|^~ a@127\.0\.0\.1 +127\.0\.0\.1 +\d+ +hidden +local `)
	want("-watch -json", `(?m)^\{"v":1,"event":"up","node":"a@.*"name":"a",.*"origin":"local"`)
	want("-watch -json", `(?m)^\{"v":1,"event":"changed","node":"a@127\.0\.0\.1".*"type":"hidden".*"dist":"tcp".*"sure":true[,}]`)
	if out := h.ask(t, "-nodes"); !regexp.MustCompile(`(?m)^a@127\.0\.0\.1 +127\.0\.0\.1 +\d+ +hidden +local +host +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( .*)?$`).MatchString(out) {
		t.Errorf("epmd -nodes shows\n%s", out)
	}
	wait.Must(t, e.Kill(wait.Soon(t)))
	want("-watch", `(?m)^- a@127\.0\.0\.1 `)
	want("-watch -json", `(?m)^\{"v":1,"event":"down","node":"a@127\.0\.0\.1"`)
	checkSilent(t, e)
}

// TestOTPRestart stops epmd while nodes live, and starts it again. The nodes register anew by
// themselves, which takes them two seconds.
func TestOTPRestart(t *testing.T) {
	t.Parallel()
	h := loopback(t)
	h.start(t, "-lan", "off")
	var nodes []*lan.Erl
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, h.erl(t, "-name", name+"@127.0.0.1"))
	}
	for _, end := range []struct {
		name string
		end  func(*testing.T)
	}{{"stopped", h.stop}, {"killed", h.kill}} {
		t.Run(end.name, func(t *testing.T) {
			begin := time.Now()
			end.end(t)
			t.Logf("ended within %v", since(begin))
			h.start(t, "-lan", "off")
			w := h.watch(t)
			at := w.until(t, local("a@127.0.0.1", sure), local("b@127.0.0.1", sure), local("c@127.0.0.1", sure))
			t.Logf("all are back %v after the end", at.Sub(begin).Round(time.Millisecond))
			eval(t, nodes[0], "net_adm:ping('b@127.0.0.1').", "pong")
			if got, own := w.node(t, "a@127.0.0.1").Creation, number(t, nodes[0], "erlang:system_info(creation)."); got != own {
				t.Errorf("creation %d, want the node's own, %d", got, own)
			}
		})
	}
	checkSilent(t, nodes...)
}

// tlsOptions returns the path of a file with which a node can have its distribution over TLS.
func tlsOptions(t *testing.T, server string) string {
	t.Helper()
	cert, key := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, IsCA: true}, nil, nil)
	dir := t.TempDir()
	certPath, optPath := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "options")
	wait.Must(t, os.WriteFile(certPath, pemOf(t, cert.Raw, key), 0o600))
	wait.Must(t, os.WriteFile(optPath, fmt.Appendf(nil, "[{server,[{certfile,%q},{cacertfile,%[1]q}%s]}].\n", certPath, server), 0o600))
	return optPath
}

// certificate returns a certificate that holds for an hour, and its key. An authority signs it;
// nil: it signs itself.
func certificate(t *testing.T, template, authority *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wait.Must(t, err)
	if authority == nil {
		authority, signer = template, key
	}
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(time.Now().UnixNano()), true
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	raw, err := x509.CreateCertificate(rand.Reader, template, authority, key.Public(), signer)
	wait.Must(t, err)
	cert, err := x509.ParseCertificate(raw)
	wait.Must(t, err)
	return cert, key
}

// pemOf returns a certificate and its key.
func pemOf(t *testing.T, cert []byte, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	wait.Must(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}
