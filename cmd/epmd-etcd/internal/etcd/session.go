package etcd

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

const (
	connectTime = 2 * time.Second // to reach an endpoint
	callTime    = 5 * time.Second // for an answer
	revokeTime  = 2 * time.Second // for the last one
	filesEvery  = 5 * time.Second // between two looks at certificates and secrets

	// A connection that answers no ping is over. etcd takes one in 5 s.
	pingEvery = 10 * time.Second
	pingTime  = 3 * time.Second

	maxMessage = 8 << 20 // bytes of an answer; etcd takes 1.5 MiB for a value by default
)

// errOtherFiles ends a session whose certificates or secrets are no longer those in the files.
var errOtherFiles = errors.New("certificates or credentials are others now")

// session is one with etcd.
type session struct {
	*Companion
	client  *clientv3.Client
	secrets *secrets
	token   token
	isPut   bool                // what own says is in etcd
	wanted  atomic.Pointer[own] // what is there, or is being put
	isLost  atomic.Bool         // somebody else has changed our key
	wake    chan struct{}       // holds a token then
}

// session keeps this host in etcd, and follows the others, until something goes wrong.
func (c *Companion) session(ctx context.Context) error {
	s := &session{Companion: c, wake: make(chan struct{}, 1)}
	s.wanted.Store(&own{})
	if err := s.open(ctx); err != nil {
		return err
	}
	defer s.client.Close()
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(running) })
	g.Go(func() error { return s.announce(running) })
	g.Go(func() error { return s.watchFiles(running) })
	err := g.Wait()
	if ctx.Err() != nil {
		s.revoke()
	}
	return err
}

// open connects to etcd, and logs in if there are credentials.
func (s *session) open(ctx context.Context) (err error) {
	if s.secrets, err = s.Files.load(); err != nil {
		return err
	}
	cfg := clientv3.Config{
		Endpoints: s.Endpoints, Logger: zap.NewNop(),
		Context:           context.WithoutCancel(ctx), // the lease is revoked after ctx has ended
		DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingTime,
		MaxCallRecvMsgSize: maxMessage, MaxUnaryRetries: 1,
		DialOptions: []grpc.DialOption{grpc.WithPerRPCCredentials(&s.token)},
	}
	if strings.HasPrefix(s.Endpoints[0], "https:") {
		cfg.TLS = s.secrets.tls
	}
	if s.client, err = clientv3.New(cfg); err != nil {
		return err
	}
	if err = s.connect(ctx); err == nil {
		err = s.login(ctx)
	}
	if err != nil {
		s.client.Close()
	}
	return err
}

// connect returns when one of the endpoints is there, or none can be.
func (s *session) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn := s.client.ActiveConnection()
	for conn.Connect(); ; {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure:
			return s.whyNot(ctx)
		default:
			if !conn.WaitForStateChange(ctx, state) {
				return ctx.Err()
			}
		}
	}
}

// login gets a token for user and password, if there are any.
func (s *session) login(ctx context.Context) error {
	if s.secrets.user == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := s.client.Authenticate(ctx, s.secrets.user, s.secrets.password)
	switch {
	case isOneOf(err, []error{rpctypes.ErrAuthNotEnabled}): // etcd asks nobody
		return nil
	case err != nil:
		return err
	}
	s.token.text.Store(&answer.Token)
	return nil
}

// call asks etcd something, and logs in again if the token has become too old.
func (s *session) call(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := ask(limited)
	if !isStale(err) {
		return err
	}
	if err := s.login(ctx); err != nil {
		return err
	}
	return ask(limited)
}

// watchFiles ends when certificates or secrets have changed, and can be used.
func (s *session) watchFiles(ctx context.Context) error {
	for {
		await(ctx, filesEvery, nil, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now, err := s.Files.load(); err == nil && now.sum != s.secrets.sum {
			return errOtherFiles
		}
	}
}

// revoke takes this host out of etcd.
func (s *session) revoke() {
	if s.own.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), revokeTime)
	defer cancel()
	err := s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.Revoke(ctx, s.own.lease)
		return err
	})
	if err != nil {
		s.Log.Warn("lease not revoked: this host stays in etcd until it ends", "err", named(err))
	}
}

// token is what etcd gave for user and password. It goes with every call.
type token struct{ text atomic.Pointer[string] }

// GetRequestMetadata returns the token as gRPC wants it.
func (t *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if text := t.text.Load(); text != nil {
		return map[string]string{rpctypes.TokenFieldNameGRPC: *text}, nil
	}
	return nil, nil
}

// RequireTransportSecurity returns false: whether to use TLS is for the endpoints to say.
func (t *token) RequireTransportSecurity() bool { return false }
