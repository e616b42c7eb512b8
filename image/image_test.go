// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
)

// blobs is a Provider in memory.
type blobs map[digest.Digest][]byte

type reader struct {
	*bytes.Reader
}

func (reader) Close() error { return nil }

func (b blobs) ReaderAt(_ context.Context, d digest.Digest) (content.ReaderAt, error) {
	data, ok := b[d]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return reader{bytes.NewReader(data)}, nil
}

func (b blobs) put(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	d := digest.FromBytes(data)
	b[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (b blobs) image(t *testing.T, arch string) ocispec.Descriptor {
	config := b.put(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}})
	return b.put(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config, Annotations: map[string]string{"arch": arch}})
}

func TestManifestForPlatform(t *testing.T) {
	b := blobs{}
	var index ocispec.Index
	for _, arch := range []string{"arm64", "amd64"} {
		d := b.image(t, arch)
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, d)
	}
	top := b.put(t, dockerIndex, index)
	m, err := Manifest(t.Context(), b, top, platforms.Only(platforms.MustParse("linux/amd64")))
	if err != nil || m.Annotations["arch"] != "amd64" {
		t.Errorf("got %v, %v", m.Annotations, err)
	}
	if _, err := Manifest(t.Context(), b, top, platforms.Only(platforms.MustParse("linux/s390x"))); !errdefs.IsNotFound(err) {
		t.Errorf("platform that is not there: %v", err)
	}
	if m, err = Manifest(t.Context(), b, b.image(t, ""), platforms.Only(platforms.MustParse("linux/s390x"))); err != nil {
		t.Errorf("manifest that is asked for itself: %v, %v", m.Annotations, err)
	}
	delete(b, index.Manifests[1].Digest)
	if _, err := Manifest(t.Context(), b, top, platforms.Only(platforms.MustParse("linux/amd64"))); !errdefs.IsNotFound(err) {
		t.Errorf("manifest that was not fetched: %v", err)
	}
	list, err := Platforms(t.Context(), b, top)
	if err != nil || len(list) != 2 {
		t.Errorf("platforms %v, %v", list, err)
	}
}

func TestAmbiguousDocumentsAreRefused(t *testing.T) {
	b := blobs{}
	d := b.put(t, ocispec.MediaTypeImageManifest, []byte(`{"config":{"digest":"`+digest.FromString("x")+`"},"manifests":[]}`))
	if _, err := ReadManifest(t.Context(), b, d); !errdefs.IsInvalidArgument(err) {
		t.Errorf("manifest with manifests: %v", err)
	}
	d = b.put(t, ocispec.MediaTypeImageIndex, []byte(`{"manifests":[],"layers":[]}`))
	if _, err := ReadIndex(t.Context(), b, d); !errdefs.IsInvalidArgument(err) {
		t.Errorf("index with layers: %v", err)
	}
	d = b.put(t, ocispec.MediaTypeImageManifest, []byte(`{"config":{"digest":"sha256:../../etc"}}`))
	if _, err := ReadManifest(t.Context(), b, d); !errdefs.IsInvalidArgument(err) {
		t.Errorf("malformed digest: %v", err)
	}
	d = b.put(t, ocispec.MediaTypeImageManifest, bytes.Repeat([]byte(" "), MaxDocument+1))
	if _, err := ReadManifest(t.Context(), b, d); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("huge manifest: %v", err)
	}
}

func TestNestingEnds(t *testing.T) {
	b := blobs{}
	d := b.image(t, "amd64")
	for range maxDepth + 1 {
		d = b.put(t, ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{d}})
	}
	if _, err := Manifest(t.Context(), b, d, platforms.All); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestChainIDs(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	got := ChainIDs([]digest.Digest{a, b})
	if got[0] != a || got[1] != digest.FromString(a.String()+" "+b.String()) {
		t.Errorf("got %v", got)
	}
	if len(ChainIDs(nil)) != 0 {
		t.Error("a chain of nothing")
	}
}

func FuzzReadManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"c","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := blobs{}
		d := b.put(t, ocispec.MediaTypeImageManifest, data)
		if m, err := ReadManifest(t.Context(), b, d); err == nil && m.Config.Digest.Validate() != nil {
			t.Errorf("accepted config %q", m.Config.Digest)
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha512:x"}]}`))
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1,"platform":{"os":"linux","architecture":"arm","variant":"v7"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := blobs{}
		d := b.put(t, ocispec.MediaTypeImageIndex, data)
		children, err := Children(t.Context(), b, d)
		for _, c := range children {
			if err == nil && (c.Digest.Validate() != nil || c.Size < 0) {
				t.Errorf("accepted %v", c)
			}
		}
		RefLabels(children)
		Manifest(t.Context(), b, d, platforms.Default())
	})
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := blobs{}
		config, err := ReadConfig(t.Context(), b, b.put(t, ocispec.MediaTypeImageConfig, data))
		if err == nil && len(ChainIDs(config.RootFS.DiffIDs)) != len(config.RootFS.DiffIDs) {
			t.Errorf("chains of %v", config.RootFS.DiffIDs)
		}
	})
}
