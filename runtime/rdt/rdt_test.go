// SPDX-License-Identifier: Apache-2.0

package rdt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fake is a directory like resctrl, with a class of service and its files.
func fake(t *testing.T, class string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"", class} {
		for _, file := range []string{"schemata", "tasks", "info/last_cmd_status", "mon_groups/x"} {
			path := filepath.Join(root, dir, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestANamedClassIsUsed(t *testing.T) {
	root := fake(t, "gold")
	g, err := Create(root, "c1", &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L2:0=3"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, root+"/gold/schemata"); got != "L3:0=f\nMB:0=20\nL2:0=3\n" {
		t.Errorf("schemata: %q", got)
	}
	if err := g.Join(42); err != nil || text(t, root+"/gold/tasks") != "42" {
		t.Errorf("join: %v", err)
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(root + "/gold"); err != nil {
		t.Errorf("a class that was there is gone: %v", err)
	}
}

func TestAMissingClassWithoutSchemaIsRefused(t *testing.T) {
	if _, err := Create(fake(t, ""), "c1", &specs.LinuxIntelRdt{ClosID: "gold"}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "gold") {
		t.Errorf("got %v", err)
	}
}

func TestMonitoringHasItsOwnGroup(t *testing.T) {
	root := fake(t, "")
	g, err := Create(root, "c1", &specs.LinuxIntelRdt{EnableMonitoring: true})
	if err != nil {
		t.Fatal(err)
	}
	if g.Dir != root || g.Monitor != root+"/mon_groups/c1" {
		t.Errorf("%+v", g)
	}
	if err := Load(g.Dir, "c1").Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Monitor); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group is left: %v", err)
	}
}

func TestAFailedCreateLeavesNoClass(t *testing.T) {
	root := t.TempDir() // where a new class has no schemata file
	if _, err := Create(root, "c1", &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}); err == nil {
		t.Fatal("no error")
	}
	if left, _ := os.ReadDir(root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestCheck(t *testing.T) {
	for _, bad := range []*specs.LinuxIntelRdt{{ClosID: ".."}, {ClosID: "a/b"}, {L3CacheSchema: "L3:0=f\nMB:0=1"}} {
		if err := Check(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, good := range []*specs.LinuxIntelRdt{nil, {ClosID: "/"}, {ClosID: "gold"}} {
		if err := Check(good); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
}

func TestResctrlMustBeMounted(t *testing.T) {
	if _, err := os.Stat(MountPoint + "/schemata"); err == nil {
		t.Skip("it is")
	}
	if _, err := Create(MountPoint, "c1", &specs.LinuxIntelRdt{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("got %v", err)
	}
}

func TestSchemasOfAContainersClassChange(t *testing.T) {
	root := fake(t, "gold")
	for _, resource := range []string{"L3", "MB"} {
		if err := os.MkdirAll(filepath.Join(root, "info", resource), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g := Load(root+"/gold", "c1")
	for _, c := range []struct{ l3, bandwidth, want string }{
		{"L3:0=3", "MB:0=50", "L3:0=3\nMB:0=50\n"},
		{"", "MB:0=20", "MB:0=20\n"},
	} {
		if err := os.WriteFile(root+"/gold/schemata", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := g.Change(root, c.l3, c.bandwidth); err != nil || text(t, root+"/gold/schemata") != c.want {
			t.Errorf("%q, %v; want %q", text(t, root+"/gold/schemata"), err, c.want)
		}
	}
	if err := g.Change(root, "", ""); err != nil {
		t.Errorf("nothing to change: %v", err)
	}
}

func TestSchemasThatCannotChange(t *testing.T) {
	root := fake(t, "gold")
	if err := os.MkdirAll(root+"/info/L3", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dir, l3, bandwidth, want string }{
		{root + "/gold", "", "MB:0=50", "memory bandwidth schema is not enabled"},
		{"", "L3:0=3", "", "non-existent Intel RDT configuration"},
		{root, "L3:0=3", "", "default class of service"},
		{root + "/gold", "L3:0=3\nMB:0=1", "", "more than one line"},
	} {
		err := Load(c.dir, "c1").Change(root, c.l3, c.bandwidth)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if got := text(t, root+"/gold/schemata") + text(t, root+"/schemata"); got != "" {
		t.Errorf("written: %q", got)
	}
	err := Load(root+"/gold", "c1").Change(t.TempDir(), "L3:0=3", "")
	if err == nil || !strings.Contains(err.Error(), "l3 cache schema is not enabled") {
		t.Errorf("without resctrl: %v", err)
	}
}
