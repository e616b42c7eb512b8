// SPDX-License-Identifier: Apache-2.0

package hub

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob adds a blob to a repository.
func (h *Hub) Blob(repo, mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[d] = data
	h.repository(repo).blobs[d] = true
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// Manifest adds a manifest or index to a repository, under a tag unless that
// is empty.
func (h *Hub) Manifest(repo, tag, mediaType string, doc any) ocispec.Descriptor {
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err) // the test is wrong
	}
	d := digest.FromBytes(data)
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.repository(repo)
	r.manifests[d] = manifest{mediaType, data}
	if tag != "" {
		r.tags[tag] = d
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// Image adds an image whose layers are the given tar archives, with gzip. The
// descriptor has the platform.
func (h *Hub) Image(repo, tag, arch string, layers ...[]byte) ocispec.Descriptor {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, h.Blob(repo, ocispec.MediaTypeImageLayerGzip, Gzip(l)))
	}
	data, err := json.Marshal(config)
	if err != nil {
		panic(err) // the test is wrong
	}
	m.Config = h.Blob(repo, ocispec.MediaTypeImageConfig, data)
	d := h.Manifest(repo, tag, ocispec.MediaTypeImageManifest, m)
	d.Platform = &config.Platform
	return d
}

// Index adds an index of images to a repository.
func (h *Hub) Index(repo, tag string, images ...ocispec.Descriptor) ocispec.Descriptor {
	return h.Manifest(repo, tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: images,
	})
}

// Gzip compresses data.
func Gzip(data []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	z.Write(data)
	z.Close()
	return buf.Bytes()
}

// Tar makes an archive. An entry is "name=content" for a file, and "name/" or
// "name" for a directory.
func Tar(entries ...string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		name, body, file := strings.Cut(e, "=")
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}
		if file {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err) // the test is wrong
		}
		w.Write([]byte(body))
	}
	w.Close()
	return buf.Bytes()
}
