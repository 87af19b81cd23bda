package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goerlang/eclus/test/wait"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code     = regexp.MustCompile("(?ms)^```.*?^```$|^    .*?$")
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// documents returns the Markdown files of these sources and their text without code.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	wait.Must(t, filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "build" || entry.Name() == ".git") {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			text, err := os.ReadFile(path)
			texts[path] = code.ReplaceAllString(string(text), "")
			return err
		}
		return nil
	}))
	return texts
}

// anchors returns the fragments by which links lead to the headings of a text.
func anchors(text string) (all []string) {
	for line := range strings.Lines(text) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' {
			plain := noAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			all = append(all, strings.ReplaceAll(plain, " ", "-"))
		}
	}
	return all
}

// TestDocumentLinks follows the links between our documents, and to other files of these sources.
func TestDocumentLinks(t *testing.T) {
	texts := documents(t)
	if len(texts) < 10 {
		t.Errorf("%d documents found; want 10 or more", len(texts))
	}
	for path, text := range texts {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			file, fragment, _ := strings.Cut(found[1], "#")
			if strings.Contains(file, ":") {
				continue
			}
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, found[1], err)
			} else if fragment != "" && !slices.Contains(anchors(texts[target]), fragment) {
				t.Errorf("%s links to %s: no such heading", path, found[1])
			}
		}
	}
}

// TestDocumentLength holds that README has at most 150 lines, and lines of text at most 120
// columns.
func TestDocumentLength(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	wait.Must(t, err)
	if n := strings.Count(string(readme), "\n"); n > 150 {
		t.Errorf("README.md has %d lines; want at most 150", n)
	}
	for path, text := range documents(t) {
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(line) - 1; n > 120 && line[0] != '|' {
				t.Errorf("%s: %d columns: %s", path, n, line)
			}
		}
	}
}
