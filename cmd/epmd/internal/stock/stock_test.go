package stock

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/cmd/epmd/internal/exit"
	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// writes is what was written, a string for each write.
type writes []string

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, string(b))
	return len(b), nil
}

// TestPrintNamesAtOnce prints a list that comes in pieces to what is no terminal. OTP's own tests
// read it once.
func TestPrintNamesAtOnce(t *testing.T) {
	const list = "name a at port 41000\nname b at port 41001\n"
	answer := bufio.NewReader(iotest.OneByteReader(strings.NewReader("\x00\x00\x11\x11" + list)))
	var out writes
	if valid, err := printNames(answer, &out); !valid || err != nil {
		t.Errorf("%t, %v", valid, err)
	}
	if want := "epmd: up and running on port 4369 with data:\n" + list; len(out) != 1 || out[0] != want {
		t.Errorf("wrote %q; want %q at once", out, want)
	}
}

// TestPrintNamesRaw prints what could take over a terminal. Into a pipe it goes byte for byte, as
// with OTP's epmd.
func TestPrintNamesRaw(t *testing.T) {
	const list = "name a\x1b[31m\x00\xff\u009b\r at port 41000\n"
	answer := func() *bufio.Reader { return bufio.NewReader(strings.NewReader("\x00\x00\x11\x11" + list)) }
	var piped strings.Builder
	if _, err := printNames(answer(), &piped); err != nil || !strings.HasSuffix(piped.String(), "\n"+list) {
		t.Errorf("into a pipe: %q, %v", piped.String(), err)
	}
	master, slave := terminal(t)
	if _, err := printNames(answer(), slave); err != nil {
		t.Error(err)
	}
	defer slave.Close()
	shown := bufio.NewReader(master)
	_, err := shown.ReadString('\n') // the heading
	wait.Must(t, err)
	if got, err := shown.ReadString('\n'); got != "name a?[31m??? at port 41000\r\n" {
		t.Errorf("on a terminal: %q, %v", got, err)
	}
}

// terminal returns both ends of a terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	wait.Must(t, err)
	t.Cleanup(func() { master.Close() })
	wait.Must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	wait.Must(t, err)
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	wait.Must(t, err)
	return master, slave
}

// serve runs an epmd of ours that has a node, and returns its port.
func serve(t *testing.T, relaxed bool) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New("hosta.local", registry.OldNames)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	if _, err := reg.Register(registry.Node{Name: "a", Port: 41000, Type: registry.Normal}); err != nil {
		t.Fatal(err)
	}
	access, err := epmd.ParseAccess("any")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- epmd.NewServer(epmd.Config{Registry: reg, Relaxed: relaxed, Port: port, Access: access}).Serve(ctx, l.(*net.TCPListener))
	}()
	t.Cleanup(func() {
		cancel()
		<-served
	})
	return port
}

// say answers each connection with a text, however it asks, and returns the port.
func say(t *testing.T, text string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 64))
			io.WriteString(conn, text)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// asked is what is asked, and what comes of it. PORT stands for the port.
type asked struct {
	question       Question
	name           string
	stdout, stderr string // patterns, of all that is written
	status         int
}

func (a asked) check(t *testing.T, port uint16) {
	t.Helper()
	var stdout, stderr strings.Builder
	err := Ask(t.Context(), Options{Question: a.question, Name: a.name, Port: port, Stdout: &stdout, Stderr: &stderr})
	var status exit.Status
	if errors.As(err, &status); int(status) != a.status || err != nil && status == 0 {
		t.Errorf("%d %q: error %v; want exit status %d", a.question, a.name, err, a.status)
	}
	for got, want := range map[*strings.Builder]string{&stdout: a.stdout, &stderr: a.stderr} {
		want = "^" + strings.ReplaceAll(want, "PORT", strconv.Itoa(int(port))) + "$"
		if !regexp.MustCompile(want).MatchString(got.String()) {
			t.Errorf("%d %q: wrote %q; want %q", a.question, a.name, got, want)
		}
	}
}

const running = "epmd: up and running on port PORT with data:\n"

func TestAsk(t *testing.T) {
	port := serve(t, true)
	for _, a := range []asked{
		{Names, "", running + "name a at port 41000\n", "", 0},
		{Dump, "", running + "active name     <a> at port 41000, fd = .*\n\x00", "", 0},
		{Started, "", "", "", 0},
		{Stop, "b", "NOEXIST\n", "", 0},
		{Stop, strings.Repeat("b", 1001), "epmd: Name too long!", "", 1},
		{Kill, "", "Killed\n", "", 0},
	} {
		a.check(t, port)
	}
}

// TestAskStrict asks an epmd that may refuse.
func TestAskStrict(t *testing.T) {
	port := serve(t, false)
	asked{Kill, "", "Killing not allowed - living nodes in database.\n", "", 1}.check(t, port)
	asked{Stop, "a", "epmd: local epmd responded with <>\n", "epmd: port PORT is held by stock.test .*, an epmd that does not grant -stop.*\n", 1}.check(t, port)
}

// TestAskOther asks what is no epmd.
func TestAskOther(t *testing.T) {
	const explained = "epmd: port PORT is held by stock.test .pid .*, which does not answer as an epmd\n"
	port := say(t, "HTTP/1.1 400 Bad Request\r\n")
	for _, a := range []asked{
		{Names, "", "epmd: up and running on port 1213486160 with data:\n/1.1 400 Bad Request\r\n", explained, 0},
		{Started, "", "", "", 0},
		{Kill, "", "Killing not allowed - living nodes in database.\n", explained, 1},
		{Stop, "a", "HTTP/1.\n", explained, 0},
	} {
		a.check(t, port)
	}
	port = say(t, "")
	for _, a := range []asked{
		{Names, "", "epmd: no response from local epmd\n", explained, 1},
		{Kill, "", "epmd: (local epmd responded with <>|failed to read answer from local epmd)\n", explained, 1},
	} {
		a.check(t, port)
	}
}

// TestAskNobody asks where nobody listens.
func TestAskNobody(t *testing.T) {
	asked{Names, "", "", "epmd: Cannot connect to local epmd\nepmd: nothing listens on port 1 .*\n", 1}.check(t, 1)
	asked{Started, "", "", "", 1}.check(t, 1)
}

// TestNamesWedged asks what takes connections and says nothing. It takes 2 s, for a health check.
func TestNamesWedged(t *testing.T) {
	need.Time(t)
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	wait.Must(t, err)
	defer l.Close()
	begin := time.Now()
	asked{Names, "", "epmd: no response from local epmd\n", "epmd: port PORT is held by stock.test .*, which has not answered yet\n", 1}.
		check(t, l.Addr().(*net.TCPAddr).AddrPort().Port())
	if took := time.Since(begin); took < namesTime {
		t.Errorf("given up after %v; want %v", took, namesTime)
	}
}
