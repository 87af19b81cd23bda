package etcd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/state"
)

// putEvery is the least time between two puts, however often somebody removes our key.
const putEvery = 200 * time.Millisecond

// announce keeps this host's key and its lease, until something goes wrong.
func (s *session) announce(ctx context.Context) error {
	var retry backoff
	for {
		err := s.keep(ctx)
		var noAddress addressError
		switch {
		case err == nil:
			retry = 0
			await(ctx, s.TTL/3, s.wake, s.Moved)
		case ctx.Err() != nil:
			return ctx.Err()
		case isRefusal(err), errors.As(err, &noAddress):
			s.State.SetNotPut(named(err))
			retry.wait(ctx, s.Moved, nil)
		default:
			return err
		}
		await(ctx, putEvery, nil, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// addressError says that this host has no address to advertise.
type addressError struct{ error }

// keep has the lease go on, and the key be there.
func (s *session) keep(ctx context.Context) error {
	at, err := s.Own()
	if err != nil {
		return addressError{err}
	}
	if err := s.keepLease(ctx); err != nil {
		return err
	}
	s.Table.SetOwn(at)
	if s.isLost.Swap(false) {
		s.isPut = false
	}
	if s.isPut && s.own.value == at.String() {
		return nil
	}
	if err := s.put(ctx, at.String()); err != nil {
		return err
	}
	s.State.SetPut(at)
	return nil
}

// keepLease keeps the lease alive, or gets one. The lease of an earlier session serves too.
func (s *session) keepLease(ctx context.Context) error {
	if s.own.lease != 0 {
		err := s.call(ctx, s.renew)
		if !isOneOf(err, []error{rpctypes.ErrLeaseNotFound}) {
			return err
		}
		s.own, s.isPut = own{}, false
	}
	return s.call(ctx, func(ctx context.Context) error {
		lease, err := s.client.Grant(ctx, int64(s.TTL/time.Second))
		if err == nil {
			s.own.lease = lease.ID
		}
		return err
	})
}

// renew keeps the lease alive for another TTL. The client's KeepAliveOnce would ask again without
// pause while etcd is away.
func (s *session) renew(ctx context.Context) error {
	stream, err := etcdserverpb.NewLeaseClient(s.client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(s.own.lease)}); err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err == nil && answer.TTL <= 0 {
		err = rpctypes.ErrLeaseNotFound
	}
	return err
}

// put has etcd have this host with that value. A key that another host has is left to it: hosts
// with one machine ID, such as copies of a virtual machine, get a key each.
func (s *session) put(ctx context.Context, value string) error {
	key := s.folder() + s.Host
	there, err := s.claim(ctx, key, value)
	if there != nil {
		s.shared(there)
		sum := sha256.Sum256([]byte(value))
		key += "-" + hex.EncodeToString(sum[:4])
		if there, err = s.claim(ctx, key, value); there != nil {
			err = s.overwrite(ctx, key, value)
		}
	}
	if err != nil {
		return err
	}
	if was := s.own.key; was != "" && was != key {
		if err := s.remove(ctx, was); err != nil {
			return err
		}
	}
	s.own.key, s.own.value, s.isPut = key, value, true
	return nil
}

// shared says that somebody else has the key of this host's ID.
func (s *session) shared(there []byte) {
	if _, ok := s.said.May("shared " + string(there)); ok && s.own.key == "" {
		s.Log.Warn("another host has this machine ID, or this host had another address", state.Shared.Attr(), "host", s.Host, "value", short(there))
	}
}

// claim puts a key unless another host has it. It returns the value that the other has put.
func (s *session) claim(ctx context.Context, key, value string) (other []byte, err error) {
	s.wanted.Store(&own{s.own.lease, key, value})
	put := clientv3.OpPut(key, value, clientv3.WithLease(s.own.lease))
	for found := int64(0); ; {
		var answer *clientv3.TxnResponse
		err := s.call(ctx, func(ctx context.Context) (err error) {
			answer, err = s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", found)).
				Then(put).Else(clientv3.OpGet(key)).Commit()
			return err
		})
		if err != nil || answer.Succeeded {
			return nil, err
		}
		kvs := answer.Responses[0].GetResponseRange().Kvs
		switch {
		case len(kvs) == 0:
			found = 0
		case string(kvs[0].Value) == value && kvs[0].Lease == int64(s.own.lease):
			return nil, nil
		case string(kvs[0].Value) == value, kvs[0].Lease == int64(s.own.lease):
			found = kvs[0].ModRevision
		default:
			return kvs[0].Value, nil
		}
	}
}

// overwrite puts a key whatever is there.
func (s *session) overwrite(ctx context.Context, key, value string) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.Put(ctx, key, value, clientv3.WithLease(s.own.lease))
		return err
	})
}

// remove removes a key of this host's lease.
func (s *session) remove(ctx context.Context, key string) error {
	return s.call(ctx, func(ctx context.Context) error {
		_, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.LeaseValue(key), "=", s.own.lease)).
			Then(clientv3.OpDelete(key)).Commit()
		return err
	})
}
