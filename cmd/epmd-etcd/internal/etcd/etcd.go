// Package etcd keeps this host in etcd, and learns of the others there.
//
// Each host has a key, PREFIX/v1/epmds/HOST, with the value ADDRESS:PORT. Its lease ends some
// seconds after its host did. Nothing else is in etcd.
//
// What lasts is the Companion. It has one session with etcd after the other. A session begins with
// reading all anew, and with the certificates and secrets that are in the files then. It ends with
// whatever goes wrong. Only what etcd refuses by itself, such as for a quota, is asked for again in
// the same session, so that the rest goes on.
package etcd

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/hosts"
	"github.com/goerlang/eclus/cmd/epmd-etcd/internal/state"
	"github.com/goerlang/eclus/internal/throttle"
)

// Options are what a Companion needs.
type Options struct {
	Endpoints []string
	Prefix    string // of all keys, without a slash at its end
	Host      string // of this host's key
	TTL       time.Duration
	Files     Files

	// Own returns where this host's epmd is. Moved yields when that may be another.
	Own   func() (netip.AddrPort, error)
	Moved <-chan struct{}

	Table *hosts.Table
	State *state.State
	Log   *slog.Logger
}

// Companion keeps this host in etcd. Make it with New.
type Companion struct {
	Options
	own  own
	said *throttle.Throttle // of what others have put, by key
	bad  *throttle.Minute   // of bad values in all
}

const maxBad = 100 // bad values a minute that are logged

// own is this host as it is in etcd. The part of a session that announces it has it.
type own struct {
	lease clientv3.LeaseID // 0: none
	key   string           // with that lease; empty: none
	value string           // of the key
}

// New returns a Companion that does nothing before Run.
func New(o Options) *Companion {
	return &Companion{Options: o, said: throttle.New(), bad: throttle.NewMinute(maxBad)}
}

// folder is where the keys of hosts are.
func (c *Companion) folder() string { return c.Prefix + "/v1/epmds/" }

// Run keeps this host in etcd until ctx ends. Then it takes the host out, if etcd is there.
func (c *Companion) Run(ctx context.Context) error {
	var retry backoff
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == errOtherFiles:
			c.Log.Info("certificates or credentials are others now")
			continue
		case time.Since(began) > steady:
			retry = 0
		}
		c.State.SetAway(named(err))
		c.Table.Lost()
		retry.wait(ctx, nil, nil)
	}
	return nil
}

// Times between tries. What a try takes comes in addition, connectTime at most while etcd is away.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
	steady     = 10 * time.Second // a session that lasted so long was a good one
)

// backoff is how often something has failed in a row.
type backoff int

// wait waits before the next try, longer each time. Tries of many hosts don't stay in step. It
// returns early if ctx ends or a channel yields.
func (b *backoff) wait(ctx context.Context, early, early2 <-chan struct{}) {
	d := min(lastRetry, firstRetry<<min(int(*b), 8))
	*b++
	await(ctx, d*3/4+rand.N(d/2), early, early2)
}

// await waits for d, until ctx ends, or until a channel yields.
func await(ctx context.Context, d time.Duration, early, early2 <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-early:
	case <-early2:
	}
}
