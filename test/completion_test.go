package test

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// completions is the folder of the completion files.
const completions = "../cmd/epmd/completion"

// A completer returns what a shell offers for the end of a command line.
type completer func(t *testing.T, line string) []string

// shells start those that can complete, in a folder of their own. Our epmd is first in PATH, and
// they ask the epmd on a port.
var shells = map[string]func(t *testing.T, dir string, port uint16) completer{
	"bash": startBash,
	"zsh":  startZsh,
	"fish": runFish,
}

func install(t *testing.T, name, path string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(completions, name))
	wait.Must(t, err)
	wait.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	wait.Must(t, os.WriteFile(path, text, 0o644))
}

func shellEnv(dir string, port uint16) []string {
	return append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"ERL_EPMD_PORT="+strconv.Itoa(int(port)), "GORACE="+goRace, "TERM=xterm", "LC_ALL=C.UTF-8", "PS1=READY> ")
}

// startBash has bash-completion find ours, as where it is installed. M-* inserts all that is
// offered.
func startBash(t *testing.T, dir string, port uint16) completer {
	install(t, "epmd.bash", filepath.Join(dir, "completions/epmd"))
	rc := filepath.Join(dir, "bashrc")
	wait.Must(t, os.WriteFile(rc, []byte(`
		. /usr/share/bash-completion/bash_completion
		bind -x '"\C-x\C-p": printf "LINE<%s>\n" "$READLINE_LINE"'
		PS1='READY> '
	`), 0o644))
	bash := exec.Command("bash", "--noprofile", "--rcfile", rc, "-i")
	bash.Env = append(shellEnv(dir, port), "BASH_COMPLETION_USER_DIR="+dir)
	return interactive(t, dir, bash)
}

func startZsh(t *testing.T, dir string, port uint16) completer {
	install(t, "_epmd", filepath.Join(dir, "functions/_epmd"))
	wait.Must(t, os.WriteFile(filepath.Join(dir, ".zshrc"), []byte(`
		fpath=($HOME/functions $fpath)
		autoload -U compinit && compinit -u -D
		all() { _main_complete; compstate[insert]=all; compstate[list]= }
		zle -C all complete-word all
		bindkey '\e*' all
		show() { print -r -- "LINE<$BUFFER>" }
		zle -N show
		bindkey '\C-x\C-p' show
		bindkey '\C-u' kill-whole-line
		PS1='READY> '
	`), 0o644))
	zsh := exec.Command("zsh", "-d", "-i")
	zsh.Env = append(shellEnv(dir, port), "ZDOTDIR="+dir)
	return interactive(t, dir, zsh)
}

// interactive runs a shell on a terminal. On it M-* inserts all completions and C-x C-p prints the
// line.
func interactive(t *testing.T, dir string, shell *exec.Cmd) completer {
	t.Helper()
	master, slave := openTerminal(t, unix.Winsize{Row: 24, Col: 20000})
	shell.Dir, shell.Stdin, shell.Stdout, shell.Stderr = dir, slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	wait.Must(t, shell.Start())
	slave.Close()
	var out wait.Output
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&out, master) // until the shell has gone
	}()
	t.Cleanup(func() {
		shell.Process.Kill()
		shell.Wait()
		<-read
		master.Close()
	})
	seen := 0
	await := func(what string) (found string) {
		wait.Until(t, fmt.Sprintf("%s from %s", what, shell.Args[0]), func() error {
			now := out.String()
			m := regexp.MustCompile(what).FindStringIndex(now[seen:])
			if m == nil {
				return fmt.Errorf("it writes %q", now[seen:])
			}
			found, seen = now[seen+m[0]:seen+m[1]], seen+m[1]
			return nil
		})
		return found
	}
	await("READY> ")
	return func(t *testing.T, line string) []string {
		t.Helper()
		_, err := io.WriteString(master, line+"\x1b*\x18\x10")
		wait.Must(t, err)
		shown := strings.TrimSuffix(strings.TrimPrefix(await("LINE<[^>\n]*>"), "LINE<"), ">")
		_, err = io.WriteString(master, "\x15")
		wait.Must(t, err)
		if strings.TrimSpace(shown) == strings.TrimSpace(line) {
			return nil
		}
		return strings.Fields(shown[strings.LastIndexByte(line, ' ')+1:])
	}
}

