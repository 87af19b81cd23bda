//go:build soak

package test

import (
	"testing"
	"time"
)

// TestSoakEtcd has etcd be away for two minutes, with the lease that is the default.
func TestSoakEtcd(t *testing.T) {
	const ttl = 15 * time.Second
	m := etcdOutage(t, ttl, 2*time.Minute)
	t.Logf("%+v", m)
	for what, took := range map[string][2]time.Duration{
		"a new host's nodes are listed":  {m.listed, 500 * time.Millisecond},
		"a node registered meanwhile":    {m.meanwhile, 50 * time.Millisecond},
		"new hosts after etcd came back": {m.again, 5 * time.Second},
		"a killed host is unreachable":   {m.unreachable, 6 * time.Second},
		"a killed host is gone":          {m.gone, ttl + time.Second},
	} {
		if took[0] > took[1] {
			t.Errorf("%s after %v; want %v at most", what, took[0], took[1])
		}
	}
}
