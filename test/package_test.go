package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/lan"
	"github.com/goerlang/eclus/test/machine"
	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// sources returns a copy of the sources, for what builds in them.
func sources(t *testing.T) string {
	t.Helper()
	need.Program(t, "make")
	dir := t.TempDir()
	wait.Must(t, copySources(dir))
	return dir
}

func copySources(dir string) error {
	copying := exec.Command("sh", "-c", `tar -C .. --exclude=./.git --exclude=./build -cf - . | tar -C "$1" -xf -`, "sh", dir)
	if out, err := copying.CombinedOutput(); err != nil {
		return fmt.Errorf("copy sources: %w\n%s", err, out)
	}
	return nil
}

// runMake makes a target in a copy of the sources.
func runMake(t *testing.T, dir string, args ...string) {
	t.Helper()
	need.Program(t, "make")
	if out, err := exec.Command("make", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("make %q: %v\n%s", args, err, out)
	}
}

// packaged makes the package of a version and returns its path.
func packaged(t *testing.T, version string) string {
	t.Helper()
	need.Program(t, "make")
	need.Program(t, "dpkg-deb")
	dir := builtOnce(t, "deb-"+version, func(dir string) error {
		if err := errors.Join(os.Mkdir(dir, 0o755), copySources(dir)); err != nil {
			return err
		}
		out, err := exec.Command("make", "-C", dir, "deb-epmd", "VERSION="+version).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("make deb: %w\n%s", err, out)
		}
		return err
	})
	found, err := filepath.Glob(filepath.Join(dir, "build", "eclus_"+version+"_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %q, %v; want one of version %s", found, err, version)
	}
	return found[0]
}

