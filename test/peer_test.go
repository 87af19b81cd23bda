package test

import (
	"net/netip"
	"testing"

	"github.com/goerlang/eclus/epmd"
	"github.com/goerlang/eclus/registry"
	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// elsewhere is present and absent for nodes of a configured epmd.
func elsewhere(node string, there bool) condition {
	what := node + " is elsewhere"
	if !there {
		what = node + " is elsewhere no more"
	}
	return condition{what, func(known map[string]registry.Node) bool {
		return some(known, registry.Peer, node, []func(registry.Node) bool{reachable}) == there
	}}
}

// TestLANPeer has one host name the epmds of another by their addresses: ours and that of OTP.
// There is neither Avahi nor a bus.
func TestLANPeer(t *testing.T) {
	t.Parallel()
	need.Program(t, stockEpmd)
	hosts := addHosts(t, lan.ForTest(t, tools...), lan.HostOptions{NoBus: true}, "hosta", "hostb")
	a, b := hosts[0], hosts[1]
	const stockPort = 5001
	stock, err := a.Start(t.Context(), stockEpmd, "-port", "5001")
	wait.Must(t, err)
	defer func() { wait.Must(t, stock.Kill(wait.Soon(t))) }()
	a.start(t)
	address := a.Address().String()
	b.start(t, "-lan", "off", "-peer", address+","+address+":5001")
	seen := b.watch(t)

	node := a.register(t, "ours", 4000)
	seen.until(t, elsewhere("ours@hosta.local", true))
	a.listen(t, 4001)
	old := make(chan *epmd.Registration, 1)
	wait.Until(t, "the epmd of OTP takes a node", func() error {
		return a.inside(func() error {
			client := epmd.NewClient(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), stockPort))
			r, err := client.Register(wait.Soon(t), aliveReq("theirs", 4001))
			if err == nil {
				old <- r
			}
			return err
		})
	})
	defer func() { wait.Must(t, (<-old).Close()) }()
	seen.until(t, elsewhere("theirs@"+address, true))

	wait.Must(t, node.Close())
	seen.until(t, elsewhere("ours@hosta.local", false), elsewhere("theirs@"+address, true))
	a.register(t, "again", 4000)
	seen.until(t, elsewhere("again@hosta.local", true))
	a.stop(t)
	seen.until(t, elsewhere("again@hosta.local", false))
	a.start(t)
	a.register(t, "back", 4000)
	seen.until(t, elsewhere("back@hosta.local", true))
}
