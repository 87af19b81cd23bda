package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// certified is a certificate and the hosts that it is for, as OTP 25 has it.
var certified = []struct {
	name   string
	change func(*x509.Certificate)
	hosts  string
}{
	{"dNSName", func(c *x509.Certificate) { c.DNSNames = []string{"hostb.local", "other"} }, "hostb.local HOSTB.local"},
	{"dNSName in capitals", func(c *x509.Certificate) { c.DNSNames = []string{"HostB.Local"} }, "hostb.local HOSTB.local"},
	{"dNSName with a wildcard", func(c *x509.Certificate) { c.DNSNames = []string{"*.local"} }, "*.local"},
	{"dNSName of an address", func(c *x509.Certificate) { c.DNSNames = []string{"192.0.2.7"} }, "192.0.2.7"},
	{"iPAddress", func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 7}} }, ""},
	{"another kind of name hides the commonName", func(c *x509.Certificate) {
		c.EmailAddresses, c.Subject.CommonName = []string{"a@b.example"}, "hostb.local"
	}, ""},
	{"commonName", func(c *x509.Certificate) { c.Subject.CommonName = "hostb.LOCAL" }, "hostb.local HOSTB.local"},
	{"commonName beside a dNSName", func(c *x509.Certificate) {
		c.DNSNames, c.Subject.CommonName = []string{"hostb"}, "hostb.local"
	}, "hostb"},
	{"commonName with a wildcard", func(c *x509.Certificate) { c.Subject.CommonName = "*.local" }, "hostb.local HOSTB.local hostc.local"},
	{"commonName with a wildcard in its first label", func(c *x509.Certificate) { c.Subject.CommonName = "h*b.local" }, "hostb.local HOSTB.local"},
	{"commonName with two wildcards", func(c *x509.Certificate) { c.Subject.CommonName = "h*s*b.local" }, ""},
	{"commonName with a wildcard further on", func(c *x509.Certificate) { c.Subject.CommonName = "hostb.*" }, ""},
	{"commonName that is too long to match", func(c *x509.Certificate) { c.Subject.CommonName = "hostb*b.local" }, ""},
	{"commonName of an address", func(c *x509.Certificate) { c.Subject.CommonName = "192.0.2.7" }, ""},
	{"no name", func(*x509.Certificate) {}, ""},
}

var hostsToCertify = []string{"hostb.local", "HOSTB.local", "hostb", "sub.hostb.local", "192.0.2.7", "*.local", "hostc.local"}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	made := a.issue(t, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.Subject.CommonName = true, true, "authority"
	})
	cert, err := x509.ParseCertificate(made.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, made.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// issue signs a certificate for a new key. The first one signs itself.
func (a *authority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"test"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(c)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// TestIsFor compares names of certificates with hosts. OTP says the same, but for a commonName from
// release 27 on.
func TestIsFor(t *testing.T) {
	a := newAuthority(t)
	var asked strings.Builder
	var all, withoutCommonName []string
	for _, tt := range certified {
		made := a.issue(t, tt.change)
		cert, err := x509.ParseCertificate(made.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range hostsToCertify {
			want := strings.Contains(" "+tt.hosts+" ", " "+host+" ")
			if is := isFor(cert, host); is != want {
				t.Errorf("%s is for %s: %v", tt.name, host, is)
			}
			fmt.Fprintf(&asked, "public_key:pkix_verify_hostname(base64:decode(%q), [{dns_id, %q}]),", base64.StdEncoding.EncodeToString(cert.Raw), host)
			all = append(all, fmt.Sprint(want))
			withoutCommonName = append(withoutCommonName, fmt.Sprint(want && len(cert.DNSNames) > 0))
		}
	}
	erl := need.Program(t, "erl")
	// file:script/1 returns the value of the last expression.
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("["+strings.TrimSuffix(asked.String(), ",")+"]."), 0o600); err != nil {
		t.Fatal(err)
	}
	eval := fmt.Sprintf("{ok, L} = file:script(%q), io:format(\"~w\", [L]), halt().", script)
	ctx, cancel := context.WithTimeout(t.Context(), wait.Patience)
	defer cancel()
	eval = "io:format(\"~s \", [erlang:system_info(otp_release)]), " + eval
	out, err := exec.CommandContext(ctx, erl, "-noinput", "-eval", eval).CombinedOutput()
	release, got, _ := strings.Cut(string(out), " ")
	want := all
	if n, _ := strconv.Atoi(release); n >= 27 {
		want = withoutCommonName
	}
	if want := "[" + strings.Join(want, ",") + "]"; err != nil || got != want {
		t.Errorf("OTP %s says %s, %v; want %s", release, got, err, want)
	}
}

// TestVerifiedTLS dials nodes whose certificates are good or not. The cookie is proved to the good
// one alone.
func TestVerifiedTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	forHost := func(c *x509.Certificate) { c.DNSNames = []string{"hostb.local"} }
	between := &authority{}
	issued := ours.issue(t, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	between.cert, _ = x509.ParseCertificate(issued.Certificate[0])
	between.key = issued.PrivateKey.(*ecdsa.PrivateKey)
	chained := between.issue(t, forHost)
	chained.Certificate = append(chained.Certificate, issued.Certificate[0])
	for _, tt := range []struct {
		name string
		cert tls.Certificate
		err  string
	}{
		{"good", ours.issue(t, forHost), ""},
		{"good, by another", chained, ""},
		{"for another host", ours.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{"hostc.local"} }), `not for host "hostb.local"`},
		{"of another authority", theirs.issue(t, forHost), "unknown authority"},
		{"of nobody", (&authority{}).issue(t, forHost), "unknown authority"},
		{"expired", ours.issue(t, func(c *x509.Certificate) { forHost(c); c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		{"of a client", ours.issue(t, func(c *x509.Certificate) {
			forHost(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), "incompatible key usage"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				config := &tls.Config{Certificates: []tls.Certificate{tt.cert}, MaxVersion: version}
				d := &Dialer{Name: "a@hosta.local", Cookie: "secret", TLS: VerifiedTLS(ours.pool(), "hostb.local")}
				if tt.err == "" {
					at := served(t, &Server{Name: "b@hostb.local", Cookie: "secret", TLS: config})
					dialed(t, &Dialer{Name: d.Name, Cookie: d.Cookie, TLS: d.TLS, Lookup: func(context.Context, string) ([]netip.AddrPort, error) {
						return []netip.AddrPort{at}, nil
					}}, "b@hostb.local")
					return
				}
				at := listen(t, func(c net.Conn) {
					s := tls.Server(c, config)
					defer s.Close()
					if b, err := io.ReadAll(s); err == nil || len(b) > 0 {
						t.Errorf("the node got %x, %v", b, err)
					}
				})
				_, err := d.DialAddr(t.Context(), "b@hostb.local", at)
				var dial *DialError
				if !errors.Is(err, ErrUnverified) || !errors.As(err, &dial) || dial.Step != StepTLS || !names(err, tt.err) {
					t.Errorf("got %v; want step tls, %q", err, tt.err)
				}
			})
		}
	}
}
