// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/internal/fault"
	"slipway/test/hub"
)

// TestKilledAtEveryStep kills a process that pulls at each of its durable
// steps. Afterwards the image is absent or whole, a collection leaves nothing
// of an absent one, and another pull gives the same tree.
func TestKilledAtEveryStep(t *testing.T) {
	if dir := os.Getenv("TRANSFER_TEST_DIR"); dir != "" {
		if err := openWorld(t, dir).Pull(t.Context(), scope, os.Getenv("TRANSFER_TEST_REF"), pullOpts("i", "overlayfs")); err != nil {
			t.Fatal(err)
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to unpack")
	}
	h := hub.New(t, hub.Options{})
	h.Image("x", "t", "amd64", corpus(t)...)
	whole := newWorld(t)
	if err := whole.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	want := whole.show(t, "overlayfs")
	for _, point := range []string{
		"content.ingest.made", "content.commit.synced", "content.commit.renamed", "meta.ingest.registered", "meta.content.committed",
		"meta.snapshot.prepared", "meta.snapshot.committed", "transfer.layer.applied", "transfer.layer.flushed", "transfer.image.recording",
	} {
		for _, nth := range []int{1, 4} {
			t.Run(fmt.Sprint(point, ".", nth), func(t *testing.T) {
				dir := t.TempDir()
				killAt(t, dir, h.Ref("x", "t"), fmt.Sprint(point, ":", nth))
				w := openWorld(t, dir)
				if _, err := w.DB.Images(scope).Get(t.Context(), "i"); err == nil {
					if got := w.show(t, "overlayfs"); got != want {
						t.Errorf("the image is recorded and its tree is\n%s", got)
					}
				} else if !errdefs.IsNotFound(err) {
					t.Error(err)
				}
				if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
					t.Fatal(err)
				}
				if got := w.show(t, "overlayfs"); got != want {
					t.Errorf("after another pull:\n%swant\n%s", got, want)
				}
			})
		}
	}
}

// killAt pulls in a process that dies at a fault point, if it comes to it.
func killAt(t *testing.T, dir, ref, point string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledAtEveryStep$")
	cmd.Env = append(os.Environ(), "TRANSFER_TEST_DIR="+dir, "TRANSFER_TEST_REF="+ref, fault.Env+"="+point)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Exited()) {
		t.Fatalf("the pull ended with %v: %s", err, out)
	}
}
