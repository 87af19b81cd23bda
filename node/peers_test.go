package node

import (
	"context"
	"errors"
	"net"
	"testing"
)

// TestSettle has a peer prove the cookie while this node tries to connect to it. Only one of both
// handshakes goes on, even if both have come far.
func TestSettle(t *testing.T) {
	const lesser, greater = "a@here", "b@here"
	for _, tt := range []struct {
		name      string
		own, peer string
		named     bool // our name is sent
		comes     bool // our attempt leads to a connection then
		wins      bool // the peer's goes on
	}{
		{"of the greater name, not begun", greater, lesser, false, false, true},
		{"of the greater name, begun", greater, lesser, true, true, false},
		{"of the greater name, begun and refused", greater, lesser, true, false, true},
		{"of the lesser name, not begun", lesser, greater, false, false, true},
		{"of the lesser name, begun", lesser, greater, true, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p peers
			ctx, giveUp := context.WithCancelCause(t.Context())
			_, ours, err := p.dial(tt.peer, giveUp)
			if err != nil {
				t.Fatal(err)
			}
			if tt.named {
				if err := p.open(tt.peer, ours); err != nil {
					t.Fatal(err)
				}
			}
			settled := make(chan error, 1)
			go func() {
				_, err := p.settle(t.Context(), tt.own, tt.peer, OK)
				settled <- err
			}()
			if tt.named && tt.own > tt.peer {
				var conn *Conn
				if tt.comes {
					conn = connTo(t, tt.peer)
				}
				if !p.end(tt.peer, ours, conn) {
					t.Error("our attempt has given way")
				}
			}
			if err := <-settled; tt.wins && err != nil || !tt.wins && !errors.Is(err, errGaveWay) {
				t.Errorf("the peer's: %v; want that it goes on: %t", err, tt.wins)
			}
			if err := p.open(tt.peer, ours); !errors.Is(err, errGaveWay) {
				t.Errorf("ours may go on: %v", err)
			}
			if _, _, err := p.dial(tt.peer, giveUp); tt.wins && !errors.Is(err, errDialling) {
				t.Errorf("dialled beside the peer's: %v", err)
			}
			if gaveWay := context.Cause(ctx) != nil; gaveWay != (tt.wins && !(tt.named && tt.own > tt.peer)) {
				t.Errorf("ours was given up: %t", gaveWay)
			}
		})
	}
}

// connTo returns a connection with a node of that name that says nothing.
func connTo(t *testing.T, name string) *Conn {
	here, there := net.Pipe()
	us, err := newSelf("us@here", "", Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(here, us, them{name: name}).start()
	t.Cleanup(func() { c.Close(); there.Close() })
	return c
}
