//go:build attack

package attack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
)

// attackers are the things that an attacking process does until its standard input ends. Each says
// "ready" when it has begun.
var attackers = map[string]func(args []string) error{
	"names": names,
	"flood": flood,
}

// names registers args[1] nodes, whose names begin with args[2]. With args[0] "worst" none of their
// characters can be printed. With "tarpit" they take connections and say nothing. Names that are
// refused do not matter.
func names(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	port := 1
	if args[0] == "tarpit" {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close() // the kernel takes the connections
		port = ln.Addr().(*net.TCPAddr).Port
	}
	var conns []net.Conn
	for i := range count {
		name := fmt.Sprint(args[2], i)
		if args[0] == "worst" {
			name += strings.Repeat("\U000E0001", epmd.MaxNameChars-len(name))
		}
		conn, err := ask(epmd.AliveReq{Port: uint16(port), Type: registry.Normal, High: 6, Low: 5, Name: name})
		if err != nil {
			return err
		}
		var answer [6]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return fmt.Errorf("register node %d: %w", i, err)
		}
		if answer[1] == 0 {
			conns = append(conns, conn)
		} else {
			conn.Close()
		}
	}
	fmt.Println("ready", len(conns))
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
	return nil
}

// flood sends the request args[0] as fast as it can, over args[1] connections at a time. Every
// fourth is not read for a second.
func flood(args []string) error {
	requests := map[string]epmd.Request{
		"d": epmd.DumpReq{}, "n": epmd.NamesReq{}, "N": epmd.NodesReq{}, "W": epmd.WatchReq{},
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := range count {
		go func() {
			for n := i; ; n++ {
				floodOnce(requests[args[0]], n%4 != 0)
			}
		}()
	}
	fmt.Println("ready", count)
	io.Copy(io.Discard, os.Stdin)
	return nil
}

// floodOnce asks, and reads the answer for a second at most, if at all.
func floodOnce(req epmd.Request, reads bool) {
	conn, err := ask(req)
	if err != nil {
		time.Sleep(time.Millisecond)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if reads {
		io.Copy(io.Discard, conn)
	} else {
		time.Sleep(time.Second)
	}
}

// ask sends a request to our epmd. The caller reads what comes.
func ask(req epmd.Request) (net.Conn, error) { return askAt(at, req) }

func askAt(addr netip.AddrPort, req epmd.Request) (net.Conn, error) {
	frame, err := epmd.AppendFrame(nil, req)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("tcp", addr.String(), 10*time.Second)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
