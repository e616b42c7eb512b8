// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/fault"
	"slipway/internal/mount"
	"slipway/mounts"
	"slipway/snapshot"
)

// crashing names the variables by which the test binary becomes the process
// that dies: the driver and its root.
const crashing = "SNAPSHOT_CRASHING"

func TestMain(m *testing.M) {
	driver, root, ok := strings.Cut(os.Getenv(crashing), ":")
	if !ok {
		os.Exit(m.Run())
	}
	act := live
	if driver == inNamespace {
		act = describe
	}
	if err := act(context.Background(), driver, root); err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func openDriver(driver, root string) (*snapshot.Store, error) {
	switch driver {
	case "overlayfs":
		return snapshot.OpenOverlay(root, snapshot.OverlayOpts{})
	case "native":
		return snapshot.OpenNative(root)
	case "btrfs":
		return snapshot.OpenBtrfs(root)
	case "blockfile":
		return snapshot.OpenBlockfile(root, snapshot.BlockfileOpts{Scratch: root + ".scratch"})
	case "erofs":
		return snapshot.OpenErofs(root, snapshot.ErofsOpts{})
	}
	return nil, errors.New("no driver " + driver)
}

// live is a short life of a store: a layer, one on top of it, both removed.
// Each step can be done again.
func live(ctx context.Context, driver, root string) error {
	s, err := openDriver(driver, root)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, l := range []struct{ name, parent string }{{"one", ""}, {"two", "one"}} {
		if _, err := s.Stat(ctx, l.name); err == nil {
			continue
		}
		if _, err := s.Stat(ctx, l.name+"-active"); err != nil {
			list, err := s.Prepare(ctx, l.name+"-active", l.parent, nil)
			if err != nil {
				return err
			}
			if err := writeData(list); err != nil {
				return err
			}
		}
		if err := s.Commit(ctx, l.name, l.name+"-active", snapshot.CommitOpts{}); err != nil {
			return err
		}
	}
	for _, name := range []string{"two", "one"} {
		if err := s.Remove(ctx, name); err != nil {
			return err
		}
		if err := s.Cleanup(ctx); err != nil {
			return err
		}
	}
	return nil
}

// writeData puts a file into a snapshot that can be written to without mounting.
func writeData(list []mount.Mount) error {
	if len(list) != 1 || list[0].Type != "bind" {
		return nil
	}
	return os.WriteFile(filepath.Join(list[0].Source, "data"), []byte("data"), 0o600)
}

// TestAStoreSurvivesACrashAtEveryStep kills a process at each durable step and
// opens what it left: it can be mounted, it can be gone on with, and nothing
// stays that is not in the tree.
func TestAStoreSurvivesACrashAtEveryStep(t *testing.T) {
	steps := []string{
		"create.filled", "create.placed", "create.recorded", "create.filled:2", "create.placed:2", "create.recorded:2",
		"commit.sealed", "commit.placed", "commit.recorded", "commit.sealed:2", "commit.placed:2", "commit.recorded:2",
		"remove.recorded", "cleanup.moved", "remove.recorded:2",
	}
	for driver, setup := range map[string]func(t *testing.T) string{
		"overlayfs": func(t *testing.T) string { return t.TempDir() },
		"native":    func(t *testing.T) string { return t.TempDir() },
		"erofs": func(t *testing.T) string {
			needs(t, "erofs", "mkfs.erofs")
			return t.TempDir()
		},
		"blockfile": func(t *testing.T) string {
			needs(t, "ext4", "mkfs.ext4")
			root := filepath.Join(t.TempDir(), "root")
			image := empty(t, "ext4", 2<<20, "-q", "-F", "-O", "^has_journal")
			run(t, "cp", "--sparse=always", image, root+".scratch")
			return root
		},
		"btrfs": func(t *testing.T) string {
			needs(t, "btrfs", "mkfs.btrfs")
			return mounted(t, empty(t, "btrfs", 128<<20, "-q"), "btrfs")
		},
	} {
		t.Run(driver, func(t *testing.T) {
			root := setup(t)
			if driver == "blockfile" {
				t.Run("scratch.copied", func(t *testing.T) { crash(t, driver, root, "scratch.copied") })
			}
			for _, step := range steps {
				if moves := driver == "btrfs" || driver == "erofs"; strings.HasPrefix(step, "commit.placed") && !moves {
					continue // a commit moves no files
				}
				t.Run(step, func(t *testing.T) { crash(t, driver, root, step) })
			}
		})
	}
}

func crash(t *testing.T, driver, root, step string) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashing+"="+driver+":"+root, fault.Env+"=snapshot."+step)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed: %v: %s", err, out)
	}
	s, err := openDriver(driver, root)
	if err != nil {
		t.Fatal(err)
	}
	m := manager(t, root)
	if err := s.Walk(t.Context(), func(i snapshot.Info) error {
		written := driver != "btrfs" && driver != "blockfile" && (i.Kind == snapshot.Committed || strings.HasPrefix(step, "commit."))
		return show(t, s, m, i, written)
	}); err != nil {
		t.Errorf("what is left: %v", err)
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Errorf("cleanup: %v", err)
	}
	s.Close()
	if err := live(t.Context(), driver, root); err != nil {
		t.Errorf("going on: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(root, "scratch.*")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	for _, home := range []string{"snapshots", "active", "view"} {
		if left, _ := os.ReadDir(filepath.Join(root, home)); len(left) != 0 {
			t.Errorf("left in %s: %v", home, left)
		}
	}
}

// show mounts what there is, a committed snapshot by a child, and looks for what
// was written.
func show(t *testing.T, s *snapshot.Store, m *mounts.Manager, i snapshot.Info, written bool) error {
	key := i.Name
	if i.Kind == snapshot.Committed {
		key = "child of " + i.Name
		if _, err := s.Prepare(t.Context(), key, i.Name, nil); err != nil {
			return err
		}
		defer s.Remove(t.Context(), key)
	}
	list, err := s.Mounts(t.Context(), key)
	if err != nil {
		return err
	}
	return m.With(t.Context(), "test", t.TempDir(), list, func(at string) error {
		if data, err := os.ReadFile(filepath.Join(at, "data")); written && string(data) != "data" {
			t.Errorf("%s holds %q, %v", i.Name, data, err)
		}
		return nil
	})
}

// TestACleanupSparesANewSnapshotWithTheIDOfAnOrphan: what a crash left in the
// place of an id that is given out again.
func TestACleanupSparesANewSnapshotWithTheIDOfAnOrphan(t *testing.T) {
	s := overlay(t)
	for _, id := range []string{"1", "2", "3"} {
		if err := os.MkdirAll(filepath.Join(s.Root(), "snapshots", id, "fs", "old"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- s.Cleanup(t.Context()) }()
	for _, name := range []string{"a", "b", "c"} {
		list, err := s.Prepare(t.Context(), name, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		checkEmpty(t, list)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		list, err := s.Mounts(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		checkEmpty(t, list)
	}
}

func checkEmpty(t *testing.T, list []mount.Mount) {
	t.Helper()
	if entries, err := os.ReadDir(list[0].Source); err != nil || len(entries) != 0 {
		t.Errorf("%s: %v, %v; want an empty directory", list[0].Source, entries, err)
	}
}
