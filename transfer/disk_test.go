// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/test/hub"
)

// smallDisk is a file system with room for size bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", size)); err != nil {
		t.Skip("needs a mount of tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// TestFullDisk fills the disk with the download, and with what comes out of
// it; a smaller image fits afterwards.
func TestFullDisk(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "large", "amd64", noise(t, "a", 3<<20), noise(t, "b", 10<<20))
	words := bytes.Repeat([]byte("words that pack well "), 1<<19) // 11 MB
	h.Image("x", "packed", "amd64", entries(t, file("a", "a")), entries(t, file("b", string(words))))
	h.Image("x", "small", "amd64", entries(t, file("a", "a")))
	w := openWorld(t, smallDisk(t, 8<<20))
	for _, tag := range []string{"large", "packed"} {
		for _, snapshotter := range []string{"overlayfs", "native"} {
			err := w.Pull(t.Context(), scope, h.Ref("x", tag), pullOpts("i", snapshotter))
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("%s with %s: %v", tag, snapshotter, err)
			}
			w.clean(t)
		}
	}
	if err := w.Pull(t.Context(), scope, h.Ref("x", "small"), pullOpts("i", "overlayfs")); err != nil {
		t.Errorf("an image that fits: %v", err)
	}
}

func TestFullDiskDuringImport(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "t", "amd64", noise(t, "a", 10<<20))
	from := newWorld(t)
	if err := from.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := from.Export(t.Context(), scope, &out, ExportOpts{Images: []string{"i"}}, silent); err != nil {
		t.Fatal(err)
	}
	w := openWorld(t, smallDisk(t, 8<<20))
	opts := importOpts(Reference{Name: "p", IsPrefix: true, AllowOverwrite: true})
	if err := w.Import(t.Context(), scope, &out, opts, silent); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	w.clean(t)
}
