// SPDX-License-Identifier: Apache-2.0

// Package image reads the documents of images: indexes, manifests and
// configs, in the media types of OCI and of Docker (schema 2).
//
// An index lists manifests, a manifest lists a config and layers. A diffID is
// the digest of an uncompressed layer; a chainID names a stack of layers.
//
// Documents come from strangers: they are read up to a limit of size, and
// what they say is checked before it is used.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
)

// MaxDocument is the largest index, manifest or config in bytes.
const MaxDocument = 8 << 20

// Media types of Docker that mean the same as those of OCI.
const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs."
	ociLayer       = "application/vnd.oci.image.layer."
	erofsLayer     = "application/vnd.erofs.layer."
)

// IsIndex reports whether a blob of that media type lists manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

// IsManifest reports whether a blob of that media type lists layers.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// IsConfig reports whether a blob of that media type is an image's config.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

// IsLayer reports whether a blob of that media type is a layer.
func IsLayer(mediaType string) bool {
	return strings.HasPrefix(mediaType, ociLayer) || strings.HasPrefix(mediaType, dockerLayer) || strings.HasPrefix(mediaType, erofsLayer)
}

// A DocumentReader is a Provider that reads a whole document at less cost.
type DocumentReader interface {
	ReadDocument(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

func document(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]byte, error) {
	if r, ok := p.(DocumentReader); ok && desc.Size > 0 && desc.Size <= MaxDocument {
		return r.ReadDocument(ctx, desc)
	}
	ra, err := p.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > MaxDocument {
		return nil, fmt.Errorf("%s %s: %d bytes are more than the limit of %d: %w", desc.MediaType, desc.Digest, ra.Size(), MaxDocument, errdefs.ErrInvalidArgument)
	}
	data := make([]byte, ra.Size())
	if _, err := ra.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s %s: %w", desc.MediaType, desc.Digest, err)
	}
	return data, nil
}