// outputOf returns what a command prints, which must succeed.
func outputOf(t *testing.T, name string, args ...string) string {
	t.Helper()
	need.Program(t, name)
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// filesBelow lists the files of a folder.
func filesBelow(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	wait.Must(t, fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func TestUnitsVerify(t *testing.T) {
	need.Program(t, "systemd-analyze")
	runtimeDir := t.TempDir()
	for _, tt := range []struct{ manager, units string }{{"--system", "../systemd"}, {"--user", "../systemd/user"}} {
		verify := exec.Command("systemd-analyze", "verify", tt.manager, "--man=no",
			filepath.Join(tt.units, "epmd.socket"), filepath.Join(tt.units, "epmd.service"))
		verify.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+runtimeDir)
		if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("units in %s: %v\n%s", tt.units, err, out)
		}
	}
}

func TestUnitExposure(t *testing.T) {
	const limit = 15 // tenths
	need.Program(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes",
		fmt.Sprint("--threshold=", limit), "../systemd/epmd.service").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", regexp.MustCompile("Overall exposure.*").Find(out))
}

func TestManPage(t *testing.T) {
	const page = "../cmd/epmd/epmd.1"
	if out := outputOf(t, "groff", "-man", "-ww", "-z", page); out != "" {
		t.Errorf("groff says\n%s", out)
	}
	text, err := os.ReadFile(page)
	wait.Must(t, err)
	for _, flag := range usageFlags(t) {
		if !regexp.MustCompile(`\\` + flag + `\b`).Match(text) {
			t.Errorf("%s is in the usage only", flag)
		}
	}
}

func TestMakeInstall(t *testing.T) {
	dir, root := sources(t), t.TempDir()
	runMake(t, dir, "install", "DESTDIR="+root, "PREFIX=/opt/e", "VERSION=1.0.0")
	got := slices.DeleteFunc(filesBelow(t, root), func(path string) bool {
		return strings.Contains(path, "/doc/eclus/") || strings.Contains(path, "/catalog/")
	})
	want := []string{
		"opt/e/bin/epmd",
		"opt/e/lib/systemd/system/epmd.service",
		"opt/e/lib/systemd/system/epmd.socket",
		"opt/e/lib/systemd/user/epmd.service",
		"opt/e/lib/systemd/user/epmd.socket",
		"opt/e/lib/sysusers.d/eclus.conf",
		"opt/e/lib/tmpfiles.d/eclus.conf",
		"opt/e/share/dbus-1/interfaces/org.erlang.Epmd.Manager.xml",
		"opt/e/share/dbus-1/interfaces/org.erlang.Epmd.Node.xml",
		"opt/e/share/dbus-1/services/org.erlang.Epmd.service",
		"opt/e/share/dbus-1/system-services/org.erlang.Epmd.service",
		"etc/dbus-1/system.d/org.erlang.Epmd.conf",
		"opt/e/share/bash-completion/completions/epmd",
		"opt/e/share/fish/vendor_completions.d/epmd.fish",
		"opt/e/share/man/man1/epmd.1",
		"opt/e/share/zsh/site-functions/_epmd",
	}
	for _, file := range applicationFiles {
		want = append(want, "usr/lib/erlang/lib/eclus-"+newestEntry(t)+"/ebin/"+file)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("installed %q; want %q", got, want)
	}
	for _, manager := range []string{"system", "user"} {
		text, err := os.ReadFile(filepath.Join(root, "opt/e/lib/systemd", manager, "epmd.service"))
		wait.Must(t, err)
		if !strings.Contains(string(text), "\nExecStart=/opt/e/bin/epmd -systemd\n") {
			t.Errorf("epmd.service of %s does not run what was installed:\n%s", manager, text)
		}
	}
	if out := outputOf(t, filepath.Join(root, "opt/e/bin/epmd"), "-version"); !strings.Contains(out, "1.0.0") {
		t.Errorf("version %q; want 1.0.0", out)
	}
}

func TestMakeDebVersion(t *testing.T) {
	need.Program(t, "dpkg-deb")
	need.Program(t, "dpkg")
	dir := sources(t)
	root, out := t.TempDir(), t.TempDir()
	var made []string
	for _, version := range []string{"1.2.0-dev", "1.2.0-dev+0a1b2c3-dirty", "1.2.0-rc1", "1.2.0", "1.2.0-5-g0a1b2c3", "1.2.1-dev", "1.2.1"} {
		wait.Must(t, os.RemoveAll(root))
		wait.Must(t, os.MkdirAll(filepath.Join(root, "usr/share/man/man1"), 0o755))
		wait.Must(t, os.WriteFile(filepath.Join(root, "usr/share/man/man1/epmd.1"), nil, 0o644))
		deb := strings.TrimSpace(outputOf(t, filepath.Join(dir, "debian/build"), root, version, "arm64", out))
		made = append(made, strings.TrimSpace(outputOf(t, "dpkg-deb", "-f", deb, "Version")))
		if arch := strings.TrimSpace(outputOf(t, "dpkg-deb", "-f", deb, "Architecture")); arch != "arm64" {
			t.Errorf("architecture %q; want arm64", arch)
		}
	}
	for i, version := range made {
		outputOf(t, "dpkg", "--validate-version", version)
		if i > 0 {
			outputOf(t, "dpkg", "--compare-versions", made[i-1], "lt", version)
		}
	}
}

func TestMakeDeb(t *testing.T) {
	deb := packaged(t, "1.0.0")
	contents := outputOf(t, "dpkg-deb", "-c", deb)
	for _, path := range []string{
		"usr/bin/epmd",
		"usr/lib/systemd/system/epmd.socket",
		"usr/lib/systemd/system/epmd.service",
		"usr/lib/systemd/user/epmd.socket",
		"usr/lib/systemd/user/epmd.service",
		"usr/lib/systemd/catalog/epmd.catalog",
		"usr/lib/sysusers.d/eclus.conf",
		"usr/lib/tmpfiles.d/eclus.conf",
		"usr/share/dbus-1/system.d/org.erlang.Epmd.conf",
		"usr/share/dbus-1/system-services/org.erlang.Epmd.service",
		"usr/share/dbus-1/services/org.erlang.Epmd.service",
		"usr/share/dbus-1/interfaces/org.erlang.Epmd.Manager.xml",
		"usr/share/dbus-1/interfaces/org.erlang.Epmd.Node.xml",
		"usr/share/bash-completion/completions/epmd",
		"usr/share/fish/vendor_completions.d/epmd.fish",
		"usr/share/man/man1/epmd.1.gz",
		"usr/share/zsh/vendor-completions/_epmd",
		"usr/share/doc/eclus/copyright",
		"usr/share/doc/eclus/README.md",
		"usr/share/doc/eclus/CHANGELOG.md",
		"usr/share/doc/eclus/SECURITY.md",
		"usr/share/doc/eclus/CONTRIBUTING.md",
		"usr/share/doc/eclus/docs/systemd.md",
		"usr/share/doc/eclus/examples/epmd.socket.d/loopback-only.conf",
		"usr/share/doc/eclus/examples/epmd.service.d/preserve.conf",
	} {
		if !regexp.MustCompile(`(?m)^-r\S+ root/root .* \./` + regexp.QuoteMeta(path) + `$`).MatchString(contents) {
			t.Errorf("no %s of root in\n%s", path, contents)
		}
	}
	root, control := t.TempDir(), t.TempDir()
	outputOf(t, "dpkg-deb", "-x", deb, root)
	copyright, err := os.ReadFile(filepath.Join(root, "usr/share/doc/eclus/copyright"))
	wait.Must(t, err)
	for _, module := range []string{"github.com/coreos/go-systemd/v22", "github.com/godbus/dbus/v5"} {
		dir := strings.TrimSpace(outputOf(t, "go", "list", "-m", "-f", "{{.Dir}}", module))
		notices, err := filepath.Glob(dir + "/[LN][IO][CT][EI]*") // LICENSE and NOTICE
		wait.Must(t, err)
		for _, notice := range notices {
			text, err := os.ReadFile(notice)
			wait.Must(t, err)
			if !strings.Contains(string(copyright), string(text)) {
				t.Errorf("no %s of %s in the package", filepath.Base(notice), module)
			}
		}
		if len(notices) == 0 {
			t.Errorf("no license of %s found", module)
		}
	}
	outputOf(t, "dpkg-deb", "-e", deb, control)
	for _, script := range []string{"preinst", "postinst", "prerm", "postrm"} {
		outputOf(t, "sh", "-n", filepath.Join(control, script))
	}
}

// TestMakeDebUmask makes the package as somebody whose files nobody else may read.
func TestMakeDebUmask(t *testing.T) {
	need.Program(t, "dpkg-deb")
	dir := sources(t)
	build := exec.Command("sh", "-c", `umask 077 && exec make -C "$1" deb VERSION=1.0.0`, "sh", dir)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	contents := outputOf(t, "dpkg-deb", "-c", filepath.Join(dir, "build/eclus_1.0.0_"+runtime.GOARCH+".deb"))
	if closed := regexp.MustCompile(`(?m)^(d......-..|-......-..).*`).FindAllString(contents, -1); len(closed) > 0 {
		t.Errorf("not for everybody to read: %q", closed)
	}
	if closed := regexp.MustCompile(`(?m)^.(...---|......---).*`).FindAllString(contents, -1); len(closed) > 0 {
		t.Errorf("not for everybody to read: %q", closed)
	}
}

// TestVersionOfSources holds that the newest entry of CHANGELOG.md decides the version, and that
// the commit is added unless it is the release: in a repository, in a tarball of git archive, and
// in a plain copy.
func TestVersionOfSources(t *testing.T) {
	need.Program(t, "git")
	dir, tarball := t.TempDir(), t.TempDir()
	for _, file := range []string{"version", ".gitattributes"} {
		outputOf(t, "cp", "../"+file, dir)
	}
	// These sources may be a tarball's themselves, whose version is known.
	wait.Must(t, os.WriteFile(filepath.Join(dir, ".version"), []byte("$Format:%(describe:tags=true)$\n$Format:%h$\n"), 0o644))
	wait.Must(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte("# Changes\n\n## 1.2.3\n\n## 1.2.2\n"), 0o644))
	check := func(dir, want string) {
		t.Helper()
		if got := strings.TrimSpace(outputOf(t, filepath.Join(dir, "version"))); !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("version %q; want %s", got, want)
		}
	}
	git := func(args ...string) {
		t.Helper()
		outputOf(t, "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@localhost"}, args...)...)
	}
	checkBoth := func(want string) {
		t.Helper()
		check(dir, want)
		outputOf(t, "sh", "-c", `git -C "$1" archive HEAD | tar -C "$2" -xf -`, "sh", dir, tarball)
		check(tarball, want)
	}

	check(dir, "1.2.3-dev")
	git("init", "-q")
	git("add", "-A")
	git("commit", "-qm", "t")
	checkBoth(`1\.2\.3-dev\+[0-9a-f]{7,}`)
	git("tag", "-am", "t", "v1.2.2")
	checkBoth(`1\.2\.3-dev\+[0-9a-f]{7,}`)
	git("commit", "-qm", "t", "--allow-empty")
	git("tag", "-am", "t", "v1.2.3")
	checkBoth(`1\.2\.3`)
	git("commit", "-qm", "t", "--allow-empty")
	checkBoth(`1\.2\.3-1-g[0-9a-f]{7,}`)
	wait.Must(t, os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), nil, 0o644))
	if out, err := exec.Command(filepath.Join(dir, "version")).CombinedOutput(); err == nil {
		t.Errorf("no entry, and yet %q", out)
	}
}

