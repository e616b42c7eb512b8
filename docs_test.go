// SPDX-License-Identifier: Apache-2.0

package slipway

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// read returns a file of the tree.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFlowsNameFilesThatExist(t *testing.T) {
	for _, name := range regexp.MustCompile(`[a-z]+(/[a-z_]+)*/[a-z_]+\.go`).FindAllString(read(t, "docs/flows.md"), -1) {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("docs/flows.md: %v", err)
		}
	}
}

// TestPromisesHaveTheirTests: a row of docs/compat.md names tests that exist.
func TestPromisesHaveTheirTests(t *testing.T) {
	defined := testsOfTheTree(t)
	for _, name := range regexp.MustCompile(`\b(Test|Fuzz)[A-Z][A-Za-z0-9]+…?`).FindAllString(read(t, "docs/compat.md"), -1) {
		if !exists(defined, name) {
			t.Errorf("docs/compat.md names %s, which does not exist", name)
		}
	}
}

// exists looks a test up. A name that ends in an ellipsis stands for all that
// begin so.
func exists(defined map[string]bool, name string) bool {
	prefix, many := strings.CutSuffix(name, "…")
	if !many {
		return defined[name]
	}
	for d := range defined {
		if strings.HasPrefix(d, prefix) {
			return true
		}
	}
	return false
}

func testsOfTheTree(t *testing.T) map[string]bool {
	t.Helper()
	defined := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") && !strings.HasSuffix(path, "test.go") {
			return nil
		}
		for _, m := range function.FindAllStringSubmatch(read(t, path), -1) {
			defined[m[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return defined
}
