package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/wait"
)

// Authority signs certificates.
type Authority struct {
	Path string // of its own certificate, PEM
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority whose files last as long as the test.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, newKey(t)
	a.Path = filepath.Join(a.dir, "ca.pem")
	a.cert = a.sign(t, template, a.key, a.Path)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wait.Must(t, err)
	return key
}

// sign writes a signed certificate to a file.
func (a *Authority) sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, path string) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	wait.Must(t, err)
	writePEM(t, path, "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	wait.Must(t, err)
	return cert
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	wait.Must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// Issue makes a certificate for a name and an address, and returns the paths of it and of its key.
func (a *Authority) Issue(t testing.TB, name, address string) (cert, key string) {
	t.Helper()
	private := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	a.sign(t, template, private, cert)
	der, err := x509.MarshalECPrivateKey(private)
	wait.Must(t, err)
	writePEM(t, key, "EC PRIVATE KEY", der)
	return cert, key
}

// UseTLS has an etcd that doesn't run yet speak TLS, and want certificates of the authority. Ctl
// has one.
func (s *Server) UseTLS(t testing.TB, a *Authority) {
	t.Helper()
	cert, key := a.Issue(t, "server", s.Address)
	s.Scheme = "https"
	s.Args = append(s.Args, "--cert-file", cert, "--key-file", key, "--trusted-ca-file", a.Path, "--client-cert-auth")
	cert, key = a.Issue(t, "root", s.Address)
	s.Client = append(s.Client, "--cacert", a.Path, "--cert", cert, "--key", key)
}

// UseUsers has a running etcd let in none but users. The user epmd with that password may use the
// prefix. Ctl is the user root.
func (s *Server) UseUsers(t testing.TB, password, prefix string) {
	t.Helper()
	s.Ctl(t, "user", "add", "root:root")
	s.Ctl(t, "user", "grant-role", "root", "root")
	s.Ctl(t, "user", "add", "epmd:"+password)
	s.Ctl(t, "role", "add", "epmd")
	s.Ctl(t, "role", "grant-permission", "epmd", "--prefix=true", "readwrite", prefix)
	s.Ctl(t, "user", "grant-role", "epmd", "epmd")
	s.Ctl(t, "auth", "enable")
	s.Client = append(s.Client, "--user", "root:root")
}
