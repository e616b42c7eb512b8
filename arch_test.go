// SPDX-License-Identifier: Apache-2.0

package slipway

import (
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// layers lists the packages from the ground up. A package may import packages
// of lower layers only, apart from its own sub-packages; a package that is
// missing here fails the test. A trailing /... covers a tree.
var layers = [][]string{
	{"internal/...", "linux"},
	{"content/...", "snapshot/...", "event", "oci/...", "cni", "runtime/cgroup", "runtime/criu", "runtime/hook", "runtime/mempolicy", "runtime/netdev", "runtime/rdt", "runtime/seccomp", "runtime/protocol"},
	{"image", "runtime/rootfs"},
	{"registry/...", "diff", "policy", "runtime/features", "runtime/init"},
	{"meta", "image/archive", "image/convert", "image/fsck", "runtime/..."},
	{"transfer", "task/...", "shim", "mounts"},
	{"sandbox", "monitor"},
	{"service", "client", "proxy"},
	{"daemon", "ctr/progress"},
	{"ctr"},
	{"cmd/..."},
	{"test/...", "bench/..."},
}

// side packages stand on the wire: they never see the daemon's inside.
var side = map[string][]string{
	"client": {"meta", "task", "transfer", "service", "daemon", "shim"},
	"ctr":    {"meta", "task", "transfer", "service", "daemon", "shim"},
	"shim":   {"meta", "task", "transfer", "service", "daemon", "content", "registry"},
	"task":   {"shim", "transfer"},
}

// replaced are the modules that nothing here may import.
var replaced = []string{"containerd/containerd/v2", "opencontainers/runc"}

func layerOf(dir string) int {
	for i, pkgs := range layers {
		for _, p := range pkgs {
			tree, ok := strings.CutSuffix(p, "/...")
			if dir == p || ok && (dir == tree || strings.HasPrefix(dir, tree+"/")) {
				return i + 1
			}
		}
	}
	return 0
}

func TestImportsGoDown(t *testing.T) {
	filepath.WalkDir(".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || dir == "." {
			return err
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
			return filepath.SkipDir // another module, or none of ours
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.SkipDir // a module of its own
		}
		if p, err := build.ImportDir(dir, 0); err == nil {
			checkImports(t, dir, p.Imports)
		}
		return nil
	})
}

func checkImports(t *testing.T, dir string, imports []string) {
	if layerOf(dir) == 0 {
		t.Errorf("%s is in no layer", dir)
	}
	for _, imp := range imports {
		for _, module := range replaced {
			if strings.HasPrefix(imp, "github.com/"+module) {
				t.Errorf("%s imports %s, which this project replaces", dir, imp)
			}
		}
		dep, ours := strings.CutPrefix(imp, "slipway/")
		if !ours {
			continue
		}
		for _, no := range side[dir] {
			if dep == no {
				t.Errorf("%s must not import %s", dir, dep)
			}
		}
		own := strings.HasPrefix(dir, dep+"/") || strings.HasPrefix(dep, dir+"/")
		low := layerOf(dep) == 1 && layerOf(dir) == 1
		if layerOf(dep) >= layerOf(dir) && !own && !low {
			t.Errorf("%s imports %s, which is not below it", dir, dep)
		}
	}
}
