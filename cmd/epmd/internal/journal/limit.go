package journal

import "time"

// What the log has about the nodes of one other host. A host that boots has hundreds of entries at
// once, and a thousand nodes may tell their names after that. A host that lies has no end of them.
const (
	hostBurst    = 2048             // entries at once
	hostInterval = time.Second      // for one more, after that
	hostSummary  = 10 * time.Second // after which the log says how many are missing
	maxHosts     = 1024             // that are told apart; others are one
)

// limits are what the log may still have about other hosts. They are for one goroutine.
type limits struct {
	hosts   map[string]*limit
	cleared time.Time // when full buckets last made room
	missing int       // entries of all hosts that the log lacks
	since   time.Time // when the first of them was left out
}

// limit is a bucket of entries of one host. It fills up by one entry each hostInterval.
type limit struct {
	left    int
	filled  time.Time // when left was right
	missing int       // entries that were left out, and that the log has not been told of
}

// may reports whether the log may have an entry about a host.
func (l *limits) may(host string) bool {
	now := time.Now()
	b := l.of(host, now)
	b.fill(now)
	if b.left > 0 {
		b.left--
		return true
	}
	if l.missing++; l.missing == 1 {
		l.since = now
	}
	b.missing++
	return false
}

// of returns the bucket of a host. Buckets that are full again make room, once a hostInterval: a
// file may name thousands of hosts at once.
func (l *limits) of(host string, now time.Time) *limit {
	if l.hosts == nil {
		l.hosts = make(map[string]*limit)
	}
	if b := l.hosts[host]; b != nil {
		return b
	}
	if len(l.hosts) >= maxHosts && now.Sub(l.cleared) >= hostInterval {
		l.cleared = now
		for name, b := range l.hosts {
			if b.fill(now); b.left == hostBurst && b.missing == 0 {
				delete(l.hosts, name)
			}
		}
	}
	if len(l.hosts) >= maxHosts {
		host = "" // no host is called so
	}
	b := l.hosts[host]
	if b == nil {
		b = &limit{left: hostBurst, filled: now}
		l.hosts[host] = b
	}
	return b
}

// fill adds what has become due.
func (b *limit) fill(now time.Time) {
	due := int(now.Sub(b.filled) / hostInterval)
	b.left = min(hostBurst, b.left+due)
	b.filled = b.filled.Add(time.Duration(due) * hostInterval)
}

// summary returns how long it takes until the log is told what it lacks. It returns false if it
// lacks nothing.
func (l *limits) summary() (time.Duration, bool) {
	return time.Until(l.since.Add(hostSummary)), l.missing > 0
}

// take returns how many entries of how many hosts are missing, and one of those hosts. From then
// on they count as told.
func (l *limits) take() (missing, hosts int, host string) {
	for name, b := range l.hosts {
		if b.missing > 0 {
			b.missing = 0
			hosts++
			host = name
		}
	}
	missing, l.missing = l.missing, 0
	return missing, hosts, host
}
