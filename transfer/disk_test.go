// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/content"
	"slipway/test/hub"
	"slipway/test/smalldisk"
)

// TestFullDisk fills the disk with the download, and with what comes out of
// it; a smaller image fits afterwards.
func TestFullDisk(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "large", "amd64", noise(t, "a", 3<<20), noise(t, "b", 10<<20))
	words := bytes.Repeat([]byte("words that pack well "), 1<<19) // 11 MB
	h.Image("x", "packed", "amd64", entries(t, file("a", "a")), entries(t, file("b", string(words))))
	h.Image("x", "small", "amd64", entries(t, file("a", "a")))
	w := openWorld(t, smalldisk.New(t, "tmpfs", 8<<20))
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
	if err := from.Export(t.Context(), scope, &out, ExportOpts{Images: []Reference{{Name: "i"}}}, silent); err != nil {
		t.Fatal(err)
	}
	w := openWorld(t, smalldisk.New(t, "tmpfs", 8<<20))
	opts := importOpts(Reference{Name: "p", IsPrefix: true, AllowOverwrite: true})
	if err := w.Import(t.Context(), scope, &out, opts, silent); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	w.clean(t)
}

// TestAFullDiskIsFreed fills the disk to the last block, also with what the
// databases take, before everything on it is removed.
func TestAFullDiskIsFreed(t *testing.T) {
	h := hub.New(t, hub.Options{})
	for i := range 2 {
		var layers [][]byte
		for j := range 4 {
			layers = append(layers, entries(t, file("f", fmt.Sprint(i, j))))
		}
		h.Image("x", fmt.Sprint("t", i), "amd64", layers...)
	}
	for _, fsType := range []string{"tmpfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			w := openWorld(t, smalldisk.New(t, fsType, 24<<20))
			for i := range 2 {
				for _, snapshotter := range []string{"overlayfs", "native"} {
					opts := pullOpts(fmt.Sprint(snapshotter, i), snapshotter)
					if err := w.Pull(t.Context(), scope, h.Ref("x", fmt.Sprint("t", i)), opts); err != nil {
						t.Fatal(err)
					}
				}
			}
			free := smalldisk.Fill(t, w.dir)
			w.fillDatabases(t)
			w.removeAll(t)
			w.clean(t)
			if err := w.DB.Content(scope).Walk(t.Context(), func(i content.Info) error { return fmt.Errorf("left: %v", i.Digest) }); err != nil {
				t.Error(err)
			}
			free()
			if err := w.Pull(t.Context(), scope, h.Ref("x", "t0"), pullOpts("i", "native")); err != nil {
				t.Errorf("a pull afterwards: %v", err)
			}
		})
	}
}

// fillDatabases adds records until there is no room for them.
func (w *world) fillDatabases(t *testing.T) {
	t.Helper()
	for i := 0; ; i++ {
		_, err := w.DB.Leases(scope.Namespace).Create(t.Context(), fmt.Sprint("lease", i), nil)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; ; i++ {
		_, err := w.native.View(t.Context(), fmt.Sprint("view", i), "", nil)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// removeAll is what a user does who has to make room.
func (w *world) removeAll(t *testing.T) {
	t.Helper()
	leases := w.DB.Leases(scope.Namespace)
	all, err := leases.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if err := leases.Delete(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	images, err := w.DB.Images(scope).List(t.Context())
	if err != nil || len(images) != 4 {
		t.Fatal(len(images), err)
	}
	for _, i := range images {
		if err := w.DB.Images(scope).Delete(t.Context(), i.Name, nil); err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
	}
}
