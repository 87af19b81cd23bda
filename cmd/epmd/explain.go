package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/cmd/epmd/internal/interfaces"
	"github.com/goerlang/eclus/cmd/epmd/internal/screen"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/systemd"
)

const (
	lateAfter  = 3 * time.Second // an answer takes less than a millisecond
	searchTime = 2 * time.Second // for who holds a port: all processes are looked at
	probeTime  = time.Second     // for an answer to a question that every epmd answers
)

// fault is what was wrong with the epmd that was asked, said of who holds its port.
type fault string

const (
	unreachable fault = "which does not accept connections"
	unanswered  fault = "which does not answer as an epmd"
	late        fault = "which has not answered yet"
)

// explain writes on a line or two why the epmd of this host did not do what was asked, by what can be seen
// from outside: who listens on its port, if anybody. To ask whether one is there (-started) is no reason to
// write anything.
func explain(ctx context.Context, c config, f fault, stderr io.Writer) {
	if c.command == commandStarted {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	for _, line := range explanation(ctx, c, f) {
		fmt.Fprintln(stderr, "epmd: "+line)
	}
}

// explainIfLate calls ask, which waits for an answer, and if that takes long explains while it goes on. It
// returns when ask has.
func explainIfLate(ctx context.Context, c config, stderr io.Writer, ask func()) {
	waiting, answered := context.WithCancel(ctx)
	explained := make(chan struct{})
	go func() {
		defer close(explained)
		select {
		case <-waiting.Done():
		case <-time.After(lateAfter):
			explain(waiting, c, late, stderr)
		}
	}()
	ask()
	answered()
	<-explained
}

// loopback returns where an epmd of this host is looked for, the most likely first.
func loopback(port uint16) []netip.AddrPort {
	return []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	}
}

func explanation(ctx context.Context, c config, f fault) []string {
	at, holder, err := firstListener(ctx, loopback(c.port))
	switch {
	case err != nil:
		return []string{fmt.Sprintf("who holds port %d can't be told: %v", c.port, err)}
	case holder == nil:
		return []string{withoutListener(ctx, c.port, f)}
	}
	var better string
	if f == unanswered {
		f, better = examine(ctx, c, at)
	}
	lines := []string{fmt.Sprintf("port %d is held by %s, %s", c.port, describe(holder), f)}
	if better != "" {
		lines = append(lines, better)
	}
	if holder.Unit == serviceManager {
		lines = append(lines, "it waits for a service to take it over: see systemctl list-sockets")
	}
	return lines
}

// withoutListener says what is at a port on which nobody listens. It may have been an epmd that has ended since, or a
// packet filter that drops connections or leads them elsewhere.
func withoutListener(ctx context.Context, port uint16, f fault) string {
	if f == unreachable {
		return nobodyListens(ctx, port)
	}
	probing, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	switch _, err := firstOpen(probing, loopback(port)); {
	case err == nil:
		return fmt.Sprintf("port %d is redirected to something that %s", port, strings.TrimPrefix(string(f), "which "))
	case isTimeout(err):
		return fmt.Sprintf("nothing listens on port %d, and a packet filter drops connections to it", port)
	}
	return nobodyListens(ctx, port)
}

// serviceManager is the unit of systemd itself.
const serviceManager = "init.scope"

// examine asks what every epmd answers. It returns what is wrong with the one at that address, and where to
// find a better one.
func examine(ctx context.Context, c config, asked netip.AddrPort) (f fault, better string) {
	for _, at := range loopback(c.port) {
		if !isEpmd(ctx, at) {
			continue
		}
		if at == asked {
			return unwilling(c.command), ""
		}
		return unanswered, fmt.Sprintf("an epmd answers on %v, but nodes look for it on %v first", at, asked)
	}
	return unanswered, ""
}

func isEpmd(ctx context.Context, at netip.AddrPort) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	_, err := epmd.NewClient(at).Names(ctx)
	return err == nil
}

// unwilling returns what is wrong with an epmd that answers, but not this.
func unwilling(asked command) fault {
	switch asked {
	case commandNodes:
		return "an epmd that does not know -nodes, like the one of Erlang/OTP"
	case commandStop:
		return "an epmd that does not grant -stop: it takes one started with -relaxed_command_check"
	}
	return "an epmd that did not answer this"
}

// nobodyListens says that nobody listens where nodes look for an epmd, and who does on other addresses.
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

// elsewhere returns that port at the addresses of this host by which others reach it.
func elsewhere(port uint16) []netip.AddrPort {
	var all []netip.AddrPort
	prefixes, _ := interfaces.Prefixes() // without, there is less to tell
	for _, p := range prefixes {
		if p.Addr().IsGlobalUnicast() {
			all = append(all, netip.AddrPortFrom(p.Addr(), port))
		}
	}
	return all
}

// firstListener returns the first address at which somebody listens, and who; nil if nobody does.
func firstListener(ctx context.Context, places []netip.AddrPort) (netip.AddrPort, *systemd.Listener, error) {
	for _, at := range places {
		if holder, err := systemd.FindListener(ctx, at); holder != nil || err != nil {
			return at, holder, err
		}
	}
	return netip.AddrPort{}, nil, nil
}

// describe returns "nc (pid 812, user alice, unit session-3.scope)", as much of it as is known.
func describe(l *systemd.Listener) string {
	var known []string
	if l.PID != 0 {
		known = append(known, "pid "+strconv.Itoa(int(l.PID)))
	}
	uid := strconv.FormatUint(uint64(l.UID), 10)
	known = append(known, "user "+cmp.Or(make(userNames).of(l.UID), uid))
	if l.Unit != "" {
		known = append(known, "unit "+l.Unit)
	}
	return screen.Printable(fmt.Sprintf("%s (%s)", cmp.Or(l.Program, "a process"), strings.Join(known, ", ")))
}
