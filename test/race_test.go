//go:build race

package test

// buildFlags are those that epmd is built with. It is checked for what the tests are checked for.
var buildFlags = []string{"-race"}
