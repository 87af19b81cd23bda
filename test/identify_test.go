package test

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/test/wait"
)

// TestSystemdIdentify has programs register as nodes of OTP do. epmd may not look at their
// processes. One program is alone in its control group. Another has a process there with the name
// of OTP's emulator.
func TestSystemdIdentify(t *testing.T) {
	s := supervise(t)
	s.systemctl(t, "start", unit)
	s.output(t, "cp", "/bin/sleep", "/run/beam.smp")
	var asked [2]atomic.Int32
	came := make(chan struct{}, 100)
	for i, program := range []string{"sleep", "/run/beam.smp"} {
		var ln net.Listener
		wait.Must(t, s.inside(func() (err error) {
			ln, err = net.Listen("tcp4", "127.0.0.1:0")
			return err
		}))
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
				asked[i].Add(1)
				came <- struct{}{}
			}
		}()
		name := fmt.Sprint("program", i)
		frame, err := epmd.AppendFrame(nil, aliveReq(name, uint16(ln.Addr().(*net.TCPAddr).Port)))
		wait.Must(t, err)
		var bytes strings.Builder
		for _, b := range frame {
			fmt.Fprintf(&bytes, `\x%02x`, b)
		}
		s.output(t, "systemd-run", "--collect", "--unit="+name, "bash", "-c",
			fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/4369; printf '%s' >&3; exec %s 600", bytes.String(), program))
		s.awaitJournal(t, "node up.*"+name, "-o", "json")
	}
	select {
	case <-came:
	case <-wait.Soon(t).Done():
		t.Fatal("nobody was asked")
	}
	if asked[0].Load() != 0 || asked[1].Load() == 0 {
		t.Errorf("asked %d and %d times; want the latter alone", asked[0].Load(), asked[1].Load())
	}
}
