package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refusals are errors that come again from the same etcd until its operator does something. All
// else that etcd does goes on meanwhile.
var refusals = []error{rpctypes.ErrPermissionDenied, rpctypes.ErrNoSpace, rpctypes.ErrTooManyRequests}

// isRefusal reports whether err is such an error.
func isRefusal(err error) bool { return isOneOf(err, refusals) }

// isStale reports whether etcd takes the token no more with which this client has logged in.
func isStale(err error) bool {
	return isOneOf(err, []error{rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision})
}

// isOneOf compares errors by their texts, as both ends of etcd have them.
func isOneOf(err error, list []error) bool {
	for _, one := range list {
		if err != nil && rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(one) {
			return true
		}
	}
	return false
}

// reasons are what an operator is told, by a part of the text of an error. The first one counts.
// TLS errors come as texts alone, through gRPC.
var reasons = []struct{ part, why string }{
	{"unknown authority", "its certificate is signed by an authority that is not in -ca"},
	{"certificate has expired", "its certificate or ours has expired or is not valid yet"},
	{"x509: certificate is valid for", "its certificate is for another name or address"},
	{"x509: cannot validate certificate", "its certificate is for another name or address"},
	{"x509:", "its certificate can't be verified"},
	{"remote error: tls:", "it refuses our certificate (-cert)"},
	{"first record does not look like a TLS handshake", "it does not speak TLS"},
	{"error reading server preface", "it closes our connections"},
	{rpctypes.ErrorDesc(rpctypes.ErrAuthFailed), "wrong user or password (-credentials_file)"},
	{rpctypes.ErrorDesc(rpctypes.ErrUserEmpty), "it wants user and password (-credentials_file)"},
	{rpctypes.ErrorDesc(rpctypes.ErrPermissionDenied), "permission denied: no role lets us use the prefix"},
	{rpctypes.ErrorDesc(rpctypes.ErrNoSpace), "its quota is exceeded: compact, defragment and disarm its alarm"},
	{rpctypes.ErrorDesc(rpctypes.ErrNoLeader), "it has no leader"},
	{"leader changed", "its leader changed"},
	{"etcdserver: request timed out", "it has no quorum, or is too slow"},
	{"connection refused", "connection refused"},
	{"no route to host", "no route to host"},
	{"network is unreachable", "network unreachable"},
	{"i/o timeout", "no answer"},
	{"no such host", "the host is not known"},
	{"connection reset by peer", "connection lost"},
	{"error reading from server: EOF", "connection lost"},
}

// named returns an error for an operator. Its text says what is wrong, and stays the same while
// that does.
func named(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, r := range reasons {
		if !strings.Contains(text, r.part) {
			continue
		}
		if i := strings.Index(text, "x509:"); i >= 0 {
			return fmt.Errorf("%s (%s)", r.why, text[i:])
		}
		return errors.New(r.why)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return errors.New("no answer")
	case status.Code(err) == codes.Unavailable:
		return fmt.Errorf("unavailable: %s", status.Convert(err).Message())
	}
	return err
}
