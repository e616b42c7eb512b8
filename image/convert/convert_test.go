// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/diff"
	"slipway/image"
)

type world struct {
	*content.Local
	t *testing.T
}

func newWorld(t *testing.T) world {
	l, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return world{l, t}
}

func (w world) put(mediaType string, data []byte) ocispec.Descriptor {
	w.t.Helper()
	wr, err := w.Writer(w.t.Context(), content.WriterOpts{Ref: "put"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer wr.Close()
	wr.Write(data)
	if err := wr.Commit(w.t.Context(), 0, "", nil); err != nil && !errdefs.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func (w world) document(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(mediaType, data)
}

func pack(t *testing.T, data string, as diff.Compression) []byte {
	t.Helper()
	var buf bytes.Buffer
	z, err := diff.NewCompressor(&buf, as)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(z, data)
	z.Close()
	return buf.Bytes()
}

var bodies = []string{strings.Repeat("layer one ", 1000), strings.Repeat("layer two ", 1000)}

// image stores an image of two layers with the media types of Docker.
func (w world) image(diffIDs ...digest.Digest) ocispec.Descriptor {
	m := ocispec.Manifest{MediaType: "application/vnd.docker.distribution.manifest.v2+json"}
	m.SchemaVersion = 2
	for _, b := range bodies {
		m.Layers = append(m.Layers, w.put("application/vnd.docker.image.rootfs.diff.tar.gzip", pack(w.t, b, diff.Gzip)))
	}
	var config ocispec.Image
	config.OS, config.Architecture, config.RootFS.DiffIDs = "linux", "amd64", diffIDs
	m.Config = w.document("application/vnd.docker.container.image.v1+json", config)
	d := w.document(m.MediaType, m)
	d.Platform = &config.Platform
	return d
}

func diffIDs() (ids []digest.Digest) {
	for _, b := range bodies {
		ids = append(ids, digest.FromString(b))
	}
	return ids
}

func as(c diff.Compression) *diff.Compression { return &c }

func TestLayersAreRepacked(t *testing.T) {
	for claim, c := range map[string]struct {
		opts     Options
		manifest string
		layer    string
		packed   diff.Compression
	}{
		"nothing":            {Options{}, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar.gzip", diff.Gzip},
		"the same":           {Options{Layers: as(diff.Gzip)}, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar.gzip", diff.Gzip},
		"OCI":                {Options{OCI: true}, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayerGzip, diff.Gzip},
		"uncompressed":       {Options{Layers: as(diff.None)}, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.image.rootfs.diff.tar", diff.None},
		"uncompressed, OCI":  {Options{Layers: as(diff.None), OCI: true}, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayer, diff.None},
		"zstd is always OCI": {Options{Layers: as(diff.Zstd)}, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageLayerZstd, diff.Zstd},
	} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t)
			old := w.image(diffIDs()...)
			d, err := Image(t.Context(), w, old, c.opts)
			if err != nil {
				t.Fatal(err)
			}
			if d.MediaType != c.manifest || d.Platform == nil || (d.Digest == old.Digest) != (c.packed == diff.Gzip && !c.opts.OCI) {
				t.Errorf("manifest %+v", d)
			}
			m, err := image.ReadManifest(t.Context(), w, d)
			if err != nil || m.MediaType != c.manifest || len(m.Layers) != 2 {
				t.Fatalf("%+v, %v", m, err)
			}
			for i, l := range m.Layers {
				ra, err := w.ReaderAt(t.Context(), l.Digest)
				if err != nil {
					t.Fatal(err)
				}
				defer ra.Close()
				plain, packed, err := diff.Decompress(io.NewSectionReader(ra, 0, ra.Size()))
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(plain)
				if err != nil || string(data) != bodies[i] || packed != c.packed || l.MediaType != c.layer || l.Size != ra.Size() {
					t.Errorf("layer %+v packed as %v: %d bytes, %v", l, packed, len(data), err)
				}
			}
		})
	}
}

func TestThereAndBackIsTheSameFiles(t *testing.T) {
	w := newWorld(t)
	d := w.image(diffIDs()...)
	for _, to := range []diff.Compression{diff.Zstd, diff.None, diff.Gzip} {
		next, err := Image(t.Context(), w, d, Options{Layers: as(to)})
		if err != nil {
			t.Fatal(err)
		}
		d = next
	}
	m, err := image.ReadManifest(t.Context(), w, d)
	if err != nil || m.Layers[1].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestWrongDiffIDIsFound(t *testing.T) {
	w := newWorld(t)
	d := w.image(digest.FromString("x"), digest.FromString("y"))
	if _, err := Image(t.Context(), w, d, Options{Layers: as(diff.Zstd)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if left, err := w.ListStatuses(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("ingests left: %v, %v", left, err)
	}
}

func TestIndexHoldsWhatIsPresent(t *testing.T) {
	w := newWorld(t)
	here := w.image(diffIDs()...)
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 1, Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	index := ocispec.Index{Manifests: []ocispec.Descriptor{here, absent}}
	index.SchemaVersion = 2
	top := w.document("application/vnd.docker.distribution.manifest.list.v2+json", index)
	d, err := Image(t.Context(), w, top, Options{OCI: true})
	if err != nil || d.MediaType != ocispec.MediaTypeImageIndex {
		t.Fatalf("%+v, %v", d, err)
	}
	got, err := image.ReadIndex(t.Context(), w, d)
	if err != nil || len(got.Manifests) != 1 || got.Manifests[0].MediaType != ocispec.MediaTypeImageManifest || got.Manifests[0].Platform.Architecture != "amd64" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Image(t.Context(), w, top, Options{Platform: platforms.Only(*absent.Platform)}); !errdefs.IsNotFound(err) {
		t.Errorf("an absent platform: %v", err)
	}
	if _, err := Image(t.Context(), w, w.put("text/plain", []byte("x")), Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no image: %v", err)
	}
}
