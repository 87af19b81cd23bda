package test

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/goerlang/eclus/"

// mayImport lists for each package which of ours it may import. "…/" stands for cmd/epmd/internal/.
var mayImport = map[string]string{
	"registry":          "",
	"epmd":              "internal/message internal/netif internal/owner internal/places registry",
	"node/etf":          "",
	"node":              "node/etf",
	"avahi":             "registry internal/bus internal/netif internal/places internal/throttle",
	"internal/throttle": "",
	"dbus":              "registry internal/bus",
	"internal/bus":      "",
	"internal/message":  "",
	"internal/netif":    "",
	"internal/owner":    "",
	"internal/places":   "",
	"systemd":           "internal/message internal/owner internal/places registry",
	"…/cookie":          "node",
	"…/daemon": "avahi dbus epmd internal/bus internal/message internal/netif internal/owner node registry systemd …/daemonlog " +
		"…/holders …/hosts …/identify …/journal …/listening …/named …/neighbours …/nodesd …/nodeserver …/orphans …/peers …/reach …/screen …/stockerror …/vouch",
	"…/daemonlog":  "systemd",
	"…/holders":    "internal/owner registry",
	"…/detach":     "epmd …/exit …/screen",
	"…/exit":       "",
	"…/explain":    "epmd internal/netif internal/owner …/screen …/tcp",
	"…/getent":     "…/cookie",
	"…/hosts":      "registry …/inotify …/openat",
	"…/identify":   "internal/netif internal/places node registry …/holders",
	"…/inotify":    "",
	"…/journal":    "internal/message registry …/holders",
	"…/listening":  "internal/netif internal/owner registry",
	"…/listing":    "epmd internal/netif registry …/exit …/explain …/reach …/screen …/table",
	"…/named":      "internal/netif",
	"…/nodesd":     "epmd registry …/inotify …/named",
	"…/neighbours": "avahi epmd registry internal/netif internal/throttle …/reach",
	"…/nodeserver": "epmd node node/etf registry",
	"…/openat":     "",
	"…/orphans":    "",
	"…/peek":       "node node/etf …/exit …/screen …/way",
	"…/peers":      "avahi epmd registry internal/netif internal/places internal/throttle …/records …/stream …/told",
	"…/probe":      "node …/exit …/screen …/tcp …/way",
	"…/reach":      "epmd internal/throttle registry",
	"…/records":    "avahi epmd …/told",
	"…/screen":     "",
	"…/stock":      "epmd …/exit …/explain …/screen",
	"…/stockerror": "",
	"…/stream":     "epmd internal/throttle registry …/told",

	"…/stream/streamtest": "epmd registry …/told",

	"…/table": "…/screen",
	"…/tcp":   "epmd",
	"…/told":  "epmd internal/places internal/throttle registry",
	"…/vouch": "internal/throttle registry",
	"…/way":   "epmd internal/netif node registry …/cookie …/getent …/reach …/tcp",

	"cmd/epmd-etcd/internal/address": "internal/netif",
	"cmd/epmd-etcd/internal/etcd":    "internal/throttle cmd/epmd-etcd/internal/hosts cmd/epmd-etcd/internal/state",
	"cmd/epmd-etcd/internal/hostid":  "",
	"cmd/epmd-etcd/internal/hosts":   "cmd/epmd-etcd/internal/address",
	"cmd/epmd-etcd/internal/state":   "internal/message",
}

// modules are the folders of modules, from the top of the tree.
var modules = []string{"", "cmd/epmd-etcd"}

// TestLayout holds that imports point inwards. registry and the distribution protocol know nothing
// of the rest. Only package main knows everybody. The tests and package main may import what they
// want.
func TestLayout(t *testing.T) {
	var all strings.Builder
	for _, folder := range modules {
		list := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
		list.Dir = filepath.Join("..", folder)
		out, err := list.Output()
		if err != nil {
			t.Fatalf("go list in %s: %v: %s", list.Dir, err, out)
		}
		all.Write(out)
	}
	for line := range strings.Lines(strings.ReplaceAll(all.String(), module, "")) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "cmd/epmd/internal/", "…/")), " ")
		if pkg == "cmd/epmd" || pkg == "cmd/epmd-etcd" || strings.HasPrefix(pkg, "test") {
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