// TestMakeKnowsVersion makes epmd and its package of the sources alone.
func TestMakeKnowsVersion(t *testing.T) {
	need.Program(t, "dpkg-deb")
	dir := sources(t)
	want := strings.TrimSpace(outputOf(t, filepath.Join(dir, "version")))
	runMake(t, dir, "deb-epmd")
	if version := outputOf(t, filepath.Join(dir, "build/epmd"), "-version"); !strings.Contains(version, " "+want+" ") {
		t.Errorf("version %q; want %s", version, want)
	}
	entry, _, _ := strings.Cut(want, "-")
	debs, err := filepath.Glob(filepath.Join(dir, "build/eclus_"+entry+"*.deb"))
	if err != nil || len(debs) != 1 {
		t.Errorf("packages of %s: %q, %v; want one", entry, debs, err)
	}
}

// stockFiles are those of erlang-base in whose place ours are.
var stockFiles = []string{
	"/usr/bin/epmd",
	"/usr/share/man/man1/epmd.1.gz",
	"/lib/systemd/system/epmd.socket",
	"/lib/systemd/system/epmd.service",
}

// debian is a full host with Debian's erlang-base and its units enabled, as after its installation.
func debian(t *testing.T, opt machine.Options) *supervised {
	t.Helper()
	t.Parallel()
	s := &supervised{machine.ForTest(t, nil, "hosta", opt, "dpkg", "dpkg-deb", "dpkg-divert", "erl", "make")}
	s.output(t, "rm", "-f", "/usr/sbin/policy-rc.d")
	s.systemctl(t, "enable", "--now", "--quiet", "epmd.socket", "epmd.service")
	return s
}

