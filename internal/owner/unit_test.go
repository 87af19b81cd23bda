package owner

import (
	"strings"
	"testing"
)

var cgroupTests = []struct{ name, text, want string }{
	{"version 2", "0::/system.slice/rabbitmq-server.service\n", "rabbitmq-server.service"},
	{"version 2, no newline", "0::/system.slice/a.service", "a.service"},
	{"user's", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.scope\n", "app-foo.scope"},
	{"user's, no unit of its own", "0::/user.slice/user-1000.slice/user@1000.service/app.slice\n", "user@1000.service"},
	{"login", "0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"},
	{"delegated", "0::/system.slice/a.service/supervisor/b\n", "a.service"},
	{"container", "0::/system.slice/docker-0123.scope\n", "docker-0123.scope"},
	{"host in a container", "0::/machine.slice/x.scope/payload/system.slice/ejabberd.service\n", "ejabberd.service"},
	{"instance, escaped", `0::/system.slice/system-a.slice/a@b\x2dc:d.service` + "\n", `a@b\x2dc:d.service`},
	{"could be the kernel's", "0::/system.slice/_cgroup.service\n", "cgroup.service"},
	{"ending", "0::/system.slice/a.service (deleted)\n", "a.service"},
	{"outside of the namespace", "0::/../../a.service\n", "a.service"},
	{"hybrid", "12:pids:/system.slice/b.service\n1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", "a.service"},
	{"hybrid, version 2 without units", "1:name=systemd:/system.slice/a.service\n0::/\n", "a.service"},
	{"version 1", "2:cpu,cpuacct:/x.service\n1:name=systemd:/user.slice/session-1.scope\n", "session-1.scope"},
	{"version 1 without systemd", "9:name=elogind:/a.service\n4:memory:/b.service\n", ""},
	{"none", "0::/\n", ""},
	{"slice only", "0::/system.slice\n", ""},
	{"other kinds", "0::/init.slice/a.mount/b.socket/c.swap\n", ""},
	{"no name", "0::/a.slice/.service\n", ""},
	{"not a unit's name", "0::/a.service/b\x1b[2J.service\n", "a.service"},
	{"too long", "0::/" + strings.Repeat("x", 256) + ".service\n", ""},
	{"empty", "", ""},
	{"rubbish", "::\n0:\nname=systemd\n0::\n", ""},
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range cgroupTests {
		if got := parseCgroup(tt.text); got != tt.want {
			t.Errorf("%s: %q is in unit %q; want %q", tt.name, tt.text, got, tt.want)
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	for _, tt := range cgroupTests {
		f.Add(tt.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if unit := parseCgroup(text); unit != "" && (!isUnitName(unit) || !strings.Contains(text, unit)) {
			t.Errorf("%q: unit %q", text, unit)
		}
	})
}
