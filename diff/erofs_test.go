// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/erofs"
	"slipway/internal/mount"
)

// recorder stands for a mkfs.erofs that reads archives: its images are what it
// reads, and it notes how it was called.
const recorder = `#!/bin/sh
for image; do :; done
echo "$@" > "$image.args"
case " $* " in *" fail "*) echo broken >&2; exit 1;; esac
cat > "$image"
`

// layerAt makes the directory of a snapshot that is to become an image, and
// gives its mounts.
func layerAt(t *testing.T) (dir string, mounts []mount.Mount) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "fs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, erofs.Marker), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, []mount.Mount{
		{Type: "erofs", Source: "/lower", Options: []string{"ro", "loop"}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{"upperdir=" + dir + "/fs", "lowerdir={{ mount 0 }}"}},
	}
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

func withRecorder(t *testing.T) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "mkfs.erofs"), []byte(recorder), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// TestAnArchiveBecomesTheImageOfItsSnapshot, uncompressed, and its digest is
// that of the archive.
func TestAnArchiveBecomesTheImageOfItsSnapshot(t *testing.T) {
	withRecorder(t)
	dir, mounts := layerAt(t)
	data := []byte("an archive")
	opts := ApplyOpts{Erofs: &ErofsOpts{Mkfs: []string{"-zlz4"}}}
	applied, err := ApplyStream(t.Context(), opener(data), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}, mounts, opts)
	if err != nil || applied.Digest != digest.FromBytes(data) || applied.Size != int64(len(data)) {
		t.Errorf("applied %v, %v", applied, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, erofs.Image)); !bytes.Equal(got, data) {
		t.Errorf("the image holds %q, %v", got, err)
	}
	args, err := filepath.Glob(filepath.Join(dir, "new-*.args"))
	if err != nil || len(args) != 1 {
		t.Fatalf("calls %v, %v", args, err)
	}
	if line, _ := os.ReadFile(args[0]); !bytes.HasPrefix(line, []byte("--quiet -Enoinline_data --tar=f --aufs -zlz4 ")) {
		t.Errorf("called with %s", line)
	}
}

func TestAFailedConversionLeavesNoImage(t *testing.T) {
	withRecorder(t)
	dir, mounts := layerAt(t)
	opts := ApplyOpts{Erofs: &ErofsOpts{Mkfs: []string{"fail"}}}
	_, err := ApplyStream(t.Context(), opener([]byte("x")), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}, mounts, opts)
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("broken")) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, erofs.Image)); !os.IsNotExist(err) {
		t.Errorf("image: %v", err)
	}
}

func TestALayerThatIsAnImageIsCopied(t *testing.T) {
	dir, mounts := layerAt(t)
	data := []byte("an image")
	desc := ocispec.Descriptor{MediaType: erofs.MediaType}
	applied, err := ApplyStream(t.Context(), opener(data), desc, mounts, ApplyOpts{})
	if err != nil || applied.Digest != digest.FromBytes(data) {
		t.Errorf("applied %v, %v", applied, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, erofs.Image)); !bytes.Equal(got, data) {
		t.Errorf("the image holds %q, %v", got, err)
	}
	other := []mount.Mount{{Type: "bind", Source: t.TempDir(), Options: []string{"rw", "rbind"}}}
	if _, err := ApplyStream(t.Context(), opener(data), desc, other, ApplyOpts{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("in a snapshot of another kind: %v", err)
	}
}