// output returns what a command prints on the host.
func (s *supervised) output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := s.Output(wait.Soon(t), name, args...)
	wait.Must(t, err)
	return out
}

// dpkg runs dpkg on the host. An index of all manual pages, which takes most of its time, is not
// wanted there.
func (s *supervised) dpkg(t *testing.T, args ...string) {
	t.Helper()
	s.output(t, "rm", "-f", "/var/lib/man-db/auto-update")
	begin := time.Now()
	cmd := s.Command(wait.Soon(t), "dpkg", append([]string{"--force-unsafe-io"}, args...)...)
	cmd.Env = append(cmd.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	t.Logf("dpkg %q after %v:\n%s", args, since(begin), out)
	wait.Must(t, err)
}

// install installs a package of the machine on the host.
func (s *supervised) install(t *testing.T, deb string, options ...string) {
	t.Helper()
	wait.Must(t, s.CopyFile("/root/new.deb", deb, 0o644))
	s.dpkg(t, append(options, "--install", "/root/new.deb")...)
}

// checkVersion fails the test unless epmd, as a shell and as erl finds it, is ours and of that
// version. The service has to run it.
func (s *supervised) checkVersion(t *testing.T, version string) {
	t.Helper()
	found := "/usr/bin/epmd"
	for _, epmd := range append(strings.Fields(s.output(t, "sh", "-c", "ls -d /usr/lib/erlang/erts-*/bin/epmd")), found) {
		out, err := s.Output(wait.Soon(t), epmd, "-version")
		if err != nil || !strings.Contains(out, " "+version+" ") && !strings.Contains(out, " "+version+"\n") {
			t.Errorf("%s -version: %q, %v; want %s", epmd, out, err, version)
		}
	}
	s.await(t, "SubState", "^running$")
	s.checkRuns(t, s.Path(found))
}

// checkStock fails the test unless all files of erlang-base are where they belong and nothing of
// ours is left. The stock epmd has to be what is started.
func (s *supervised) checkStock(t *testing.T) {
	t.Helper()
	if out := s.output(t, "dpkg", "--verify", "erlang-base"); out != "" {
		t.Errorf("files of erlang-base differ:\n%s", out)
	}
	if out := s.output(t, "sh", "-c", "dpkg-divert --list | grep eclus || true"); out != "" {
		t.Errorf("diversions are left:\n%s", out)
	}
	if out := s.output(t, "find", "/usr", "-xdev", "-name", "*epmd*.erlang-base*"); out != "" {
		t.Errorf("files of erlang-base are still aside:\n%s", out)
	}
	for _, file := range stockFiles {
		s.output(t, "test", "-e", file)
	}
	if out, err := s.Output(wait.Soon(t), "epmd", "-version"); err == nil {
		t.Errorf("epmd is still ours: %q", out)
	}
	s.systemctl(t, "is-active", "epmd.socket")
	s.register(t, "stock", 1)[0].leave()
	if got, want := s.show(t, "Type"), "simple"; got != want {
		t.Errorf("service of type %q; want that of erlang-base, %q", got, want)
	}
}

func TestPackageLifecycle(t *testing.T) {
	one, two := packaged(t, "1.0.0"), packaged(t, "2.0.0")
	s := debian(t, machine.Options{})

	s.install(t, one)
	s.checkVersion(t, "1.0.0")
	for _, enabled := range []string{"epmd.socket", "epmd.service"} {
		s.systemctl(t, "is-enabled", "--quiet", enabled)
	}
	if out := s.output(t, "dpkg", "--verify", "eclus"); out != "" {
		t.Errorf("files of eclus differ:\n%s", out)
	}

	nodes := s.register(t, "node", 20)
	watched := s.poll(t, nodes[0].name, nodes[0].port)
	s.install(t, two)
	s.checkVersion(t, "2.0.0")
	s.checkOnly(t, nodes...)
	seen := watched()
	t.Logf("upgrade: asked %d times, %d cut off, longest wait %v", seen.asked, seen.cut, seen.longest)
	if len(seen.wrong) > 0 {
		t.Errorf("lookups went wrong: %v", seen.wrong)
	}

	for _, n := range nodes {
		n.leave()
	}
	s.dpkg(t, "--purge", "eclus")
	s.checkStock(t)
}

// TestPackageEmptiesStore runs the maintainer scripts with commands that say that they were called.
// More can't be had of systemd 255 on Debian. The store is empty before units that keep less
// replace ours.
func TestPackageEmptiesStore(t *testing.T) {
	need.Program(t, "unshare")
	const (
		stop   = "deb-systemd-invoke stop epmd.service epmd.socket"
		clean  = "systemctl clean --what=fdstore epmd.service"
		reload = "systemctl daemon-reload"
	)
	for _, tt := range []struct {
		scripts string
		want    []string
	}{
		{"prerm remove; postrm remove", []string{stop, clean, reload}},
		{"prerm upgrade 1.9-1; postrm upgrade 1.9-1", []string{stop, clean}},
		{"prerm upgrade 2.0-2; postrm upgrade 2.0-2", nil},
		{"prerm upgrade 2.1-1; postrm upgrade 2.1-1", nil},
	} {
		commands, calls := t.TempDir(), filepath.Join(t.TempDir(), "calls")
		wait.Must(t, os.WriteFile(calls, nil, 0o644))
		for _, name := range []string{"systemctl", "deb-systemd-invoke", "deb-systemd-helper", "dpkg-divert", "dpkg-query"} {
			script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\" >>%s\n", name, calls)
			if name == "dpkg-query" {
				script = "#!/bin/sh\nprintf 2.0-2\n"
			}
			wait.Must(t, os.WriteFile(filepath.Join(commands, name), []byte(script), 0o755))
		}
		script := "set -e; mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; mount -t tmpfs tmpfs /usr/lib/erlang"
		for part := range strings.SplitSeq(tt.scripts, "; ") {
			script += "; sh debian/" + part
		}
		run := exec.Command("unshare", "-m", "sh", "-c", script)
		run.Dir = ".."
		run.Env = append(os.Environ(), "PATH="+commands+":"+os.Getenv("PATH"))
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", tt.scripts, err, out)
		}
		text, err := os.ReadFile(calls)
		wait.Must(t, err)
		got := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(text)), "\n"), func(call string) bool {
			return call != stop && call != clean && call != reload
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: called %q; want %q", tt.scripts, got, tt.want)
		}
	}
}

