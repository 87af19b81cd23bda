//go:build !race

package test

// buildFlags are those that epmd is built with.
var buildFlags []string
