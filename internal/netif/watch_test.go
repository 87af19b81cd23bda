package netif

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// inNetNS runs f in a network namespace of its own, which has a loopback interface only.
func inNetNS(t *testing.T, f func() error) {
	t.Helper()
	need.Root(t)
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its network namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			errs <- err
			return
		}
		errs <- f()
	}()
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// ip runs the command of that name in the caller's network namespace.
func ip(ctx context.Context, command string) error {
	out, err := exec.CommandContext(ctx, "sh", "-c", "ip "+command).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, out)
	}
	return nil
}

func TestLinkNews(t *testing.T) {
	inNetNS(t, func() error {
		conn, err := dialWatch()
		if err != nil {
			return err
		}
		defer conn.Close()
		known := make(linkNews)
		for _, tt := range []struct {
			command string
			news    bool
		}{
			{"link add d0 type veth peer name d1", true},
			{"link set d0 up", true},
			{"link set d0 alias new", false},
			{"addr add 198.51.100.1/24 dev d0", true},
			{"addr replace 198.51.100.1/24 dev d0 valid_lft 1000 preferred_lft 900", true},
			{"addr replace 198.51.100.1/24 dev d0 valid_lft 1000 preferred_lft 900", false},
			{"addr add 198.51.100.2/24 dev d0", true},
			{"addr del 198.51.100.2/24 dev d0", true},
			{"link set d0 address 02:00:00:00:00:01", false},
			{"link add br0 type bridge", true},
			{"link set d0 master br0", true},
			{"link set d0 nomaster", true},
			{"link del d0", true},
			{"link set lo down", false},
		} {
			if err := ip(t.Context(), tt.command); err != nil {
				return err
			}
			news, err := learnAll(conn, known)
			if err != nil {
				return err
			}
			if news != tt.news {
				t.Errorf("ip %s: news %v; want %v", tt.command, news, tt.news)
			}
		}
		return nil
	})
}

// learnAll learns all that the kernel has said by now. The kernel acknowledges a message that means
// nothing after what it has said before.
func learnAll(conn *netlink.Conn, known linkNews) (news bool, err error) {
	const flags = netlink.Request | netlink.Acknowledge
	if _, err := conn.Send(netlink.Message{Header: netlink.Header{Type: netlink.Noop, Flags: flags}}); err != nil {
		return false, err
	}
	for {
		messages, err := conn.Receive()
		if err != nil || len(messages) > 0 && messages[0].Header.Type == netlink.Error {
			return news, err
		}
		news = known.learn(messages) || news
	}
}

func TestWatch(t *testing.T) {
	inNetNS(t, func() error {
		w, err := Watch()
		if err != nil {
			return err
		}
		defer w.Close()
		for _, command := range []string{"link add d0 type veth peer name d1", "link set d0 up", "link del d0"} {
			if err := ip(t.Context(), command); err != nil {
				return err
			}
			select {
			case <-w.Changed():
			case <-time.After(wait.Patience):
				return fmt.Errorf("nothing told of: ip %s", command)
			}
		}
		return nil
	})
}
