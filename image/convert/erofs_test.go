// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/image"
	"slipway/internal/mount"
)

func archive(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(make([]byte, h.Size))
	}
	w.Close()
	return buf.String()
}

// archives stores an image of two layers that are archives.
func (w world) archives() ocispec.Descriptor {
	bodies := []string{
		archive(w.t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750}, tar.Header{Name: "d/f", Size: 5000, Mode: 0o4755, Uid: 3}, tar.Header{Name: "gone", Mode: 0o644}),
		archive(w.t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "f"}, tar.Header{Name: ".wh.gone"}),
	}
	m := ocispec.Manifest{MediaType: "application/vnd.docker.distribution.manifest.v2+json"}
	m.SchemaVersion = 2
	config := map[string]any{"os": "linux", "architecture": "amd64", "unknown": []int{1}}
	var ids []digest.Digest
	for _, b := range bodies {
		l := w.put("application/vnd.docker.image.rootfs.diff.tar.gzip", pack(w.t, b, diff.Gzip))
		l.Annotations = map[string]string{"containerd.io/snapshot/stargz/toc.digest": "x", "own": "y"}
		m.Layers = append(m.Layers, l)
		ids = append(ids, digest.FromString(b))
	}
	config["rootfs"] = ocispec.RootFS{Type: "layers", DiffIDs: ids}
	m.Config = w.document("application/vnd.docker.container.image.v1+json", config)
	d := w.document(m.MediaType, m)
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	return d
}

func (w world) bytes(d ocispec.Descriptor) ([]byte, diff.Compression) {
	w.t.Helper()
	ra, err := w.ReaderAt(w.t.Context(), d.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ra.Close()
	plain, packed, err := diff.Decompress(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer plain.Close()
	data, err := io.ReadAll(plain)
	if err != nil {
		w.t.Fatal(err)
	}
	return data, packed
}

func needsErofs(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		t.Skip("needs mkfs.erofs")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for the owners of files")
	}
}

func TestLayersBecomeImagesOfErofs(t *testing.T) {
	needsErofs(t)
	for form, c := range map[string]struct {
		opts      Erofs
		mediaType string
		packed    diff.Compression
	}{
		"raw":              {Erofs{}, "application/vnd.erofs.layer.v1", diff.None},
		"zstd":             {Erofs{Zstd: true}, "application/vnd.erofs.layer.v1+zstd", diff.Zstd},
		"inner, with more": {Erofs{Compressors: "lz4", Mkfs: []string{"-C65536"}}, "application/vnd.erofs.layer.v1", diff.None},
	} {
		t.Run(form, func(t *testing.T) {
			w := newWorld(t)
			old := w.archives()
			d, err := Image(t.Context(), w, old, Options{Erofs: &c.opts})
			if err != nil {
				t.Fatal(err)
			}
			if d.MediaType != ocispec.MediaTypeImageManifest || !slices.Equal(d.Platform.OSFeatures, []string{"erofs"}) || old.Platform.OSFeatures != nil {
				t.Errorf("manifest %+v", d)
			}
			m, err := image.ReadManifest(t.Context(), w, d)
			if err != nil {
				t.Fatal(err)
			}
			config, err := image.ReadConfig(t.Context(), w, m.Config)
			if err != nil || !slices.Equal(config.OSFeatures, []string{"erofs"}) || len(config.RootFS.DiffIDs) != 2 {
				t.Errorf("config %+v, %v", config, err)
			}
			if text, _ := w.bytes(m.Config); !bytes.Contains(text, []byte(`"unknown":[1]`)) {
				t.Errorf("config %s", text)
			}
			for i, l := range m.Layers {
				data, packed := w.bytes(l)
				if l.MediaType != c.mediaType || packed != c.packed || digest.FromBytes(data) != config.RootFS.DiffIDs[i] || len(l.Annotations) != 1 {
					t.Errorf("layer %+v", l)
				}
			}
			again, err := Image(t.Context(), w, old, Options{Erofs: &c.opts})
			if err != nil || again.Digest != d.Digest {
				t.Errorf("another time: %v, %v", again.Digest, err)
			}
			same, err := Image(t.Context(), w, d, Options{Erofs: &Erofs{Zstd: c.opts.Zstd}})
			if err != nil || same.Digest != d.Digest {
				t.Errorf("what is EROFS already: %v, %v", same.Digest, err)
			}
		})
	}
}

func TestImagesOfErofsHoldTheFiles(t *testing.T) {
	needsErofs(t)
	w := newWorld(t)
	d, err := Image(t.Context(), w, w.archives(), Options{Erofs: &Erofs{}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ReadManifest(t.Context(), w, d)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var lower []string
	for i, l := range m.Layers {
		data, _ := w.bytes(l)
		file := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		at := t.TempDir()
		if err := mount.All([]mount.Mount{{Type: "erofs", Source: file, Options: []string{"ro", "loop"}}}, at); err != nil {
			t.Skip("needs a mount of erofs: ", err)
		}
		t.Cleanup(func() { mount.Unmount(at) })
		lower = append([]string{at}, lower...)
	}
	both := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lower, ":")}}}
	if err := mount.WithTemp(t.Context(), dir, both, func(root string) error {
		names, err := filepath.Glob(root + "/*")
		if err != nil || len(names) != 1 {
			t.Errorf("files %v, %v", names, err)
		}
		fi, err := os.Stat(root + "/d/l")
		if err != nil || fi.Size() != 5000 || fi.Mode() != 0o755|os.ModeSetuid {
			t.Errorf("%v, %v", fi, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWrongDiffIDIsFoundForErofs(t *testing.T) {
	needsErofs(t)
	w := newWorld(t)
	var m ocispec.Manifest
	m.SchemaVersion = 2
	m.Layers = []ocispec.Descriptor{w.put(ocispec.MediaTypeImageLayer, []byte(archive(t, tar.Header{Name: "f"})))}
	for claim, c := range map[string]struct {
		ids  []digest.Digest
		kind func(error) bool
	}{
		"another one": {[]digest.Digest{digest.FromString("x")}, errdefs.IsFailedPrecondition},
		"none":        {nil, errdefs.IsInvalidArgument},
	} {
		var config ocispec.Image
		config.RootFS.DiffIDs = c.ids
		m.Config = w.document(ocispec.MediaTypeImageConfig, config)
		if _, err := Image(t.Context(), w, w.document(ocispec.MediaTypeImageManifest, m), Options{Erofs: &Erofs{}}); !c.kind(err) {
			t.Errorf("%s: %v", claim, err)
		}
	}
}
