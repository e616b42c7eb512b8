// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/content"
	"slipway/event"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/mounts"
	"slipway/snapshot"
	"slipway/snapshot/snapshottest"
)

// needs skips a test that cannot run here: it mounts images of a file system.
func needs(t *testing.T, fsType string, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(list, []byte("\t"+fsType+"\n")) {
		t.Skipf("the kernel has no %s", fsType)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("loop devices: %v", err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s", p)
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// empty makes an image of an empty file system.
func empty(t *testing.T, fsType string, size int64, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), fsType+".img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs."+fsType, append(options, image)...)
	return image
}

// opened closes a store when its test ends.
func opened(t *testing.T, s *snapshot.Store, err error) *snapshot.Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// mounted shows an image at a directory until the test ends.
func mounted(t *testing.T, image, fsType string) string {
	t.Helper()
	at := t.TempDir()
	if err := mount.All([]mount.Mount{{Type: fsType, Source: image, Options: []string{"loop"}}}, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Unmount(at); err != nil {
			t.Error(err)
		}
	})
	return at
}

func TestBlockfile(t *testing.T) {
	for _, c := range []struct {
		fsType  string
		size    int64
		mkfs    []string
		options []string
	}{
		{"ext4", 8 << 20, []string{"-q", "-F", "-O", "^has_journal"}, nil},
		{"xfs", 300 << 20, []string{"-q"}, []string{"nouuid"}},
	} {
		t.Run(c.fsType, func(t *testing.T) {
			needs(t, c.fsType, "mkfs."+c.fsType)
			scratch := empty(t, c.fsType, c.size, c.mkfs...)
			snapshottest.Suite{Images: true, Open: func(t *testing.T) snapshot.Snapshotter {
				s, err := snapshot.OpenBlockfile(t.TempDir(), snapshot.BlockfileOpts{Scratch: scratch, FSType: c.fsType, Options: c.options})
				return opened(t, s, err)
			}}.Run(t)
		})
	}
}

func TestBtrfs(t *testing.T) {
	needs(t, "btrfs", "mkfs.btrfs", "btrfstune")
	image := empty(t, "btrfs", 256<<20, "-q")
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter {
		copied := filepath.Join(t.TempDir(), "image")
		run(t, "cp", "--sparse=always", image, copied)
		run(t, "btrfstune", "-f", "-u", copied) // two of one id cannot be mounted
		s, err := snapshot.OpenBtrfs(mounted(t, copied, "btrfs"))
		return opened(t, s, err)
	})
}

// manager gives what performs the mounts of EROFS snapshots.
func manager(t *testing.T, root string) *mounts.Manager {
	t.Helper()
	dir := t.TempDir()
	local, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(filepath.Join(dir, "meta.db"), meta.Options{NoSync: true}, local, nil, event.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	m, err := mounts.Open(mounts.Config{State: filepath.Join(dir, "state"), Roots: []string{root}, DB: db})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestErofs(t *testing.T) {
	needs(t, "erofs", "mkfs.erofs", "mkfs.ext4")
	for name, size := range map[string]int64{"written to a directory": 0, "written to an image": 16 << 20} {
		t.Run(name, func(t *testing.T) {
			var m *mounts.Manager
			snapshottest.Suite{
				Images: true,
				Open: func(t *testing.T) snapshot.Snapshotter {
					root := t.TempDir()
					m = manager(t, root)
					s, err := snapshot.OpenErofs(root, snapshot.ErofsOpts{Size: size})
					return opened(t, s, err)
				},
				Mount: func(t *testing.T, list []mount.Mount, fn func(string) error) error {
					return m.With(context.WithoutCancel(t.Context()), "test", t.TempDir(), list, fn)
				},
			}.Run(t)
		})
	}
}
