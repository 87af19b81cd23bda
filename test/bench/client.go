package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// client makes requests of one daemon at as little cost as can be. Each has a connection of its
// own. It is for one goroutine.
type client struct {
	addr  unix.SockaddrInet4
	eager bool // sends its request before the daemon can see the connection
	buf   [1 << 16]byte
}

// answerTimeout is how long an answer may take before it counts as none.
const answerTimeout = 5 * time.Second

func newClient(port int, eager bool) *client {
	return &client{addr: unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}, eager: eager}
}

// dial returns a connected, blocking socket.
func (c *client) dial() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set time-out: %w", err)
	}
	if err := c.connect(fd); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// connect goes on until the connection stands. A signal, of which Go's runtime sends some to
// itself, does not end the attempt.
func (c *client) connect(fd int) error {
	err := unix.Connect(fd, &c.addr)
	for err == unix.EINTR || err == unix.EALREADY {
		if err = unix.Connect(fd, &c.addr); err == unix.EISCONN {
			return nil
		}
	}
	return err
}

// ask dials and sends a request. Between the two it gives way, so that the daemon sees the
// connection before the request. So does a daemon whose clients are on other cores or hosts.
func (c *client) ask(frame []byte) (int, error) {
	fd, err := c.dial()
	if err != nil {
		return -1, err
	}
	if !c.eager {
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
	if _, err := unix.Write(fd, frame); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("send: %w", err)
	}
	return fd, nil
}

// finish reads an answer to the end of the connection and closes it. An answer of fewer than least
// bytes, or none in time, is an error.
func (c *client) finish(fd, least int) error {
	defer unix.Close(fd)
	total := 0
	for {
		n, err := c.read(fd)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		total += n
	}
	if total < least {
		return fmt.Errorf("answer of %d bytes, not %d or more", total, least)
	}
	return nil
}

// read reads once into buf, whatever signals come.
func (c *client) read(fd int) (int, error) {
	for {
		n, err := unix.Read(fd, c.buf[:])
		if err == nil {
			return n, nil
		}
		if err != unix.EINTR {
			return 0, fmt.Errorf("read answer: %w", err)
		}
	}
}

// exchange is ask and finish.
func (c *client) exchange(r request) error {
	fd, err := c.ask(r.frame)
	if err != nil {
		return err
	}
	return c.finish(fd, r.least)
}

// errRefused tells that a node was not registered.
var errRefused = errors.New("registration refused")

// register registers a node and returns the connection that holds it.
func (c *client) register(name string) (int, error) {
	fd, err := c.ask(aliveRequest(name))
	if err != nil {
		return -1, err
	}
	if err := c.registered(fd); err != nil {
		return -1, fmt.Errorf("register %s: %w", name, err)
	}
	return fd, nil
}

// registered reads the answer to ALIVE2_REQ. It closes the connection if that is a refusal.
func (c *client) registered(fd int) error {
	n, err := c.read(fd)
	if err == nil && (n != 6 || c.buf[1] != 0) {
		err = fmt.Errorf("%w: answer % x", errRefused, c.buf[:n])
	}
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// registerMany registers nodes named n0, n1 and so on. It returns the connections that hold them,
// as many as there are.
func (c *client) registerMany(count int) ([]int, error) {
	fds := make([]int, 0, count)
	for i := range count {
		fd, err := c.register(fmt.Sprintf("n%d", i))
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// request is what a load asks for.
type request struct {
	frame []byte
	least int // bytes in the answer
}

// load is what came of asking for some time.
type load struct {
	answered  int
	took      time.Duration
	latencies []float64 // seconds from connect to the end of the answer, if one was asked at once
}

// run asks for d, one request after the other in turn. atOnce of them are under way all the time.
func (c *client) run(requests []request, atOnce int, d time.Duration) (load, error) {
	var l load
	var open []int
	begin := time.Now()
	for i := 0; ; i++ {
		asked := time.Now()
		if asked.Sub(begin) >= d {
			break
		}
		fd, err := c.ask(requests[i%len(requests)].frame)
		if err != nil {
			closeAll(open)
			return l, err
		}
		if open = append(open, fd); len(open) < atOnce {
			continue
		}
		if err := c.finish(open[0], requests[l.answered%len(requests)].least); err != nil {
			closeAll(open[1:])
			return l, err
		}
		open = open[1:]
		l.answered++
		if atOnce == 1 {
			l.latencies = append(l.latencies, time.Since(asked).Seconds())
		}
	}
	for i, fd := range open {
		if err := c.finish(fd, requests[l.answered%len(requests)].least); err != nil {
			closeAll(open[i+1:])
			return l, err
		}
		l.answered++
	}
	l.took = time.Since(begin)
	return l, nil
}

// framed puts a request's length before it.
func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}

// nodePort is the distribution port of all nodes.
const nodePort = 0xa111

// aliveRequest is that of a node of OTP 25.
func aliveRequest(name string) []byte {
	body := []byte{'x', nodePort >> 8, nodePort & 0xff, 77, 0, 0, 6, 0, 5, 0, byte(len(name))}
	return framed(append(append(body, name...), 0, 0))
}

// lookupRequest asks for a registered node.
func lookupRequest(name string) request {
	return request{framed([]byte("z" + name)), 14 + len(name)}
}

// lookups asks for all nodes of registerMany(count), in an order that goes to and fro among them.
func lookups(count int) []request {
	requests := make([]request, count)
	for i := range requests {
		requests[i] = lookupRequest(fmt.Sprintf("n%d", i*7919%count))
	}
	return requests
}

var namesRequest = request{framed([]byte("n")), 4}