// read gets a document and decodes it into v.
func read(ctx context.Context, p content.Provider, desc ocispec.Descriptor, v any) error {
	data, err := document(ctx, p, desc)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s %s: %w: %w", desc.MediaType, desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ReadManifest reads and checks the manifest desc.
func ReadManifest(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	var doc struct {
		ocispec.Manifest
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := read(ctx, p, desc, &doc); err != nil {
		return ocispec.Manifest{}, err
	}
	// A document that is both a manifest and an index could mean different
	// things to different readers (CVE-2021-41190).
	if doc.Manifests != nil || IsIndex(doc.MediaType) {
		return ocispec.Manifest{}, fmt.Errorf("manifest %s is an index as well: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	if doc.FSLayers != nil {
		return ocispec.Manifest{}, fmt.Errorf("manifest %s: schema 1 is not supported: %w", desc.Digest, errdefs.ErrNotImplemented)
	}
	for _, d := range append([]ocispec.Descriptor{doc.Config}, doc.Layers...) {
		if err := check(d); err != nil {
			return ocispec.Manifest{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
	}
	return doc.Manifest, nil
}

// ReadIndex reads and checks the index desc.
func ReadIndex(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (ocispec.Index, error) {
	var doc struct {
		ocispec.Index
		Config json.RawMessage `json:"config"`
		Layers json.RawMessage `json:"layers"`
	}
	if err := read(ctx, p, desc, &doc); err != nil {
		return ocispec.Index{}, err
	}
	if doc.Config != nil || doc.Layers != nil || IsManifest(doc.MediaType) {
		return ocispec.Index{}, fmt.Errorf("index %s is a manifest as well: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	for _, d := range doc.Manifests {
		if err := check(d); err != nil {
			return ocispec.Index{}, fmt.Errorf("index %s: %w", desc.Digest, err)
		}
	}
	return doc.Index, nil
}

func check(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d.Digest, err, errdefs.ErrInvalidArgument)
	}
	if d.Size < 0 {
		return fmt.Errorf("blob %s: size %d: %w", d.Digest, d.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ReadConfig reads the config desc of an image.
func ReadConfig(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (ocispec.Image, error) {
	var config ocispec.Image
	if err := read(ctx, p, desc, &config); err != nil {
		return config, err
	}
	for _, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return config, fmt.Errorf("config %s: diff id %q: %w: %w", desc.Digest, d, err, errdefs.ErrInvalidArgument)
		}
	}
	return config, nil
}

// ReadFields reads a document for a change of some of its fields.
func ReadFields(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (fields map[string]json.RawMessage, err error) {
	return fields, read(ctx, p, desc, &fields)
}

// Children lists what the blob desc refers to, nothing for one that is
// neither index nor manifest.
func Children(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	switch {
	case IsIndex(desc.MediaType):
		index, err := ReadIndex(ctx, p, desc)
		return index.Manifests, err
	case IsManifest(desc.MediaType):
		m, err := ReadManifest(ctx, p, desc)
		if err != nil {
			return nil, err
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	}
	return nil, nil
}

// Manifest finds the best manifest for a platform in an index. It is
// errdefs.ErrNotFound if there is none, or none whose blobs are present. A
// manifest that is asked for itself suits every platform: who names it means
// it, its config may be wrong about the platform, and an emulator may run it.
func Manifest(ctx context.Context, p content.Provider, desc ocispec.Descriptor, platform platforms.MatchComparer) (ocispec.Manifest, error) {
	found, err := candidates(ctx, p, desc, platform, 0)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		switch {
		case platform.Less(a.platform, b.platform):
			return -1
		case platform.Less(b.platform, a.platform):
			return 1
		}
		return 0
	})
	if len(found) == 0 {
		return ocispec.Manifest{}, fmt.Errorf("no match for platform in manifest %v: %w", desc.Digest, errdefs.ErrNotFound)
	}
	return found[0].manifest, nil
}

type candidate struct {
	manifest ocispec.Manifest
	platform ocispec.Platform
}

// maxDepth is how deep indexes may nest.
const maxDepth = 4

func candidates(ctx context.Context, p content.Provider, desc ocispec.Descriptor, platform platforms.MatchComparer, depth int) ([]candidate, error) {
	if IsManifest(desc.MediaType) {
		c, err := single(ctx, p, desc)
		if err != nil || depth > 0 && !platform.Match(c.platform) {
			return nil, err
		}
		return []candidate{c}, nil
	}
	if !IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("unexpected media type %s of %s: %w", desc.MediaType, desc.Digest, errdefs.ErrNotFound)
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("index %s: nested deeper than %d: %w", desc.Digest, maxDepth, errdefs.ErrInvalidArgument)
	}
	index, err := ReadIndex(ctx, p, desc)
	if err != nil {
		return nil, err
	}
	var all []candidate
	for _, d := range index.Manifests {
		if d.Platform != nil && !platform.Match(*d.Platform) {
			continue
		}
		found, err := candidates(ctx, p, d, platform, depth+1)
		if errdefs.IsNotFound(err) { // not fetched
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// single is a manifest with its platform: that of the descriptor, else that
// of the config.
func single(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (candidate, error) {
	m, err := ReadManifest(ctx, p, desc)
	if err != nil {
		return candidate{}, err
	}
	if desc.Platform != nil {
		return candidate{m, platforms.Normalize(*desc.Platform)}, nil
	}
	if !IsConfig(m.Config.MediaType) {
		return candidate{m, ocispec.Platform{}}, nil
	}
	config, err := ReadConfig(ctx, p, m.Config)
	return candidate{m, platforms.Normalize(config.Platform)}, err
}

// Platforms lists the platforms of an image, as far as its blobs are present.
func Platforms(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]ocispec.Platform, error) {
	if IsIndex(desc.MediaType) {
		index, err := ReadIndex(ctx, p, desc)
		if err != nil {
			return nil, err
		}
		var all []ocispec.Platform
		for _, d := range index.Manifests {
			if d.Platform != nil && d.Platform.OS == "unknown" {
				continue // an attestation
			}
			if d.Platform != nil {
				all = append(all, platforms.Normalize(*d.Platform))
				continue
			}
			more, err := Platforms(ctx, p, d)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
		return all, nil
	}
	if !IsManifest(desc.MediaType) {
		return nil, nil
	}
	c, err := single(ctx, p, desc)
	if err != nil {
		return nil, err
	}
	return []ocispec.Platform{c.platform}, nil
}

// ChainIDs names the stacks of the first 1, 2, … len(diffIDs) layers, as
// section "Layer ChainID" of the image spec's config.md says.
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := slices.Clone(diffIDs)
	for i := 1; i < len(chain); i++ {
		chain[i] = digest.FromString(chain[i-1].String() + " " + diffIDs[i].String())
	}
	return chain
}