func TestPackageLAN(t *testing.T) {
	need.Program(t, "avahi-browse")
	deb := packaged(t, "1.0.0")
	s := debian(t, machine.Options{Avahi: true})
	s.install(t, deb)
	s.await(t, "StatusText", "LAN discovery on")
	erl := s.Command(wait.Soon(t), "systemd-run", "--quiet", "--wait", "--unit=erl", "--setenv=HOME=/root", "erl", "-noinput", "-sname", "real")
	wait.Must(t, erl.Start())
	t.Cleanup(func() { _ = erl.Wait() })
	s.awaitBrowsed(t, `;real@hosta;_epmd._tcp;.*"node=real@hosta"`)

	pid := s.mainPID(t)
	s.systemctl(t, "reload", unit)
	s.awaitBrowsed(t, `;real@hosta;_epmd._tcp;.*"node=real@hosta"`)
	if now := s.mainPID(t); now != pid {
		t.Errorf("process %d after a reload; want %d", now, pid)
	}
	table := s.output(t, "epmd", "-nodes")
	t.Logf("%s", table)
	if !regexp.MustCompile(`(?m)^real@hosta .* local `).MatchString(table) {
		t.Errorf("no real@hosta in\n%s", table)
	}
	s.systemctl(t, "stop", "erl.service")
	if out := s.output(t, "journalctl", "-u", unit, "-p", "err", "--no-pager", "--quiet"); out != "" {
		t.Errorf("errors in the journal:\n%s", out)
	}
}

