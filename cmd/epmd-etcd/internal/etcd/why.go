package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors that say which flag is missing.
var (
	errSpeaksTLS = errors.New("it speaks TLS: give an endpoint https://")
	errNoTLS     = errors.New("it does not speak TLS: give an endpoint http://")
	errNoCert    = errors.New("it wants a certificate of ours (-cert, -key)")
)

// whyNot returns why there is no connection, or nil if there is one by now. What gRPC says depends
// on which of both ends was quicker. So each endpoint is tried without it first.
func (s *session) whyNot(ctx context.Context) error {
	kv := etcdserverpb.NewKVClient(s.client.ActiveConnection())
	_, err := kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(s.folder())}, grpc.WaitForReady(false))
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	for _, endpoint := range s.Endpoints {
		if err := s.try(ctx, endpoint); err != nil {
			return err
		}
	}
	return err
}

// try returns why an endpoint can't be used, if TCP or TLS knows.
func (s *session) try(ctx context.Context, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	config := s.secrets.tls.Clone()
	config.ServerName, config.NextProtos = u.Hostname(), []string{"h2"}
	config.InsecureSkipVerify = u.Scheme == "http" // only to see whether it is TLS
	over := tls.Client(conn, config)
	if err = over.HandshakeContext(ctx); err == nil {
		// etcd refuses a certificate after the handshake. Else it speaks first.
		_, err = over.Read(make([]byte, 1))
	}
	// An etcd without TLS closes what is no HTTP. What one with TLS says depends on its Go.
	refusal := new(net.OpError)
	refused := errors.As(err, &refusal) && refusal.Op == "remote error"
	switch isTLS := u.Scheme == "https"; {
	case isTLS && errors.Is(err, io.EOF) && !over.ConnectionState().HandshakeComplete:
		return errNoTLS
	case isTLS && refused && len(config.Certificates) == 0:
		return errNoCert
	case isTLS:
		return err
	case err == nil || refused:
		return errSpeaksTLS
	}
	return nil
}
