package test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestLayout holds that imports point inwards: the registry and the distribution protocol know nothing of the rest,
// a package of the command imports what it is about, and only package main knows everybody.
func TestLayout(t *testing.T) {
	may := map[string][]string{
		"eclus/registry": nil,
		"eclus/node":     {"eclus/node/etf"},
		"eclus/node/etf": nil,
		"eclus/epmd":     {"eclus/registry"},
		"eclus/avahi":    {"eclus/registry"},
		"eclus/systemd":  {"eclus/registry"},
		"eclus/dbus":     {"eclus/registry"},

		"eclus/cmd/epmd/internal/cookie": {"eclus/node"},
		"eclus/cmd/epmd/internal/daemon": {"eclus/avahi", "eclus/cmd/epmd/internal/daemonlog", "eclus/cmd/epmd/internal/hosts",
			"eclus/cmd/epmd/internal/identify", "eclus/cmd/epmd/internal/interfaces", "eclus/cmd/epmd/internal/journal",
			"eclus/cmd/epmd/internal/listening", "eclus/cmd/epmd/internal/nodeserver", "eclus/cmd/epmd/internal/reach",
			"eclus/cmd/epmd/internal/stockerror", "eclus/dbus", "eclus/epmd", "eclus/node", "eclus/registry", "eclus/systemd"},
		"eclus/cmd/epmd/internal/stockerror": nil,
		"eclus/cmd/epmd/internal/daemonlog":  {"eclus/systemd"},
		"eclus/cmd/epmd/internal/holders":    {"eclus/registry", "eclus/systemd"},
		"eclus/cmd/epmd/internal/hosts":      {"eclus/registry"},
		"eclus/cmd/epmd/internal/interfaces": nil,
		"eclus/cmd/epmd/internal/identify":   {"eclus/cmd/epmd/internal/holders", "eclus/node", "eclus/registry"},
		"eclus/cmd/epmd/internal/journal":    {"eclus/cmd/epmd/internal/holders", "eclus/registry"},
		"eclus/cmd/epmd/internal/listening":  {"eclus/avahi", "eclus/registry", "eclus/systemd"},
		"eclus/cmd/epmd/internal/nodeserver": {"eclus/epmd", "eclus/node", "eclus/node/etf", "eclus/registry"},
		"eclus/cmd/epmd/internal/reach":      {"eclus/epmd", "eclus/registry"},
	}
	for pkg, allowed := range may {
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("list %s: %v: %s", pkg, err, out)
		}
		for _, imported := range strings.Fields(string(out)) {
			if strings.HasPrefix(imported, "eclus/") && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s", pkg, imported)
			}
		}
	}
}