// awaitBrowsed waits until Avahi resolves a service that the pattern matches.
func (s *supervised) awaitBrowsed(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(strings.ReplaceAll(pattern, "@", `(?:@|\\064)`))
	var out string
	err := lan.Wait(wait.Soon(t), pattern, func(ctx context.Context) (ok bool, err error) {
		out, err = s.Output(ctx, "avahi-browse", "--parsable", "--resolve", "--terminate", "_epmd._tcp")
		return re.MatchString(out), err
	})
	if err != nil {
		t.Fatalf("%v; there is\n%s", err, out)
	}
}

// erlangBase makes a package erlang-base of a version. It has what ours has to do with.
func erlangBase(t *testing.T, s *supervised, version string) string {
	t.Helper()
	root, deb := t.TempDir(), filepath.Join(t.TempDir(), "erlang-base.deb")
	stock, err := os.ReadFile(stockEpmd)
	wait.Must(t, err)
	control := "Package: erlang-base\nVersion: 9:" + version + "\nArchitecture: all\nMaintainer: Test <test@localhost>\nDescription: test\n"
	for path, content := range map[string]string{
		"DEBIAN/control": control,
		"usr/lib/erlang/erts-" + version + "/bin/epmd": string(stock),
		"usr/lib/systemd/system/epmd.socket":           "[Socket]\nListenStream=4369\n[Install]\nWantedBy=sockets.target\n",
		"usr/lib/systemd/system/epmd.service":          "[Service]\nExecStart=/usr/bin/epmd -systemd\n",
	} {
		file := filepath.Join(root, path)
		wait.Must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		wait.Must(t, os.WriteFile(file, []byte(content), 0o755))
	}
	// The scripts do what those of the real one do to epmd.
	for _, script := range []string{"prerm", "postrm"} {
		wait.Must(t, s.CopyFile("/root/"+script, "/var/lib/dpkg/info/erlang-base."+script, 0o755))
		text, err := os.ReadFile("/var/lib/dpkg/info/erlang-base." + script)
		wait.Must(t, err)
		wait.Must(t, os.WriteFile(filepath.Join(root, "DEBIAN", script), text, 0o755))
	}
	wait.Must(t, os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755))
	wait.Must(t, os.Symlink("../lib/erlang/erts-"+version+"/bin/epmd", filepath.Join(root, "usr/bin/epmd")))
	outputOf(t, "dpkg-deb", "--root-owner-group", "--build", root, deb)
	return deb
}

