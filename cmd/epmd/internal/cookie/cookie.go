// Package cookie finds the cookie of Erlang nodes where OTP looks for it.
//
// Find reads at most one small file, and the environment that the caller hands in. It starts no
// goroutine, and waits for nothing but the file system.
package cookie

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goerlang/eclus/node"
)

// Variable is the environment variable that may hold the cookie.
const Variable = "ERLANG_COOKIE"

const (
	maxCookie     = 255     // characters: it is an atom
	maxCookieFile = 4 << 10 // bytes that are read
)

// ErrNone is the error of Find if there is no cookie at all.
var ErrNone = errors.New("no cookie: neither -cookie_file nor " + Variable + " is given, and there is no ~/.erlang.cookie")

// Find returns the cookie and its source. The first of these counts: the file of -cookie_file, the
// environment variable ERLANG_COOKIE, ~/.erlang.cookie and $XDG_CONFIG_HOME/erlang/.erlang.cookie.
// OTP looks for the two files too. The error is ErrNone if there is none of these.
func Find(file string, getenv func(string) (string, bool)) (cookie node.Cookie, from string, err error) {
	if file != "" {
		cookie, err := readCookie(file)
		return cookie, file, err
	}
	if value, ok := getenv(Variable); ok {
		cookie, err := checkCookie(value)
		if err != nil {
			return "", "", fmt.Errorf("cookie in %s: %w", Variable, err)
		}
		return cookie, Variable, nil
	}
	for _, path := range cookiePaths(getenv) {
		cookie, err := readCookie(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return cookie, path, err
		}
	}
	return "", "", ErrNone
}

// cookiePaths returns where OTP looks for the user's cookie.
func cookiePaths(getenv func(string) (string, bool)) []string {
	home, _ := getenv("HOME")
	config, _ := getenv("XDG_CONFIG_HOME")
	var paths []string
	if home != "" {
		paths = append(paths, filepath.Join(home, ".erlang.cookie"))
	}
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	if config != "" {
		paths = append(paths, filepath.Join(config, "erlang", ".erlang.cookie"))
	}
	return paths
}

// readCookie reads a cookie file. As in OTP, it must be a regular file that nobody but its owner
// may use.
func readCookie(path string) (node.Cookie, error) {
	info, err := os.Stat(path) // opening a FIFO would wait
	if err != nil {
		return "", fmt.Errorf("cookie file: %w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return "", fmt.Errorf("cookie file %q is no regular file", path)
	case mode.Perm()&0o077 != 0:
		return "", fmt.Errorf("cookie file %q can be used by others than its owner (mode %03o): chmod 400 it", path, mode.Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cookie file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCookieFile))
	if err != nil {
		return "", fmt.Errorf("cookie file: %w", err)
	}
	cookie, err := checkCookie(string(text))
	if err != nil {
		return "", fmt.Errorf("cookie file %q: %w", path, err)
	}
	return cookie, nil
}

// checkCookie returns the cookie in a text. As in OTP, that is what begins the text, of characters
// from blank to ~. Only blanks and ends of lines may follow. An error does not show the cookie.
func checkCookie(s string) (node.Cookie, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	if end < 0 {
		end = len(s)
	}
	cookie, rest := s[:end], s[end:]
	switch {
	case strings.Trim(rest, " \r\n") != "":
		return "", errors.New("the cookie has characters that are no printable ASCII")
	case cookie == "":
		return "", errors.New("the cookie is empty")
	case len(cookie) > maxCookie:
		return "", fmt.Errorf("the cookie has more than %d characters", maxCookie)
	}
	return node.Cookie(cookie), nil
}
