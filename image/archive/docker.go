// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/image"
	"slipway/internal/reference"
)

// Media types of the images that docker save describes.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// saved is one image in manifest.json: paths in the archive.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// docker makes manifests and an index for what docker save wrote.
func (a *reader) docker(ctx context.Context) (desc ocispec.Descriptor, err error) {
	var all []saved
	if err := json.Unmarshal(a.docs[manifestFile], &all); err != nil {
		return desc, fmt.Errorf("archive: %s: %w: %w", manifestFile, err, errdefs.ErrInvalidArgument)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for _, s := range all {
		m, err := a.image(ctx, s)
		if err != nil {
			return desc, fmt.Errorf("archive: image %q: %w", s.RepoTags, err)
		}
		if len(s.RepoTags) == 0 {
			index.Manifests = append(index.Manifests, m)
		}
		for _, name := range s.RepoTags {
			named, err := nameAnnotations(name)
			if err != nil {
				return desc, fmt.Errorf("archive: %w", err)
			}
			m.Annotations = named
			index.Manifests = append(index.Manifests, m)
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return desc, err
	}
	return a.putDocument(ctx, ocispec.MediaTypeImageIndex, data, nil)
}

// nameAnnotations are those of an image with a name as people write it.
func nameAnnotations(name string) (map[string]string, error) {
	named, err := reference.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	full := named.Single().String()
	return map[string]string{NameAnnotation: full, TagAnnotation: tagOf(full)}, nil
}

// tagOf is the last part of a full name: its tag, or its digest.
func tagOf(name string) string {
	named, err := reference.Parse(name)
	if err != nil {
		return name
	}
	switch {
	case named.Tag != "":
		return named.Tag
	case named.Digest != "":
		return named.Digest.String()
	}
	return name
}

// image makes the manifest of a saved image.
func (a *reader) image(ctx context.Context, s saved) (desc ocispec.Descriptor, err error) {
	f, err := a.find(s.Config)
	if err != nil {
		return desc, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: dockerManifest,
		Config: ocispec.Descriptor{MediaType: dockerConfig, Digest: f.digest, Size: f.size},
		Layers: []ocispec.Descriptor{},
	}
	config, err := image.ReadConfig(ctx, a.store, m.Config)
	if err != nil {
		return desc, err
	}
	for _, name := range s.Layers {
		layer, err := a.layer(ctx, name)
		if err != nil {
			return desc, err
		}
		m.Layers = append(m.Layers, layer)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return desc, err
	}
	labels := image.RefLabels(append([]ocispec.Descriptor{m.Config}, m.Layers...))
	if desc, err = a.putDocument(ctx, dockerManifest, data, labels); err != nil {
		return desc, err
	}
	if config.OS != "" {
		p := platforms.Normalize(config.Platform)
		desc.Platform = &p
	}
	return desc, nil
}

// find follows links to a stored file.
func (a *reader) find(name string) (file, error) {
	clean, err := cleanName(name)
	if err != nil {
		return file{}, err
	}
	for range maxLinks {
		if f, ok := a.files[clean]; ok {
			return f, nil
		}
		next, ok := a.links[clean]
		if !ok {
			return file{}, fmt.Errorf("%s is not in the archive: %w", name, errdefs.ErrInvalidArgument)
		}
		clean = next
	}
	return file{}, fmt.Errorf("%s: more than the limit of %d links: %w", name, maxLinks, errdefs.ErrInvalidArgument)
}

// layer describes a layer by its first bytes, and compresses it if asked.
func (a *reader) layer(ctx context.Context, name string) (desc ocispec.Descriptor, err error) {
	f, err := a.find(name)
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: dockerLayer, Digest: f.digest, Size: f.size}
	ra, err := a.store.ReaderAt(ctx, f.digest)
	if err != nil {
		return desc, err
	}
	defer ra.Close()
	var head [4]byte
	if _, err := ra.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return desc, err
	}
	switch diff.Detect(head[:]) {
	case diff.Gzip:
		desc.MediaType += ".gzip"
	case diff.Zstd:
		desc.MediaType += ".zstd"
	default:
		if a.opts.Compress {
			return a.compress(ctx, desc, io.NewSectionReader(ra, 0, ra.Size()))
		}
	}
	return desc, nil
}

// compress stores a layer again, with gzip.
func (a *reader) compress(ctx context.Context, desc ocispec.Descriptor, plain io.Reader) (ocispec.Descriptor, error) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		z, err := diff.NewCompressor(w, diff.Gzip)
		if err == nil {
			_, err = io.Copy(z, plain)
		}
		if err == nil {
			err = z.Close()
		}
		w.CloseWithError(err)
	}()
	f, err := a.put(ctx, r, -1, "", map[string]string{diff.LabelUncompressed: desc.Digest.String()})
	r.CloseWithError(err) // ends the goroutine if not all was read
	<-done
	return ocispec.Descriptor{MediaType: desc.MediaType + ".gzip", Digest: f.digest, Size: f.size}, err
}

// repoTag is a name as docker load wants it, or "" for one that it does not
// take.
func repoTag(name string) string {
	named, err := reference.Parse(name)
	if err != nil || named.Digest != "" {
		return ""
	}
	return named.Single().Familiar()
}

// withName adds the annotations of a name to a descriptor.
func withName(desc ocispec.Descriptor, name string) ocispec.Descriptor {
	annotations := maps.Clone(desc.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	if name != "" {
		annotations[NameAnnotation], annotations[TagAnnotation] = name, tagOf(name)
	}
	desc.Annotations = annotations
	return desc
}

// blobName is the path of a blob in a layout of OCI.
func blobName(d digest.Digest) string {
	return blobDir + d.Algorithm().String() + "/" + d.Encoded()
}
