package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goerlang/eclus/test/etcd"
	"github.com/goerlang/eclus/test/wait"
)

// secret makes a file that nobody else may read.
func secret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	wait.Must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// replace writes a file anew.
func replace(t *testing.T, path, text string) {
	t.Helper()
	wait.Must(t, os.WriteFile(path+".new", []byte(text), 0o600))
	wait.Must(t, os.Rename(path+".new", path))
}

// names checks that status and log say what is wrong.
func (c *companion) names(what string) {
	c.t.Helper()
	c.awaitStatus(what)
	wait.Until(c.t, fmt.Sprintf("log with %q", what), func() error {
		if log := c.logged(); !strings.Contains(log, what) {
			return fmt.Errorf("it is\n%s", log)
		}
		return nil
	})
}

// TestTLS has an etcd that wants certificates: of ours, of others, none.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, others := etcd.NewAuthority(t, "ours"), etcd.NewAuthority(t, "others")
	server := etcd.New(t)
	server.UseTLS(t, ours)
	server.Start(t)
	cert, key := ours.Issue(t, "host", "192.0.2.1")
	good := []string{"-ca", ours.Path, "-cert", cert, "-key", key}
	all := startMany(t, server, 2, good...)
	awaitAll(all)

	strange, strangeKey := others.Issue(t, "host", "192.0.2.1")
	plain := strings.Replace(server.URL(), "https:", "http:", 1)
	closed := strings.Replace(server.URL(), ":2379", ":2381", 1)
	for i, tt := range []struct {
		flags []string
		want  string
	}{
		{[]string{"-ca", others.Path, "-cert", cert, "-key", key}, "signed by an authority that is not in -ca"},
		{[]string{"-cert", cert, "-key", key}, "signed by an authority that is not in -ca"},
		{[]string{"-ca", ours.Path, "-cert", strange, "-key", strangeKey}, "it refuses our certificate (-cert)"},
		{[]string{"-ca", ours.Path}, "it wants a certificate of ours (-cert, -key)"},
		{append([]string{"-endpoints", strings.Replace(server.URL(), server.Address, "localhost", 1)}, good...), "connection refused"},
		{append([]string{"-endpoints", closed}, good...), "connection refused"},
		{[]string{"-endpoints", plain}, "it speaks TLS: give an endpoint https://"},
	} {
		start(t, server, 10+i, tt.flags...).names(tt.want)
	}
	speaksNone := etcd.Start(t)
	start(t, server, 30, append([]string{"-endpoints", strings.Replace(speaksNone.URL(), "http:", "https:", 1)}, good...)...).names("it does not speak TLS")
	awaitAll(all)
}

// TestCertificateChanges has a certificate be replaced in its file.
func TestCertificateChanges(t *testing.T) {
	t.Parallel()
	ours, others := etcd.NewAuthority(t, "ours"), etcd.NewAuthority(t, "others")
	server := etcd.New(t)
	server.UseTLS(t, ours)
	server.Start(t)
	cert, key := others.Issue(t, "host", "192.0.2.1")
	c := start(t, server, 1, "-ca", ours.Path, "-cert", cert, "-key", key)
	c.names("it refuses our certificate")
	right, rightKey := ours.Issue(t, "host", "192.0.2.1")
	for from, to := range map[string]string{right: cert, rightKey: key} {
		text, err := os.ReadFile(from)
		wait.Must(t, err)
		replace(t, to, string(text))
	}
	c.awaitStatus("at revision", "this host is 192.0.2.1:4369")
	// The same for one that is connected: it begins anew with the other.
	again, againKey := ours.Issue(t, "other", "192.0.2.1")
	for from, to := range map[string]string{again: cert, againKey: key} {
		text, err := os.ReadFile(from)
		wait.Must(t, err)
		replace(t, to, string(text))
	}
	wait.Until(t, "it has seen the other certificate", func() error {
		if log := c.logged(); !strings.Contains(log, "certificates or credentials are others now") {
			return fmt.Errorf("log\n%s", log)
		}
		return nil
	})
	c.awaitStatus("at revision", "this host is 192.0.2.1:4369")
}

