// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/internal/mount"
	"slipway/snapshot"
	"slipway/snapshot/snapshottest"
)

func overlay(t *testing.T) *snapshot.Store {
	t.Helper()
	s, err := snapshot.OpenOverlay(t.TempDir(), snapshot.OverlayOpts{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestOverlay(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter { return overlay(t) })
}

func TestNative(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter {
		s, err := snapshot.OpenNative(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func commit(t *testing.T, s *snapshot.Store, name, parent string) {
	t.Helper()
	if _, err := s.Prepare(t.Context(), name+"-active", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), name, name+"-active", snapshot.CommitOpts{Parent: parent}); err != nil {
		t.Fatal(err)
	}
}

// TestOverlayMounts is the form that clients know: options and their order.
func TestOverlayMounts(t *testing.T) {
	s := overlay(t)
	commit(t, s, "one", "")    // id 1
	commit(t, s, "two", "one") // id 2, rebased
	dir := filepath.Join(s.Root(), "snapshots")
	mounts, err := s.Prepare(t.Context(), "top", "two", nil)
	want := []string{"workdir=" + dir + "/3/work", "upperdir=" + dir + "/3/fs", "lowerdir=" + dir + "/2/fs:" + dir + "/1/fs"}
	if err != nil || len(mounts) != 1 || mounts[0].Type != "overlay" || mounts[0].Source != "overlay" || !slices.Equal(mounts[0].Options[:3], want) {
		t.Errorf("active: %+v, %v", mounts, err)
	}
	mounts, err = s.View(t.Context(), "view", "one", nil)
	bind := mount.Mount{Type: "bind", Source: dir + "/1/fs", Options: []string{"ro", "rbind"}}
	if err != nil || len(mounts) != 1 || mounts[0].Source != bind.Source || !slices.Equal(mounts[0].Options, bind.Options) {
		t.Errorf("view of one layer: %+v, %v", mounts, err)
	}
	for path, mode := range map[string]os.FileMode{"3": 0o700, "3/fs": 0o755, "3/work": 0o711} {
		if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", path, fi.Mode().Perm(), err, mode)
		}
	}
}

func TestRebaseNeedsAParentlessSnapshot(t *testing.T) {
	s := overlay(t)
	commit(t, s, "one", "")
	commit(t, s, "two", "")
	if _, err := s.Prepare(t.Context(), "x", "one", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "three", "x", snapshot.CommitOpts{Parent: "two"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("rebase from one parent to another: %v", err)
	}
	if err := s.Remove(t.Context(), "two"); err != nil {
		t.Errorf("two got no child: %v", err)
	}
}

func TestCleanupRemovesWhatARemoveLeft(t *testing.T) {
	s := overlay(t)
	commit(t, s, "one", "")
	if err := s.Remove(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Root(), "snapshots")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestOrphanGivesWay: a process that dies between placing the files of a
// snapshot and recording it leaves them under an id that is given out again.
func TestOrphanGivesWay(t *testing.T) {
	s := overlay(t)
	orphan := filepath.Join(s.Root(), "snapshots/1/fs")
	if err := os.MkdirAll(orphan, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(orphan+"/old", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	commit(t, s, "one", "")
	if _, err := os.Stat(orphan + "/old"); !os.IsNotExist(err) {
		t.Errorf("the orphan's file is in the snapshot: %v", err)
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Root(), "snapshots")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestOpenRemovesUnfinished(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/snapshots/new-123/fs", 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.OpenOverlay(root, snapshot.OverlayOpts{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(root + "/snapshots/new-123"); !os.IsNotExist(err) {
		t.Errorf("new-123: %v", err)
	}
}
