package avahi

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goerlang/eclus/registry"
)

// foundEPMDs keeps what it is told.
type foundEPMDs map[Place]EPMD

func (f foundEPMDs) Found(at Place, e EPMD) { f[at] = e }
func (f foundEPMDs) Gone(at Place)          { delete(f, at) }

// TestFindingsDoubt has avahi-daemon go and come back. One of two nodes and one of two epmds
// are found again.
func TestFindingsDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg, epmds := registry.New("hostb.local", 0), make(foundEPMDs)
		f := newFindings(reg, epmds)
		find := func(label string) {
			at := Place{2, 0, label}
			n := registry.Node{Node: label + "@hosta.local", Name: label, Host: "hosta.local", Port: 1}
			if err := f.nodes.See(at, n); err != nil {
				t.Error(err)
			}
			f.found(at, EPMD{Host: "hosta.local", Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4369")}})
		}
		want := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if _, nodes := reg.Counts(); nodes != want || len(epmds) != want {
				t.Errorf("%s: %d neighbours, %d epmds; want %d", when, nodes, len(epmds), want)
			}
		}
		find("a")
		find("b")
		f.doubt(5 * time.Second)
		time.Sleep(4 * time.Second)
		f.doubt(3 * time.Second) // Avahi is back
		find("a")
		time.Sleep(2 * time.Second)
		want("while in doubt", 2)
		time.Sleep(2 * time.Second)
		want("after the doubt", 1)
		time.Sleep(time.Hour)
		want("long after", 1)
		f.gone(Place{2, 0, "none"})
		delete(epmds, Place{2, 0, "a"})
		if find("a"); len(epmds) != 0 {
			t.Error("the same epmd was found again")
		}
		f.found(Place{2, 0, "a"}, EPMD{Host: "hosta.local", Version: "2"})
		want("with another version", 1)
		f.close()
		want("at the end", 0)
	})
}
