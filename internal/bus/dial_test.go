package bus

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/goerlang/eclus/test/wait"
)

// TestDialReadsAhead reads byte by byte what was sent at once. All of it is there after the first
// byte, though nobody could read the connection any more.
func TestDialReadsAhead(t *testing.T) {
	const sent = "a message and another one"
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	wait.Must(t, err)
	defer l.Close()
	client, err := Address{name: "test", sockets: []string{socket}}.Dial(wait.Soon(t))
	wait.Must(t, err)
	defer client.Close()
	bus, err := l.Accept()
	wait.Must(t, err)
	defer bus.Close()
	_, err = io.WriteString(bus, sent)
	wait.Must(t, err)

	var first [1]byte
	_, err = io.ReadFull(client, first[:])
	wait.Must(t, err)
	wait.Must(t, client.Close())
	rest := make([]byte, len(sent)-1)
	if _, err := io.ReadFull(client, rest); err != nil || string(first[:])+string(rest) != sent {
		t.Errorf("read %q, %v; want %q", string(first[:])+string(rest), err, sent)
	}
}
