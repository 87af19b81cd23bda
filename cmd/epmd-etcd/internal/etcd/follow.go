package etcd

import (
	"context"
	"errors"
	"net/netip"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/hosts"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/state"
)

// maxKeys is how many keys are read, good or not.
const maxKeys = 8 * hosts.MaxHosts

// errRoom ends a watch: there is room for a host now that there was none for.
var errRoom = errors.New("there is room for another host")

// follow reads which hosts there are, and then what changes, until something goes wrong. If etcd no
// longer has the history of a change, it reads all anew.
func (s *session) follow(ctx context.Context) error {
	var retry backoff
	for {
		revision, err := s.read(ctx)
		if err == nil {
			err = s.watch(ctx, revision, &retry)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == errRoom:
		case isOneOf(err, []error{rpctypes.ErrCompacted}):
			s.Log.Info("etcd has no history any more: all is read anew")
		case isRefusal(err):
			s.State.SetAway(named(err))
			s.Table.Lost()
		default:
			return err
		}
		retry.wait(ctx, nil, nil)
	}
}

// read reads all hosts, a page at a time, and returns as of which revision.
func (s *session) read(ctx context.Context) (revision int64, err error) {
	all := make(map[string]netip.AddrPort)
	from, end := s.folder(), clientv3.GetPrefixRangeEnd(s.folder())
	for keys, limit := 0, int64(256); ; {
		var page *clientv3.GetResponse
		err := s.call(ctx, func(ctx context.Context) (err error) {
			page, err = s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(revision))
			return err
		})
		if status.Code(err) == codes.ResourceExhausted && limit > 1 && !isRefusal(err) {
			limit /= 2 // the values are long
			continue
		}
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			if host, at, ok := s.parse(kv); ok {
				all[host] = at
			}
			from = string(kv.Key) + "\x00"
		}
		if keys += len(page.Kvs); !page.More || keys >= maxKeys {
			break
		}
	}
	if left := s.Table.Replace(all); left > 0 {
		s.tooMany(left)
	}
	return revision, nil
}

func (s *session) tooMany(left int) {
	if _, ok := s.said.May("too many"); ok {
		s.Log.Warn("too many hosts in etcd", "most", hosts.MaxHosts, "left_out", left)
	}
}

// parse returns the host of a key, and where it is. It logs what is neither.
func (s *session) parse(kv *mvccpb.KeyValue) (host string, at netip.AddrPort, ok bool) {
	host, err := hosts.ParseKey(s.folder(), kv.Key)
	if err == nil {
		at, err = hosts.Parse(kv.Value)
	}
	if err == nil {
		return host, at, true
	}
	key := short(kv.Key)
	if _, ok := s.said.May("bad " + key); ok && s.bad.May("all") {
		s.Log.Warn("no host", state.BadValue.Attr(), "key", key, "err", err)
	}
	return "", netip.AddrPort{}, false
}

// short returns the beginning of what another has put in etcd. The log escapes what can't be shown.
func short(b []byte) string { return string(b[:min(len(b), 100)]) }

// watch enters changes after a revision.
//
// It uses the stream itself. The client's Watcher would go on by itself when the stream breaks,
// also with an etcd that has lost its data, and would say nothing.
func (s *session) watch(ctx context.Context, revision int64, retry *backoff) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.openWatch(ctx, revision+1)
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		switch {
		case err != nil:
			return rpctypes.Error(err)
		case answer.CompactRevision != 0:
			return rpctypes.ErrCompacted
		case answer.Canceled:
			return rpctypes.Error(status.Error(codes.Unknown, answer.CancelReason))
		case answer.Created:
			*retry = 0
			s.State.SetReached(endpoint(stream.Context()), revision)
			continue
		}
		if err := s.enter(answer.Events); err != nil {
			return err
		}
		s.State.SetRevision(answer.Header.Revision)
	}
}

// openWatch asks for all changes from a revision on, on a stream of its own.
func (s *session) openWatch(ctx context.Context, from int64) (etcdserverpb.Watch_WatchClient, error) {
	watch := etcdserverpb.NewWatchClient(s.client.ActiveConnection())
	stream, err := watch.Watch(clientv3.WithRequireLeader(ctx), grpc.MaxCallRecvMsgSize(maxMessage))
	if err != nil {
		return nil, err
	}
	folder := s.folder()
	request := &etcdserverpb.WatchCreateRequest{
		Key: []byte(folder), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(folder)), StartRevision: from, Fragment: true,
	}
	return stream, stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: request}})
}

// endpoint returns who answers a call.
func endpoint(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "?"
}

// enter enters changes.
func (s *session) enter(events []*mvccpb.Event) error {
	room := false
	for _, e := range events {
		s.checkOwn(e)
		host, at, ok := "", netip.AddrPort{}, false
		if e.Type == mvccpb.Event_PUT {
			host, at, ok = s.parse(e.Kv)
		}
		if ok && !s.Table.Put(host, at) {
			s.tooMany(1)
		}
		if ok {
			continue
		}
		if host, err := hosts.ParseKey(s.folder(), e.Kv.Key); err == nil && s.Table.Delete(host) {
			room = true
		}
	}
	if room {
		return errRoom
	}
	return nil
}

// checkOwn has announce look at this host's key if somebody else has changed it.
func (s *session) checkOwn(e *mvccpb.Event) {
	ours := s.wanted.Load()
	if string(e.Kv.Key) != ours.key || e.Type == mvccpb.Event_PUT && e.Kv.Lease == int64(ours.lease) && string(e.Kv.Value) == ours.value {
		return
	}
	s.isLost.Store(true)
	select {
	case s.wake <- struct{}{}:
	default: // the token is there already
	}
}