// TestUsers has an etcd that wants user and password, which change.
func TestUsers(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	server.UseUsers(t, "first:x", "/eclus/")
	file := secret(t, "epmd:first:x\n")
	all := startMany(t, server, 2, "-credentials_file", file)
	awaitAll(all)
	start(t, server, 10, "-credentials_file", secret(t, "epmd:wrong")).names("wrong user or password (-credentials_file)")
	start(t, server, 11).names("it wants user and password (-credentials_file)")
	elsewhere := start(t, server, 12, "-credentials_file", file, "-prefix", "/other")
	elsewhere.names("permission denied")

	// Another password: tokens end, and those with the old one are told so.
	server.Ctl(t, "user", "delete", "epmd")
	server.Ctl(t, "user", "add", "epmd:second")
	server.Ctl(t, "user", "grant-role", "epmd", "epmd")
	server.Kill(t)
	server.Start(t)
	for _, c := range all {
		c.names("wrong user or password")
		c.awaitStatus("1 other hosts")
	}
	replace(t, file, "epmd:second\n")
	for _, c := range all {
		c.awaitStatus("at revision", "1 other hosts", "this host is")
	}
	server.Ctl(t, "role", "grant-permission", "epmd", "--prefix=true", "readwrite", "/other/")
	elsewhere.awaitStatus("at revision", "this host is")
}

// TestReadOnly has a user who may only read: this host knows the others.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	server := etcd.Start(t)
	first := start(t, server, 1)
	first.awaitStatus("this host is")
	server.UseUsers(t, "x", "/eclus/")
	server.Ctl(t, "role", "revoke-permission", "--prefix=true", "epmd", "/eclus/")
	server.Ctl(t, "role", "grant-permission", "epmd", "--prefix=true", "read", "/eclus/")
	server.Ctl(t, "put", "/eclus/v1/epmds/other", "192.0.2.7:4369")
	c := start(t, server, 2, "-credentials_file", secret(t, "epmd:x"))
	c.awaitStatus("at revision", "this host is not in etcd since", "permission denied")
	wait.Until(t, "it knows the other", func() error {
		if got := c.hosts(); !slices.Contains(got, "192.0.2.7:4369") {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
	server.Ctl(t, "role", "grant-permission", "epmd", "--prefix=true", "readwrite", "/eclus/")
	c.awaitStatus("this host is 192.0.2.2:4369")
}

// TestQuota has etcd take nothing more. Hosts that are there stay, and learn of others.
func TestQuota(t *testing.T) {
	t.Parallel()
	server := etcd.New(t)
	server.Args = []string{"--quota-backend-bytes", fmt.Sprint(4 << 20)}
	server.Start(t)
	all := startMany(t, server, 2)
	awaitAll(all)
	value := strings.Repeat("x", 100_000)
	for i := 0; ; i++ {
		_, err := server.TryCtl("put", fmt.Sprint("/fill/", i%2), value)
		if err != nil && strings.Contains(err.Error(), "space exceeded") {
			break
		}
		if i > 1000 {
			t.Fatalf("the quota does not come: %v", err)
		}
	}
	late := start(t, server, 3)
	late.names("its quota is exceeded")
	late.awaitStatus("at revision", "this host is not in etcd since")
	late.await(all...)
	_, revision, _ := strings.Cut(server.Ctl(t, "get", "none", "-w", "fields"), `"Revision" : `)
	server.Ctl(t, "compact", strings.Fields(revision)[0])
	server.Ctl(t, "defrag")
	server.Ctl(t, "alarm", "disarm")
	awaitAll(append(all, late))
}

// TestCluster has 20 hosts come while the leader of three etcds is killed. None is lost.
func TestCluster(t *testing.T) {
	t.Parallel()
	servers := etcd.Cluster(t, 3)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.URL())
	}
	flags := []string{"-endpoints", strings.Join(urls, ",")}
	all := startMany(t, servers[0], 3, flags...)
	awaitAll(all)
	for i := range 20 {
		all = append(all, start(t, servers[0], 10+i, flags...))
		if i == 10 {
			leader(t, servers).Kill(t)
		}
	}
	awaitAll(all)
}

// leader returns the leader of a cluster.
func leader(t *testing.T, servers []*etcd.Server) *etcd.Server {
	t.Helper()
	var found *etcd.Server
	wait.Until(t, "there is a leader", func() error {
		for _, s := range servers {
			_, rest, _ := strings.Cut(s.Ctl(t, "endpoint", "status", "-w", "fields"), `"MemberID" : `)
			member := strings.Fields(rest)[0]
			if _, rest, _ = strings.Cut(rest, `"Leader" : `); strings.Fields(rest)[0] == member {
				found = s
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(servers))
	})
	return found
}
