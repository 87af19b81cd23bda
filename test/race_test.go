//go:build race

package test

// buildFlags are those that epmd is built with: what the tests are checked for, it is checked for too.
var buildFlags = []string{"-race"}
