// SPDX-License-Identifier: Apache-2.0

// Package smalldisk gives tests small file systems and fills them.
package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/internal/mount"
)

// New is a file system with room for about size bytes, tmpfs or one that
// mkfs.<fsType> makes. It skips the test where that cannot be.
func New(t testing.TB, fsType string, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if fsType == "tmpfs" {
		at(t, mount.Mount{Type: fsType, Source: fsType, Options: []string{fmt.Sprint("size=", size)}}, dir)
	} else {
		Mount(t, fsType, Image(t, fsType, t.TempDir(), size), dir)
	}
	return dir
}

// Mount mounts the file system in a file until the test ends, or skips the test
// where that cannot be.
func Mount(t testing.TB, fsType, file, dir string) {
	t.Helper()
	at(t, mount.Mount{Type: fsType, Source: file, Options: []string{"loop"}}, dir)
}

func at(t testing.TB, m mount.Mount, dir string) {
	t.Helper()
	if err := mount.All([]mount.Mount{m}, dir); err != nil {
		t.Skipf("needs a mount of %s: %v", m.Type, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// Image makes a file system in a file in dir. No block of ext4 is kept for
// root, who runs the tests.
func Image(t testing.TB, fsType, dir string, size int64) string {
	t.Helper()
	file := filepath.Join(dir, fsType+".img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	args := []string{file}
	if fsType == "ext4" {
		args = []string{"-m", "0", file}
	}
	if out, err := exec.Command("mkfs."+fsType, args...).CombinedOutput(); err != nil {
		t.Skipf("mkfs.%s: %v: %s", fsType, err, out)
	}
	return file
}

// Fill leaves no block free on the file system of dir. What it returns gives
// them back.
func Fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err = f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// What was only promised to a file may be less than thought of.
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bavail != 0 {
		t.Fatalf("%s has %d blocks free: %v", dir, st.Bavail, err)
	}
	return func() { os.Remove(name) }
}
