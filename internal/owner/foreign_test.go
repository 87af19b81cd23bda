package owner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestForeign has processes that are called as OTP's emulator is, and others.
func TestForeign(t *testing.T) {
	dir := t.TempDir()
	start := func(name string) string {
		path := filepath.Join(dir, name)
		sleep, err := exec.LookPath("sleep")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(sleep, path); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		return strconv.Itoa(cmd.Process.Pid)
	}
	beam, old, python := start("beam.smp"), start("beam"), start("python3")
	for _, tt := range []struct {
		name string
		pids []string
		want bool
	}{
		{"none", nil, false},
		{"emulator", []string{beam}, false},
		{"emulator without threads", []string{old}, false},
		{"other", []string{python}, true},
		{"both", []string{python, beam}, false},
		{"in another PID namespace", []string{"0"}, false},
		{"other and unknown", []string{"0", python}, true},
	} {
		if got := isForeign(tt.pids); got != tt.want {
			t.Errorf("%s: foreign: %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := processesOf(dir); got != nil {
		t.Errorf("processes of what is no control group: %v", got)
	}
}