// checkBins fails the test unless these are all the epmds beside an ERTS, and no folder there is
// empty. Other packages of Erlang may have files of their own.
func (s *supervised) checkBins(t *testing.T, want ...string) {
	t.Helper()
	out := s.output(t, "sh", "-c", `find /usr/lib/erlang -path '*/erts-*/bin*' \( -name '*epmd*' -o -type d -empty \)`)
	if got := slices.Sorted(strings.FieldsSeq(out)); !slices.Equal(got, want) {
		t.Errorf("epmds and empty folders of ERTS %q; want %q", got, want)
	}
}

func TestPackageErlangComesAndGoes(t *testing.T) {
	deb := packaged(t, "1.0.0")
	s := debian(t, machine.Options{})
	s.install(t, deb)
	s.checkVersion(t, "1.0.0")

	nodes := s.register(t, "node", 5)
	s.install(t, erlangBase(t, s, "99.0"), "--force-depends")
	s.checkVersion(t, "1.0.0")
	s.checkBins(t, "/usr/lib/erlang/erts-99.0/bin/epmd", "/usr/lib/erlang/erts-99.0/bin/epmd.erlang-base")
	s.checkOnly(t, nodes...)

	s.dpkg(t, "--force-depends", "--purge", "erlang-base")
	s.output(t, "id", "epmd")
	for _, unit := range []string{"epmd.socket", "epmd.service"} {
		s.systemctl(t, "is-enabled", "--quiet", unit)
		s.systemctl(t, "is-active", "--quiet", unit)
	}
	s.checkBins(t)
	after := s.register(t, "after", 1)

	// What is purged later than it was removed takes the user along, and nobody is told.
	s.output(t, "userdel", "--force", "epmd")
	s.systemctl(t, "restart", unit)
	s.checkOnly(t, after...)

	s.dpkg(t, "--purge", "eclus")
	if out := s.output(t, "sh", "-c", "find /usr /etc/systemd -xdev -name '*epmd*' ! -path '*/lib/erlang/*' ! -path '/usr/share/*'"); out != "" {
		t.Errorf("left:\n%s", out)
	}
}

// readmeCommands returns the commands that the README shows between two texts, as root types them.
func readmeCommands(t *testing.T, from, to string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	wait.Must(t, err)
	_, rest, _ := strings.Cut(string(text), from)
	part, _, found := strings.Cut(rest, to)
	for line := range strings.Lines(part) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			command, _, _ = strings.Cut(command, " #")
			commands = append(commands, strings.TrimSpace(strings.TrimPrefix(command, "sudo ")))
		}
	}
	if !found || len(commands) == 0 {
		t.Fatalf("no commands between %q and %q in the README", from, to)
	}
	return commands
}

