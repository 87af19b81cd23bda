package test
import "testing"
func TestSystemdX(t *testing.T) {
	s := supervise(t)
	s.startErl(t, 2)
	for range 5 {
	out, err := s.Output(t.Context(), "sh", "-c", "sleep 0.3; epmd -nodes; epmd -nodes -json; systemctl status erl1; grep -i cap /proc/$(systemctl show -P MainPID epmd)/status; ls -l /proc/$(systemctl show -P MainPID erl1)/fd | head -4; cat /proc/1/cgroup /proc/$(systemctl show -P MainPID erl1)/cgroup")
	t.Log(out, err)
	}
	t.Fail()
}
