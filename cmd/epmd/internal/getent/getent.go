// Package getent resolves host names as the programs of this host do.
//
// It runs getent(1), which goes by /etc/nsswitch.conf and so finds multicast DNS.
package getent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/goerlang/eclus/cmd/epmd/internal/cookie"
)

// Resolve returns the addresses of a host, in the system's order. Without getent it asks Go's
// resolver, which knows no multicast DNS. It blocks until there is an answer or ctx ends.
func Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	getent, err := exec.LookPath("getent")
	if err != nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	cmd := exec.CommandContext(ctx, getent, "ahosts", "--", host)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, cookie.Variable+"=") })
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if addrs := parseHosts(string(out)); len(addrs) > 0 {
		return addrs, nil
	}
	var failed *exec.ExitError
	if err == nil || errors.As(err, &failed) {
		err = errors.New("no address is known")
	}
	return nil, fmt.Errorf("resolve %q: %w", host, err)
}

// parseHosts reads what getent prints: a line for each kind of socket, which an address begins.
func parseHosts(out string) []netip.Addr {
	var addrs []netip.Addr
	for line := range strings.Lines(out) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if addr, err := netip.ParseAddr(word); err == nil && !slices.Contains(addrs, addr.Unmap()) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
