// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/image"
)

func (w world) estargz(desc ocispec.Descriptor, opts Estargz) (ocispec.Descriptor, ocispec.Manifest) {
	w.t.Helper()
	d, err := Image(w.t.Context(), w, desc, Options{Estargz: &opts})
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := image.ReadManifest(w.t.Context(), w, d)
	if err != nil {
		w.t.Fatal(err)
	}
	return d, m
}

// table reads the table of contents of a layer as a snapshotter does, which
// trusts no more than the annotation.
func (w world) table(l ocispec.Descriptor) *estargz.Reader {
	w.t.Helper()
	ra, err := w.ReaderAt(w.t.Context(), l.Digest)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ra.Close() })
	r, err := estargz.Open(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := r.VerifyTOC(digest.Digest(l.Annotations["containerd.io/snapshot/stargz/toc.digest"])); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestLayersBecomeEstargz(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w := newWorld(t)
	d, m := w.estargz(w.archives(), Estargz{Level: 9})
	if d.MediaType != ocispec.MediaTypeImageManifest || d.Platform.OSFeatures != nil {
		t.Errorf("manifest %+v", d)
	}
	config, err := image.ReadConfig(t.Context(), w, m.Config)
	if err != nil || len(config.RootFS.DiffIDs) != 2 || config.OSFeatures != nil {
		t.Errorf("config %+v, %v", config, err)
	}
	for i, l := range m.Layers {
		data, packed := w.bytes(l)
		if l.MediaType != ocispec.MediaTypeImageLayerGzip || packed != diff.Gzip || digest.FromBytes(data) != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %+v is not what diffID %s says", l, config.RootFS.DiffIDs[i])
		}
		if l.Annotations["own"] != "y" || l.Annotations["io.containers.estargz.uncompressed-size"] == "" {
			t.Errorf("annotations %v", l.Annotations)
		}
	}
	e, ok := w.table(m.Layers[0]).Lookup("d/f")
	if !ok || e.Size != 5000 || e.UID != 3 || e.Mode != 0o4755 {
		t.Errorf("d/f is %+v", e)
	}
	if e, ok := w.table(m.Layers[1]).Lookup("d/l"); !ok || e.LinkName != "f" {
		t.Errorf("d/l is %+v", e)
	}
	if left, _ := filepath.Glob(os.TempDir() + "/*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestEstargzIsTheSameAgain(t *testing.T) {
	w := newWorld(t)
	old := w.archives()
	d, m := w.estargz(old, Estargz{Level: 9})
	if again, _ := w.estargz(old, Estargz{Level: 9}); again.Digest != d.Digest {
		t.Error("another time it is another image")
	}
	if same, _ := w.estargz(d, Estargz{Level: 1}); same.Digest != d.Digest {
		t.Error("what is eStargz already was made again")
	}
	plain := diff.None
	un, err := Image(t.Context(), w, d, Options{Layers: &plain})
	if err != nil {
		t.Fatal(err)
	}
	if _, back := w.estargz(un, Estargz{Level: 9}); back.Layers[0].Annotations["containerd.io/snapshot/stargz/toc.digest"] != m.Layers[0].Annotations["containerd.io/snapshot/stargz/toc.digest"] {
		t.Error("the table of contents changed on the way by plain layers")
	}
}

func TestChunksOfEstargz(t *testing.T) {
	w := newWorld(t)
	_, m := w.estargz(w.archives(), Estargz{Level: 1, ChunkSize: 1000})
	r := w.table(m.Layers[0])
	if e, ok := r.ChunkEntryForOffset("d/f", 4500); !ok || e.ChunkOffset != 4000 || e.ChunkSize != 1000 {
		t.Errorf("byte 4500 is in %+v", e)
	}
}

func TestEstargzOfBadLayers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w := newWorld(t)
	body := archive(t, tar.Header{Name: "f", Size: 1 << 20})
	of := func(blob []byte, id digest.Digest) ocispec.Descriptor {
		var m ocispec.Manifest
		m.SchemaVersion = 2
		m.Layers = []ocispec.Descriptor{w.put(ocispec.MediaTypeImageLayer, blob)}
		m.Config = w.document(ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{id}}})
		return w.document(ocispec.MediaTypeImageManifest, m)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	junk := bytes.Repeat([]byte("x"), 2048)
	for claim, c := range map[string]struct {
		ctx  context.Context
		desc ocispec.Descriptor
		is   func(error) bool
	}{
		"another diffID": {t.Context(), of([]byte(body), digest.FromString("x")), errdefs.IsFailedPrecondition},
		"no archive":     {t.Context(), of(junk, digest.FromBytes(junk)), func(err error) bool { return err != nil && strings.Contains(err.Error(), "eStargz") }},
		"stopped":        {stopped, of([]byte(body), digest.FromString(body)), func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		if _, err := Image(c.ctx, w, c.desc, Options{Estargz: &Estargz{Level: 9}}); !c.is(err) {
			t.Errorf("%s: %v", claim, err)
		}
	}
	left, _ := filepath.Glob(os.TempDir() + "/*")
	if left = slices.DeleteFunc(left, func(name string) bool { return strings.Contains(name, "Test") }); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
