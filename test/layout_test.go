package test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/goerlang/eclus/"

// mayImport lists for each package which of ours it may import. "…/" stands for cmd/epmd/internal/.
var mayImport = map[string]string{
	"registry":          "",
	"epmd":              "internal/message internal/netif internal/owner registry",
	"node/etf":          "",
	"node":              "node/etf",
	"avahi":             "registry internal/bus internal/netif internal/throttle",
	"internal/throttle": "",
	"dbus":              "registry internal/bus",
	"internal/bus":      "",
	"internal/message":  "",
	"internal/netif":    "",
	"internal/owner":    "",
	"systemd":           "internal/message internal/owner registry",
	"…/cookie":          "node",
	"…/daemon": "avahi dbus epmd internal/bus internal/message internal/netif internal/owner node registry systemd …/daemonlog " +
		"…/hosts …/identify …/journal …/listening …/neighbours …/nodeserver …/peers …/reach …/screen …/stockerror …/vouch",
	"…/daemonlog":  "systemd",
	"…/holders":    "internal/owner registry",
	"…/detach":     "epmd …/exit",
	"…/exit":       "",
	"…/explain":    "epmd internal/netif internal/owner …/screen …/tcp",
	"…/hosts":      "registry",
	"…/identify":   "internal/netif node registry …/holders",
	"…/journal":    "internal/message registry …/holders",
	"…/listening":  "internal/netif internal/owner registry",
	"…/listing":    "epmd internal/netif registry …/exit …/explain …/reach …/screen",
	"…/neighbours": "avahi epmd registry internal/netif internal/throttle …/reach",
	"…/nodeserver": "epmd node node/etf registry",
	"…/peek":       "node node/etf …/exit …/screen …/way",
	"…/peers":      "avahi epmd registry internal/netif internal/throttle …/stream …/told",
	"…/probe":      "node …/exit …/screen …/tcp …/way",
	"…/reach":      "epmd internal/throttle registry",
	"…/screen":     "",
	"…/stock":      "epmd …/exit …/explain …/screen",
	"…/stockerror": "",
	"…/stream":     "epmd internal/throttle registry …/told",

	"…/stream/streamtest": "epmd registry …/told",

	"…/tcp":   "epmd",
	"…/told":  "epmd internal/throttle registry",
	"…/vouch": "internal/throttle registry",
	"…/way":   "epmd internal/netif node registry …/cookie …/reach …/tcp",
}

// TestLayout holds that imports point inwards. registry and the distribution protocol know nothing
// of the rest. Only package main knows everybody. The tests and package main may import what they
// want.
func TestLayout(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, out)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(out), module, "")) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "cmd/epmd/internal/", "…/")), " ")
		if pkg == "cmd/epmd" || strings.HasPrefix(pkg, "test") {
			continue
		}
		allowed, ok := mayImport[pkg]
		if !ok {
			t.Errorf("mayImport says nothing of %s", pkg)
		}
		for _, imported := range strings.Fields(imports) {
			_, ours := mayImport[imported]
			if (ours || strings.HasPrefix(imported, "test/")) && !slices.Contains(strings.Fields(allowed), imported) {
				t.Errorf("%s imports %s", pkg, imported)
			}
		}
	}
}
