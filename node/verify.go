package node

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrUnverified is the error of a node whose certificate no known authority vouches for, or whose
// certificate is for another host. No cookie is proved to it.
var ErrUnverified = errors.New("certificate not verified")

// VerifiedTLS returns a configuration with which a node has to have a certificate for host, the
// host part of its full name. One of roots must vouch for it. It agrees to what [AnyTLS] agrees to
// in all else.
//
// The names in a certificate are compared as verify_peer of OTP 25 does (public_key:
// pkix_verify_hostname/2). If the certificate has a subjectAltName, one of its dNSNames is host,
// in whatever case. Neither a wildcard nor an iPAddress counts there. Only without a
// subjectAltName does a commonName count. A commonName may have a wildcard in its first label, and
// never stands for an IP address. OTP 27 looks at no commonName.
func VerifiedTLS(roots *x509.CertPool, host string) *tls.Config {
	config := AnyTLS() // VerifyConnection does what Go would do otherwise
	config.ServerName = host
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s.PeerCertificates, roots, host); err != nil {
			return fmt.Errorf("%w: %w", ErrUnverified, err)
		}
		return nil
	}
	return config
}

// verify checks the chain of certificates that a node has shown. Its own is the first.
func verify(chain []*x509.Certificate, roots *x509.CertPool, host string) error {
	if len(chain) == 0 {
		return errors.New("none is shown")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		return err
	}
	if !isFor(chain[0], host) {
		return fmt.Errorf("it is not for host %q", host)
	}
	return nil
}

// subjectAltName is id-ce-subjectAltName (RFC 5280, 4.2.1.6).
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// isFor reports whether a certificate is for a host.
func isFor(c *x509.Certificate, host string) bool {
	host = lower(host)
	for _, e := range c.Extensions {
		if e.Id.Equal(subjectAltName) {
			return slices.ContainsFunc(c.DNSNames, func(name string) bool { return lower(name) == host })
		}
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	for _, a := range c.Subject.Names {
		if name, ok := a.Value.(string); ok && a.Type.Equal(commonName) && matches(lower(name), host) {
			return true
		}
	}
	return false
}

// commonName is id-at-commonName (RFC 5280, appendix A.1).
var commonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// matches compares a commonName with a host. One * in the first label stands for any characters of
// that label.
func matches(name, host string) bool {
	if strings.Contains(host, "*") {
		return false
	}
	first, rest, _ := strings.Cut(name, ".")
	hostFirst, hostRest, _ := strings.Cut(host, ".")
	before, after, wild := strings.Cut(first, "*")
	if !wild {
		return name == host
	}
	return rest == hostRest && !strings.Contains(after, "*") && len(hostFirst) >= len(before)+len(after) &&
		strings.HasPrefix(hostFirst, before) && strings.HasSuffix(hostFirst, after)
}

// lower returns s with the letters of ASCII in lower case, as OTP compares names.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
