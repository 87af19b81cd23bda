// Package explain finds out why the epmd of this host does not do what is asked. It goes by who
// listens on the port, if anybody.
//
// It asks package owner for the process. It connects to the port to see whether an epmd
// answers. A call takes at most 2 s, and starts no goroutine that outlives it.
package explain

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/cmd/epmd/internal/tcp"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/internal/netif"
	"github.com/goerlang/eclus/internal/owner"
)

const (
	lateAfter  = 3 * time.Second // an answer takes less than a millisecond
	searchTime = 2 * time.Second // for who holds a port: all processes are looked at
	probeTime  = time.Second     // for an answer to a question that every epmd answers
)

// Fault says what was wrong, of whoever holds the port.
type Fault string

// What may be wrong.
const (
	Unreachable Fault = "which does not accept connections"
	Unanswered  Fault = "which does not answer as an epmd"
	Late        Fault = "which has not answered yet"
)

// Explainer writes why an epmd of this host did not do what was asked.
type Explainer struct {
	Port      uint16    // of the epmd
	Unwilling Fault     // what is wrong with an epmd that answers other questions
	Stderr    io.Writer // nil: nothing is explained
}

// Explain writes a line or two.
func (e *Explainer) Explain(ctx context.Context, f Fault) {
	if e.Stderr == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	for _, line := range e.explanation(ctx, f) {
		fmt.Fprintln(e.Stderr, "epmd: "+line)
	}
}

// IfLate calls ask, which waits for an answer, and returns when ask has. After 3 s it explains
// meanwhile.
func (e *Explainer) IfLate(ctx context.Context, ask func()) {
	waiting, answered := context.WithCancel(ctx)
	explained := make(chan struct{})
	go func() {
		defer close(explained)
		select {
		case <-waiting.Done():
		case <-time.After(lateAfter):
			e.Explain(waiting, Late)
		}
	}()
	ask()
	answered()
	<-explained
}

// loopback returns where nodes look for an epmd of this host, in order.
func loopback(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	}
}

func (e *Explainer) explanation(ctx context.Context, f Fault) []string {
	at, holder, err := firstListener(ctx, loopback(e.Port))
	switch {
	case err != nil:
		return []string{fmt.Sprintf("who holds port %d can't be told: %v", e.Port, err)}
	case holder == nil:
		return []string{withoutListener(ctx, e.Port, f)}
	}
	var better string
	if f == Unanswered {
		f, better = e.examine(ctx, at)
	}
	lines := []string{fmt.Sprintf("port %d is held by %s, %s", e.Port, describe(holder), f)}
	if better != "" {
		lines = append(lines, better)
	}
	if holder.Unit == serviceManager {
		lines = append(lines, "it waits for a service to take it over: see systemctl list-sockets")
	}
	return lines
}

// withoutListener says what is at a port on which nobody listens. An epmd may have ended since. Or
// a packet filter drops connections, or redirects them.
func withoutListener(ctx context.Context, port uint16, f Fault) string {
	if f == Unreachable {
		return nobodyListens(ctx, port)
	}
	probing, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	switch _, err := tcp.FirstOpen(probing, loopback(port)); {
	case err == nil:
		return fmt.Sprintf("port %d is redirected to something that %s", port, strings.TrimPrefix(string(f), "which "))
	case tcp.IsTimeout(err):
		return fmt.Sprintf("nothing listens on port %d, and a packet filter drops connections to it", port)
	}
	return nobodyListens(ctx, port)
}

// serviceManager is the unit of systemd itself.
const serviceManager = "init.scope"

// examine asks what every epmd answers. It returns what is wrong with the one at asked, and where
// there is a better one.
func (e *Explainer) examine(ctx context.Context, asked netip.AddrPort) (f Fault, better string) {
	for _, at := range loopback(e.Port) {
		if !isEpmd(ctx, at) {
			continue
		}
		if at == asked {
			return e.Unwilling, ""
		}
		return Unanswered, fmt.Sprintf("an epmd answers on %v, but nodes look for it on %v first", at, asked)
	}
	return Unanswered, ""
}

func isEpmd(ctx context.Context, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	_, err := epmd.NewClient(at).Names(ctx)
	return err == nil
}

// nobodyListens says that nobody listens on loopback, and who does on other addresses.
func nobodyListens(ctx context.Context, port uint16) string {
	at, holder, err := firstListener(ctx, elsewhere(port))
	if err == nil && holder != nil {
		return fmt.Sprintf("nothing listens on port %d of the loopback interface, where nodes look; on %v %s does", port, at.Addr(), describe(holder))
	}
	start := "epmd -daemon"
	if port != epmd.DefaultPort {
		start = fmt.Sprintf("epmd -port %d -daemon", port)
	}
	return fmt.Sprintf("nothing listens on port %d (is epmd.socket enabled? start one with: %s)", port, start)
}

// elsewhere returns the port at the addresses of this host for others.
func elsewhere(port uint16) []netip.AddrPort {
	var all []netip.AddrPort
	prefixes, _ := netif.Prefixes() // without, there is less to tell
	for _, p := range prefixes {
		if p.Addr().IsGlobalUnicast() {
			all = append(all, netip.AddrPortFrom(p.Addr(), port))
		}
	}
	return all
}

// firstListener returns the first address at which somebody listens, and the listener. It is nil if
// nobody does.
func firstListener(ctx context.Context, places []netip.AddrPort) (netip.AddrPort, *owner.Listener, error) {
	for _, at := range places {
		if holder, err := owner.FindListener(ctx, at); holder != nil || err != nil {
			return at, holder, err
		}
	}
	return netip.AddrPort{}, nil, nil
}

// describe returns "nc (pid 812, user alice, unit session-3.scope)", or what is known of that.
func describe(l *owner.Listener) string {
	var known []string
	if l.PID != 0 {
		known = append(known, "pid "+strconv.Itoa(int(l.PID)))
	}
	name := strconv.FormatUint(uint64(l.UID), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	known = append(known, "user "+name)
	if l.Unit != "" {
		known = append(known, "unit "+l.Unit)
	}
	return screen.Printable(fmt.Sprintf("%s (%s)", cmp.Or(l.Program, "a process"), strings.Join(known, ", ")))
}
