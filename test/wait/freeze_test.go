package wait

import (
	"os/exec"
	"testing"
)

func TestFreeze(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	Must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if err := frozen(cmd.Process.Pid); err == nil {
		t.Error("a process that runs stands still")
	}
	Freeze(t, cmd.Process.Pid)
	if err := frozen(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
}