func runFish(_ *testing.T, dir string, port uint16) completer {
	return func(t *testing.T, line string) []string {
		t.Helper()
		file, err := filepath.Abs(filepath.Join(completions, "epmd.fish"))
		wait.Must(t, err)
		fish := exec.Command("fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", file, line)
		fish.Env, fish.Dir = shellEnv(dir, port), dir
		out, err := fish.CombinedOutput()
		if err != nil {
			t.Fatalf("fish: %v: %s", err, out)
		}
		var offered []string
		begun := line[strings.LastIndexByte(line, ' ')+1:]
		for candidate := range strings.Lines(string(out)) {
			candidate, _, _ = strings.Cut(strings.TrimSpace(candidate), "\t")
			// fish 4 also offers what has these letters anywhere.
			if strings.HasPrefix(candidate, begun) {
				offered = append(offered, candidate)
			}
		}
		return offered
	}
}

// usageFlags returns all flags of the usage, and the two of the stock epmd that it leaves out.
func usageFlags(t *testing.T) []string {
	t.Helper()
	flags := map[string]bool{"-started": true, "-dump": true}
	usage := command(t, eclusBinary(t), 1, "-?").stderr
	for _, m := range regexp.MustCompile(`(?m)(?:^|[ \[|])(-[a-z_]+)`).FindAllStringSubmatch(usage, -1) {
		flags[m[1]] = true
	}
	if len(flags) < 20 {
		t.Fatalf("flags %v of usage\n%s", flags, usage)
	}
	return slices.Sorted(maps.Keys(flags))
}

// hostileNames would do something if they were evaluated, or are not to be seen on a terminal.
var hostileNames = []string{"$(touch ran)", "`touch ran`", "x;touch ran", "y\x1b[31m", "z'\"", "w x", "v\nname u at port 1", "*"}

// TestCompletions completes command lines as a person does.
func TestCompletions(t *testing.T) {
	d := startEpmd(t, eclusBinary(t))
	for i, name := range append([]string{"rabbit1", "rabbit2", "web", "-kill"}, hostileNames...) {
		d.register(t, name, uint16(41000+i))
	}
	other := startEpmd(t, eclusBinary(t))
	other.register(t, "elsewhere", 41000)
	full := parseNode(t, command(t, eclusBinary(t), d.port, "-nodes", "-json", "rabbit1").stdout).Node
	at := strings.TrimPrefix(full, "rabbit1")
	silent := freePort(t)
	tests := []struct{ line, want string }{
		{"epmd -lan ", "browse off on publish"},
		{"epmd -lan p", "publish"},
		{"epmd -d -allow ", "any lan local"},
		{"epmd -relax", "-relaxed_command_check"},
		{"epmd -interface l", "lo"},
		{"epmd -interface eth7,l", "eth7,lo"},
		{"epmd -stop ", "-kill rabbit1 rabbit2 web"},
		{"epmd -stop r", "rabbit1 rabbit2"},
		{"epmd -nodes ra", "rabbit1" + at + " rabbit2" + at},
		{"epmd -nodes rabbit1@", full},
		{"epmd -nodes " + full[:len(full)-1], full},
		{"epmd -nodes -json w", "web" + at},
		{"epmd -nodes web -js", "-json"},
		{"epmd -nodes -lo", "-local"},
		{fmt.Sprintf("epmd -port %d -stop ", other.port), "elsewhere"},
		{fmt.Sprintf("epmd -port %d -nodes ", other.port), "elsewhere" + at},
		{fmt.Sprintf("epmd -port %d -stop x", silent), ""},
		{fmt.Sprintf("epmd -port %d -nodes x", silent), ""},
		{"epmd -ping web@", "web" + at},
		{"epmd -ping x -js", "-json"},
		{"epmd -peek web@", "web" + at},
		{"epmd -peek x -w", "-watch"},
		{"epmd -names -", ""},
	}
	for name, start := range shells {
		t.Run(name, func(t *testing.T) {
			need.Program(t, name)
			dir := t.TempDir()
			wait.Must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
			wait.Must(t, os.Symlink(eclusBinary(t), filepath.Join(dir, "bin/epmd")))
			complete := start(t, dir, d.port)
			begin := time.Now()
			for _, tt := range tests {
				got := complete(t, tt.line)
				for tries := 1; len(got) == 0 && tt.want != "" && tries < 10; tries++ {
					got = complete(t, tt.line) // epmd has not answered within a second
				}
				if slices.Sort(got); strings.Join(got, " ") != tt.want {
					t.Errorf("%q: offered %q, want %q", tt.line, got, tt.want)
				}
			}
			t.Logf("%v a line", time.Since(begin)/time.Duration(len(tests)))
			flags := slices.Concat(complete(t, "epmd -"), complete(t, "epmd -nodes -"), complete(t, "epmd -ping x -"), complete(t, "epmd -peek x -"))
			slices.Sort(flags)
			if flags, want := slices.Compact(flags), usageFlags(t); !slices.Equal(flags, want) {
				t.Errorf("flags %q, want %q", flags, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
				t.Error("a name was run as a command")
			}
		})
	}
}
