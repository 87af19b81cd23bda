// Package etcd runs real etcds for tests, as Debian has them (etcd-server, etcd-client).
package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goerlang/eclus/test/need"
	"github.com/goerlang/eclus/test/wait"
)

// Command makes a command that is not started yet, as exec.CommandContext does. A host of a virtual
// LAN has one.
type Command func(ctx context.Context, name string, args ...string) *exec.Cmd

// Server is an etcd on the standard ports of an address of its own. It ends with the test.
type Server struct {
	Address string
	Args    []string // of etcd, in addition; they count at the next Start
	Client  []string // flags with which Ctl gets in, such as --cacert
	Scheme  string   // of what clients connect to

	name    string
	dir     string
	command Command
	cmd     *exec.Cmd
	ended   chan struct{}
	output  wait.Output
}

// New returns an etcd that doesn't run yet, on an address of loopback.
func New(t testing.TB) *Server {
	t.Helper()
	need.Program(t, "etcd")
	need.Program(t, "etcdctl")
	address := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(256), 1+rand.IntN(250))
	return newServer(t, "default", address, exec.CommandContext)
}

// On returns an etcd that doesn't run yet, on a host of a virtual LAN.
func On(t testing.TB, address string, command Command) *Server {
	t.Helper()
	need.Program(t, "etcd")
	need.Program(t, "etcdctl")
	return newServer(t, "default", address, command)
}

func newServer(t testing.TB, name, address string, command Command) *Server {
	return &Server{Address: address, Scheme: "http", name: name, dir: t.TempDir(), command: command}
}

// Start starts an etcd and returns when it answers.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New(t)
	s.Start(t)
	return s
}

// Cluster starts several etcds that are one.
func Cluster(t testing.TB, size int) []*Server {
	t.Helper()
	var all []*Server
	var peers []string
	for i := range size {
		s := New(t)
		s.name = fmt.Sprint("etcd", i)
		all = append(all, s)
		peers = append(peers, s.name+"="+s.peerURL())
	}
	for _, s := range all {
		s.Args = append(s.Args, "--initial-cluster", strings.Join(peers, ","))
		s.launch(t)
	}
	for _, s := range all {
		s.await(t)
	}
	return all
}

// URL is where clients connect to.
func (s *Server) URL() string { return s.Scheme + "://" + s.Address + ":2379" }

func (s *Server) peerURL() string { return "http://" + s.Address + ":2380" }

// Start starts it with the data that it has, and returns when it answers.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.launch(t)
	s.await(t)
}

func (s *Server) launch(t testing.TB) {
	t.Helper()
	args := append([]string{
		"--name", s.name, "--data-dir", s.data(), "--unsafe-no-fsync",
		"--listen-client-urls", s.URL(), "--advertise-client-urls", s.URL(),
		"--listen-peer-urls", s.peerURL(), "--initial-advertise-peer-urls", s.peerURL(),
		"--log-level", "error", "--bcrypt-cost", "4", // users need no strong ones here
	}, s.Args...)
	if !strings.Contains(strings.Join(args, " "), "--initial-cluster ") {
		args = append(args, "--initial-cluster", s.name+"="+s.peerURL())
	}
	s.cmd = s.command(context.Background(), "etcd", args...)
	s.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	s.ended = make(chan struct{})
	wait.Must(t, s.cmd.Start())
	cmd, ended := s.cmd, s.ended
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
}

// await returns when etcd answers.
func (s *Server) await(t testing.TB) {
	t.Helper()
	wait.Until(t, "etcd answers at "+s.URL(), func() error {
		select {
		case <-s.ended:
			t.Fatalf("etcd has ended; output:\n%s", s.output.String())
		default:
		}
		_, err := s.TryCtl("get", "none")
		return err
	})
}

// data is the folder of what etcd knows.
func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Stop ends it, as systemctl stop does.
func (s *Server) Stop(t testing.TB) { s.end(t, syscall.SIGTERM) }

// Kill ends it, as a crash does.
func (s *Server) Kill(t testing.TB) { s.end(t, syscall.SIGKILL) }

func (s *Server) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	wait.Must(t, s.cmd.Process.Signal(sig))
	<-s.ended
}

// LoseData removes what etcd knows, when it doesn't run.
func (s *Server) LoseData(t testing.TB) { wait.Must(t, os.RemoveAll(s.data())) }

// Elsewhere runs f while etcd, with its data, is at another address, so that nobody else finds it.
func (s *Server) Elsewhere(t testing.TB, f func(*Server)) {
	t.Helper()
	other := New(t)
	other.dir, other.name = s.dir, s.name
	other.Args = append([]string{"--force-new-cluster"}, s.Args...)
	other.Start(t)
	f(other)
	other.Stop(t)
}

// Ctl runs etcdctl and returns what it prints.
func (s *Server) Ctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := outputOf(s.ctl(wait.Patience, args...))
	wait.Must(t, err)
	return out
}

// TryCtl is Ctl that may fail, and does if etcd has not answered in 5 s.
func (s *Server) TryCtl(args ...string) (string, error) {
	return outputOf(s.ctl(5*time.Second, args...))
}

func outputOf(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%.500q: %w\n%s", cmd.Args, err, out)
	}
	return string(out), err
}

func (s *Server) ctl(patience time.Duration, args ...string) *exec.Cmd {
	limit := patience.String()
	all := append([]string{"--endpoints", s.URL(), "--dial-timeout", limit, "--command-timeout", limit}, append(s.Client, args...)...)
	cmd := s.command(context.Background(), "etcdctl", all...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "ETCDCTL_API=3")
	return cmd
}

// Txn does what lines of a transaction say.
func (s *Server) Txn(t testing.TB, lines string) {
	t.Helper()
	cmd := s.ctl(wait.Patience, "txn")
	cmd.Stdin = strings.NewReader("\n" + lines + "\n\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("etcdctl txn: %v\n%s", err, out)
	}
}