// TestInstallWithoutPackage does what the README says where the stock epmd runs and has a node, and
// undoes it.
func TestInstallWithoutPackage(t *testing.T) {
	s := debian(t, machine.Options{})
	stock := s.register(t, "stock", 1)[0]
	copying := exec.Command("cp", "-r", sources(t), s.Path("/root/eclus"))
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copy sources: %v\n%s", err, out)
	}
	run := func(line string) string {
		t.Helper()
		cmd := s.Command(wait.Soon(t), "sh", "-c", "cd /root/eclus && "+line)
		cmd.Env = append(cmd.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOPROXY=off", "GOFLAGS="+os.Getenv("GOFLAGS"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return string(out)
	}
	for _, command := range readmeCommands(t, "or, without a package", "So it all goes again") {
		t.Logf("%s\n%s", command, run(command))
	}
	<-stock.ended
	s.checkRuns(t, s.Path("/usr/local/bin/epmd"))
	s.checkOnly(t, s.register(t, "ours", 2)...)
	for command, want := range map[string]string{
		"epmd -version":                         "epmd (Eclus) ",
		"dpkg --verify erlang-base; echo same":  "same",
		"busctl tree --list org.erlang.Epmd":    "/org/erlang/Epmd/ours0_40",
		"journalctl --list-catalog " + nodeUp:   "Erlang node @ERLANG_NAME@ has registered",
		"man -w epmd":                           "/usr/local/",
		"systemctl is-enabled epmd.socket":      "enabled",
		"make install PREFIX=/usr 2>&1; true":   "belongs to package erlang-base",
		"make uninstall PREFIX=/usr 2>&1; true": "belongs to package erlang-base",
	} {
		if out := run(command); !strings.HasPrefix(out, want) && !strings.Contains(out, want) {
			t.Errorf("%s: %q; want %q", command, out, want)
		}
	}

	for _, command := range readmeCommands(t, "So it all goes again", "epmd needs nothing at run time") {
		t.Logf("%s\n%s", command, run(command))
	}
	s.checkStock(t)
	if left := run("find /usr /etc -newer README.md -ipath '*epmd*' -type f"); left != "" {
		t.Errorf("left:\n%s", left)
	}
}

// aUser is somebody with a service manager of their own.
const aUser = "nobody"

func TestUserUnits(t *testing.T) {
	t.Parallel()
	deb := packaged(t, "1.0.0")
	s := &supervised{machine.ForTest(t, nil, "hosta", machine.Options{}, "dpkg", "dpkg-deb", "make")}
	s.install(t, deb)
	s.systemctl(t, "disable", "--now", "--quiet", "epmd.socket", "epmd.service")
	uid := strings.TrimSpace(s.output(t, "id", "-u", aUser))
	runtimeDir := "/run/user/" + uid
	manager := "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=" + runtimeDir + " HOME=/tmp\n"
	wait.Must(t, s.WriteFile("/etc/systemd/system/user@.service.d/test.conf", []byte(manager), 0o644))
	s.systemctl(t, "daemon-reload")
	s.systemctl(t, "start", "user@"+uid)
	as := func(args ...string) string {
		return s.output(t, "setpriv", append([]string{"--reuid=" + aUser, "--clear-groups", "env", "XDG_RUNTIME_DIR=" + runtimeDir}, args...)...)
	}
	as("systemctl", "--user", "start", "epmd.socket")
	nodes := s.register(t, "node", 3)
	as("systemctl", "--user", "kill", "--kill-whom=main", "--signal=KILL", unit)
	s.checkOnly(t, nodes...)
	if restarts := as("systemctl", "--user", "show", "-P", "NRestarts", unit); restarts != "1\n" {
		t.Errorf("%q restarts; want one", restarts)
	}
	as("systemctl", "--user", "restart", unit)
	s.checkOnly(t, nodes...)

	as("systemctl", "--user", "start", "dbus.socket")
	as("systemctl", "--user", "stop", unit) // the next asks for it, by way of the session bus
	if tree := as("busctl", "--user", "tree", "--list", "org.erlang.Epmd"); !strings.HasPrefix(tree, objectsOn()) {
		t.Errorf("on the session bus there are\n%s", tree)
	}
	if state := as("systemctl", "--user", "is-active", unit); state != "active\n" {
		t.Errorf("the service is %q, want active", state)
	}
}
