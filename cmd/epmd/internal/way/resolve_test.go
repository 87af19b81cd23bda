package way

import "testing"

func TestParseHosts(t *testing.T) {
	const out = "198.51.100.12   STREAM hostb.local\n198.51.100.12   DGRAM  \nfe80::1%eth0 STREAM \nnonsense\n\n"
	got := parseHosts(out)
	if len(got) != 2 || got[0].String() != "198.51.100.12" || got[1].String() != "fe80::1%eth0" {
		t.Errorf("got %v", got)
	}
}
