package test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Limits of what a reader of the sources has to take in at once.
const (
	maxColumns = 100 // of a line with a comment; a tab takes four
	maxLines   = 50  // of a function that is no test
	maxRoom    = 900 // lines of a package below cmd/epmd that are no tests
)

// mayBeUnsafe are the files that import unsafe.
var mayBeUnsafe = map[string]bool{"epmd/socket.go": true}

// TestSource holds what CONTRIBUTING.md says of comments, functions, packages and unsafe.
func TestSource(t *testing.T) {
	rooms := make(map[string]int) // lines of each package that are no tests
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := source{t: t, files: token.NewFileSet(), path: filepath.ToSlash(path)[len("../"):]}
		if s.file, err = parser.ParseFile(s.files, path, src, parser.ParseComments); err != nil {
			return err
		}
		s.checkColumns(strings.Split(string(src), "\n"))
		if !strings.HasSuffix(path, "_test.go") {
			s.checkDeclarations()
			rooms[filepath.Dir(s.path)] += bytes.Count(src, []byte("\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room, lines := range rooms {
		if strings.HasPrefix(room, "cmd/epmd/") && lines > maxRoom {
			t.Errorf("%s has %d lines", room, lines)
		}
	}
}

// source is a file that is checked.
type source struct {
	t     *testing.T
	files *token.FileSet
	path  string // from the top of the tree
	file  *ast.File
}

func (s *source) line(p token.Pos) int { return s.files.Position(p).Line }

func (s *source) errorf(at token.Pos, format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("%s:%d: "+format, append([]any{s.path, s.line(at)}, args...)...)
}

// checkColumns checks each line that has a comment and is no directive.
func (s *source) checkColumns(lines []string) {
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			text := lines[s.line(c.Pos())-1]
			if !strings.HasPrefix(c.Text, "//go:") && utf8.RuneCountInString(strings.ReplaceAll(text, "\t", "    ")) > maxColumns {
				s.errorf(c.Pos(), "a comment beyond column %d", maxColumns)
			}
		}
	}
}

func (s *source) checkDeclarations() {
	for _, i := range s.file.Imports {
		if i.Path.Value == `"unsafe"` && !mayBeUnsafe[s.path] {
			s.errorf(i.Pos(), "imports unsafe")
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if lines := s.line(d.End()) - s.line(d.Pos()) + 1; lines > maxLines {
				s.errorf(d.Pos(), "%s has %d lines", d.Name.Name, lines)
			}
			if isPublic(d) {
				s.checkComment(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				s.checkSpec(d, spec)
			}
		}
	}
}

// isPublic reports whether a function is no method, or one of an exported type.
func isPublic(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	of := d.Recv.List[0].Type
	if pointer, ok := of.(*ast.StarExpr); ok {
		of = pointer.X
	}
	if generic, ok := of.(*ast.IndexExpr); ok {
		of = generic.X
	}
	name, ok := of.(*ast.Ident)
	return ok && name.IsExported()
}

func (s *source) checkSpec(d *ast.GenDecl, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		s.checkComment(spec.Name, d.Doc, spec.Doc)
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			s.checkComment(name, d.Doc, spec.Doc, spec.Comment)
		}
	}
}

// checkComment checks that an exported name has one of the comments.
func (s *source) checkComment(name *ast.Ident, comments ...*ast.CommentGroup) {
	for _, c := range comments {
		if c != nil {
			return
		}
	}
	if name.IsExported() {
		s.errorf(name.Pos(), "%s has no comment", name.Name)
	}
}
