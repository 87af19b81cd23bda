package epmd

import (
	"sync"
	"weak"

	"github.com/goerlang/eclus/registry"
)

// snapshot is all nodes, as they were at one time. It never changes. Its lines are rendered a
// piece at a time, when a stream needs that piece. Other streams get the same bytes while anybody
// sends them, and until the next garbage collection. So a snapshot costs little memory, however
// long its lines are and however slowly they are read.
type snapshot struct {
	pieces []piece
	nodes  int
	at     *chunk // the end of the chunk that it shows, if it is one of a feed
}

// piece is some nodes of a snapshot.
type piece struct {
	nodes []toldNode

	mu       sync.Mutex
	rendered weak.Pointer[[]byte]
}

// newSnapshot returns a snapshot of these nodes, in that order.
func newSnapshot(nodes []toldNode, at *chunk) *snapshot {
	s := &snapshot{nodes: len(nodes), at: at}
	begin, size := 0, 0
	for i, t := range nodes {
		size += t.size()
		if size > chunkBytes || i == len(nodes)-1 {
			s.pieces = append(s.pieces, piece{nodes: nodes[begin : i+1]})
			begin, size = i+1, 0
		}
	}
	return s
}

// programsSnapshot returns a snapshot of nodes as programs are told them, of no feed.
func programsSnapshot(nodes []*registry.Node) *snapshot {
	told := make([]toldNode, len(nodes))
	for i, n := range nodes {
		told[i].node = n
	}
	return newSnapshot(told, nil)
}

// toldNode is a node as streams know it.
type toldNode struct {
	node *registry.Node
	line string // empty: as appendNode renders it
}

// size returns about how long the line is. Of a name that can't be printed, each byte takes three.
func (t toldNode) size() int {
	if t.line != "" {
		return len(t.line)
	}
	return 200 + 3*(len(t.node.Name)+len(t.node.Node)+len(t.node.Host))
}

// lines returns the lines of a piece.
func (p *piece) lines() *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.rendered.Value(); b != nil {
		return b
	}
	b := new([]byte)
	for _, t := range p.nodes {
		if t.line != "" {
			*b = append(*b, t.line...)
		} else {
			*b = appendNode(*b, NodeKnown, t.node)
		}
	}
	p.rendered = weak.Make(b)
	return b
}
