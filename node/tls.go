package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

var (
	errPlain      = errors.New("closed without an answer to a TLS greeting")
	errWantsProof = errors.New("node asks for a client certificate")
)

// identifyTLS asks over TLS. The error is errPlain if the peer closes the connection without
// answering the greeting.
func identifyTLS(ctx context.Context, addr netip.AddrPort, prober string) (Identity, error) {
	p, err := dial(ctx, addr)
	if err != nil {
		return Identity{}, err
	}
	c := tls.Client(p, tlsConfig(p))
	defer c.Close() // tells the node so, if there was a handshake; closes p
	if err := c.Handshake(); err != nil {
		return tlsFailure(p, err)
	}
	id, err := ask(frames{c, secureLenSize}, prober)
	id.TLS = true
	return id, err
}

// tlsFailure tells from a failed TLS handshake what the peer is. Package tls checks the header of
// the first record, 5 bytes, before anything else.
func tlsFailure(p *peer, err error) (Identity, error) {
	const header = 5
	got := maxFromPeer - p.left
	if got == 0 {
		return Identity{}, fmt.Errorf("%w: %w", errPlain, err)
	}
	if notTLS := (tls.RecordHeaderError{}); got < header || errors.As(err, &notTLS) {
		return Identity{}, fmt.Errorf("answer to a TLS greeting: %w", err)
	}
	return Identity{TLS: true}, fmt.Errorf("%w: %w", ErrTLS, err)
}

// AnyTLS returns a configuration that every TLS node agrees to, unless it demands a certificate.
// It verifies nothing: anybody may be at the other end. The node may choose whatever cipher it is
// restricted to. TLS 1.2 or later. See [VerifiedTLS].
func AnyTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, CipherSuites: allCiphers()}
}

// tlsConfig wants to hear a name, for which nobody has to prove anything.
func tlsConfig(p *peer) *tls.Config {
	config := AnyTLS()
	config.NextProtos = padding()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		p.Conn.Close() // or an alert would be sent, which the node would log
		return nil, errWantsProof
	}
	return config
}

func allCiphers() []uint16 {
	var ids []uint16
	for _, c := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		ids = append(ids, c.ID)
	}
	return ids
}

// padding makes the ClientHello as long as a plain node takes it to be. To such a node its first
// two bytes, 0x1603, are the length of a handshake message. padding is application protocols that
// no node knows.
func padding() []string {
	protos := make([]string, 0x1603/255+1)
	for i := range protos {
		protos[i] = strings.Repeat("-", 255)
	}
	return protos
}
