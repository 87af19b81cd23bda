package etcd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Files are where certificates and secrets are. Those without a path are not used.
type Files struct {
	CA          string // authorities, PEM; none: those of the system
	Cert, Key   string // of this client, PEM
	Credentials string // USER:PASSWORD
}

// secrets is what is in the files.
type secrets struct {
	tls            *tls.Config
	user, password string
	sum            [sha256.Size]byte // of all
}

// maxFile is the length of the longest file, in bytes.
const maxFile = 1 << 20

// Check returns an error if a file can't be used.
func (f Files) Check() error {
	_, err := f.load()
	return err
}

// load reads all files.
func (f Files) load() (*secrets, error) {
	s := &secrets{tls: &tls.Config{MinVersion: tls.VersionTLS12}}
	sum := sha256.New()
	for _, add := range []func(*secrets, io.Writer) error{f.addAuthorities, f.addCertificate, f.addCredentials} {
		if err := add(s, sum); err != nil {
			return nil, err
		}
	}
	sum.Sum(s.sum[:0])
	return s, nil
}

func (f Files) addAuthorities(s *secrets, sum io.Writer) error {
	if f.CA == "" {
		return nil
	}
	text, err := readFile("-ca", f.CA, false, sum)
	if err != nil {
		return err
	}
	s.tls.RootCAs = x509.NewCertPool()
	if !s.tls.RootCAs.AppendCertsFromPEM(text) {
		return fmt.Errorf("-ca %q: no certificate in it", f.CA)
	}
	return nil
}

func (f Files) addCertificate(s *secrets, sum io.Writer) error {
	if f.Cert == "" {
		return nil
	}
	cert, err := readFile("-cert", f.Cert, false, sum)
	if err != nil {
		return err
	}
	key, err := readFile("-key", f.Key, true, sum)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("-cert %q, -key %q: %w", f.Cert, f.Key, err)
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}

func (f Files) addCredentials(s *secrets, sum io.Writer) error {
	if f.Credentials == "" {
		return nil
	}
	text, err := readFile("-credentials_file", f.Credentials, true, sum)
	if err != nil {
		return err
	}
	if s.user, s.password, err = parseCredentials(text); err != nil {
		return fmt.Errorf("-credentials_file %q: %w", f.Credentials, err)
	}
	return nil
}

// parseCredentials parses USER:PASSWORD, behind which the line may end.
func parseCredentials(text []byte) (user, password string, err error) {
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	user, password, ok := strings.Cut(line, ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(line, "\r\n") {
		return "", "", errors.New("it does not have one line USER:PASSWORD")
	}
	return user, password, nil
}

// readFile reads the file of a flag, and adds it to a sum. Only its owner and its group may have a
// right to a secret.
func readFile(flag, path string, secret bool, sum io.Writer) ([]byte, error) {
	text, err := readRegular(path, secret)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", flag, path, err)
	}
	fmt.Fprintf(sum, "%d %s", len(text), text)
	return text, nil
}

func readRegular(path string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case secret && info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Errorf("everybody may use it (mode %03o): chmod o= it", info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return text, err
}
