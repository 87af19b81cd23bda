package avahi_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/avahi"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/wait"
)

// TestManyInterfaces has more interfaces than the bus allows connections.
func TestManyInterfaces(t *testing.T) {
	const many = 300
	a, _ := pair(t, lan.HostOptions{NoAvahi: true})
	var batch strings.Builder
	var names []string
	for i := range many {
		name := fmt.Sprint("v", i)
		names = append(names, name)
		fmt.Fprintf(&batch, "link add %s type veth peer name p%[1]s\nlink set %[1]s up\naddr add 10.%d.%d.1/24 dev %[1]s\n",
			name, i/200, i%200)
	}
	wait.Must(t, a.WriteFile("/run/batch", batch.String(), 0o600))
	// The kernel joins no more than 20 groups with one socket otherwise.
	_, err := a.Output(wait.Soon(t), "sh", "-c", "echo 1000 >/proc/sys/net/ipv4/igmp_max_memberships; ip -batch /run/batch")
	wait.Must(t, err)
	// A running one would lose some of the kernel's news of so many interfaces. It never looks
	// again.
	wait.Must(t, a.Avahi.Start(wait.Soon(t)))
	began := time.Now()
	publisher, _ := a.publish(func(o *avahi.Options) { o.Interfaces = names })
	a.register("a", 4711)
	waitCount(t, publisher.State, avahi.State{Instances: 2})
	waitOn := regexp.MustCompile(`(?m)^\+;(v\d+);IPv4;a\\064hosta;`)
	// One avahi-daemon probes on all of them.
	patient, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	wait.Must(t, lan.Wait(patient, "the node on all interfaces", func(ctx context.Context) (bool, error) {
		out, err := a.Output(ctx, "avahi-browse", "-pt", "_epmd._tcp")
		return len(waitOn.FindAllString(out, -1)) == many, err
	}))
	t.Logf("published on %d interfaces after %v", many, time.Since(began))
	connected, err := a.Output(wait.Soon(t), "dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/",
		"org.freedesktop.DBus.ListNames")
	wait.Must(t, err)
	if n := strings.Count(connected, `":`); n > 10 {
		t.Errorf("%d connections to the bus:\n%s", n, connected)
	}
	if s := publisher.State(); s.Off != "" {
		t.Errorf("state %v", s)
	}
}
