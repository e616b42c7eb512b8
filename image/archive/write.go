// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
)

// An Image is what is written under a name.
type Image struct {
	Name   string
	Target ocispec.Descriptor
}

// WriteOpts changes Write; the zero value writes everything that is present.
type WriteOpts struct {
	Platform platforms.MatchComparer // of the manifests to write, nil for any
	// All demands every manifest that an index lists. Otherwise those that
	// are absent are passed over.
	All                  bool
	SkipManifestJSON     bool          // leave out the description of docker load
	SkipNonDistributable bool          // leave out layers that may not be passed on
	Progress             func(n int64) // bytes of blobs so far
}

// Write writes images as an archive: the files in the order of their names,
// all with the same time, so that equal images make equal archives.
func Write(ctx context.Context, w io.Writer, provider content.Provider, images []Image, opts WriteOpts) error {
	a := &writer{provider: provider, opts: opts, blobs: map[digest.Digest]ocispec.Descriptor{}, loads: map[digest.Digest]*load{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{}}
	for _, img := range images {
		best, err := a.add(ctx, img.Target, 0)
		if err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
		if best == nil {
			return fmt.Errorf("image %s: no manifest for the platform: %w", img.Name, errdefs.ErrNotFound)
		}
		a.named(*best, img.Name)
		index.Manifests = append(index.Manifests, withName(img.Target, img.Name))
	}
	docs, err := a.documents(ctx, index)
	if err != nil {
		return err
	}
	return a.write(ctx, w, docs)
}

// writer is one Write.
type writer struct {
	provider content.Provider
	opts     WriteOpts
	blobs    map[digest.Digest]ocispec.Descriptor
	loads    map[digest.Digest]*load
	order    []*load
	written  int64
}

// load is a manifest under the names that docker load shall give it.
type load struct {
	manifest ocispec.Descriptor
	names    []string
}

// named notes a name of a manifest.
func (a *writer) named(manifest ocispec.Descriptor, name string) {
	l := a.loads[manifest.Digest]
	if l == nil {
		l = &load{manifest: manifest}
		a.loads[manifest.Digest] = l
		a.order = append(a.order, l)
	}
	if tag := repoTag(name); tag != "" && !slices.Contains(l.names, tag) {
		l.names = append(l.names, tag)
	}
}

// maxDepth is how deep indexes may nest.
const maxDepth = 4

// add collects desc with what it refers to. It returns the manifest that
// stands for it where there can be only one, nil if none is wanted.
func (a *writer) add(ctx context.Context, desc ocispec.Descriptor, depth int) (*ocispec.Descriptor, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("index %s: nested deeper than %d: %w", desc.Digest, maxDepth, errdefs.ErrInvalidArgument)
	}
	children, err := image.Children(ctx, a.provider, desc)
	if err != nil {
		return nil, err
	}
	if !image.IsIndex(desc.MediaType) {
		return &desc, a.addManifest(ctx, desc, children)
	}
	a.blobs[desc.Digest] = desc
	return a.addIndex(ctx, children, depth)
}

// addManifest collects a manifest if all that it needs is present.
func (a *writer) addManifest(ctx context.Context, desc ocispec.Descriptor, children []ocispec.Descriptor) error {
	if a.opts.SkipNonDistributable {
		children = slices.DeleteFunc(children, func(c ocispec.Descriptor) bool { return nonDistributable(c.MediaType) })
	}
	for _, c := range children {
		ra, err := a.provider.ReaderAt(ctx, c.Digest)
		if err != nil {
			return err
		}
		ra.Close()
	}
	for _, c := range append(children, desc) {
		a.blobs[c.Digest] = c
	}
	return nil
}

func (a *writer) addIndex(ctx context.Context, children []ocispec.Descriptor, depth int) (best *ocispec.Descriptor, err error) {
	for _, c := range children {
		if a.opts.Platform != nil && c.Platform != nil && !a.opts.Platform.Match(*c.Platform) {
			continue
		}
		m, err := a.add(ctx, c, depth+1)
		if errdefs.IsNotFound(err) && !a.opts.All {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m != nil && (best == nil || a.better(*m, *best)) {
			best = m
		}
	}
	return best, nil
}

// better compares two manifests of an index by what docker load would want.
func (a *writer) better(m, than ocispec.Descriptor) bool {
	order := a.opts.Platform
	if order == nil {
		order = platforms.Default()
	}
	switch {
	case m.Platform == nil:
		return false
	case than.Platform == nil:
		return true
	}
	return order.Less(*m.Platform, *than.Platform)
}

func nonDistributable(mediaType string) bool {
	switch mediaType {
	case "application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return true
	}
	return false
}

// documents are the files of the archive that are no blobs.
func (a *writer) documents(ctx context.Context, index ocispec.Index) (map[string][]byte, error) {
	docs := map[string][]byte{}
	put := func(name string, v any) error {
		data, err := json.Marshal(v)
		docs[name] = data
		return err
	}
	if err := put(layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return nil, err
	}
	if err := put(indexFile, index); err != nil {
		return nil, err
	}
	if a.opts.SkipManifestJSON {
		return docs, nil
	}
	all := []saved{}
	for _, l := range a.order {
		m, err := image.ReadManifest(ctx, a.provider, l.manifest)
		if err != nil {
			return nil, err
		}
		s := saved{Config: blobName(m.Config.Digest), RepoTags: l.names, Layers: []string{}}
		for _, layer := range m.Layers {
			s.Layers = append(s.Layers, blobName(layer.Digest))
		}
		all = append(all, s)
	}
	return docs, put(manifestFile, all)
}

// write puts everything into the archive, sorted.
func (a *writer) write(ctx context.Context, w io.Writer, docs map[string][]byte) error {
	dirs := map[string]bool{blobDir: true}
	blobs := map[string]ocispec.Descriptor{}
	for d, desc := range a.blobs {
		name := blobName(d)
		blobs[name] = desc
		dirs[path.Dir(name)+"/"] = true
	}
	names := slices.Concat(slices.Collect(maps.Keys(dirs)), slices.Collect(maps.Keys(blobs)), slices.Collect(maps.Keys(docs)))
	slices.Sort(names)
	tw := tar.NewWriter(w)
	buf := make([]byte, 1<<20)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o444, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		var err error
		switch desc, blob := blobs[name]; {
		case dirs[name]:
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			err = tw.WriteHeader(h)
		case blob:
			err = a.blob(ctx, tw, h, desc, buf)
		default:
			h.Size = int64(len(docs[name]))
			if err = tw.WriteHeader(h); err == nil {
				_, err = tw.Write(docs[name])
			}
		}
		if err != nil {
			return fmt.Errorf("archive: entry %s: %w", name, err)
		}
	}
	return tw.Close()
}

// blob writes a blob and checks that it is what its name says.
func (a *writer) blob(ctx context.Context, tw *tar.Writer, h *tar.Header, desc ocispec.Descriptor, buf []byte) error {
	ra, err := a.provider.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	if desc.Size != 0 && ra.Size() != desc.Size {
		return fmt.Errorf("%d bytes, the manifest says %d: %w", ra.Size(), desc.Size, errdefs.ErrFailedPrecondition)
	}
	h.Size = ra.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	verify := desc.Digest.Verifier()
	r := io.TeeReader(io.NewSectionReader(ra, 0, ra.Size()), verify)
	if _, err := io.CopyBuffer(&counted{ctx, tw, a}, r, buf); err != nil {
		return err
	}
	if !verify.Verified() {
		return fmt.Errorf("the stored bytes have another digest: %w", errdefs.ErrDataLoss)
	}
	return nil
}

// counted passes bytes on until its context ends.
type counted struct {
	ctx context.Context // of one Write; a Writer has no other place for it
	w   io.Writer
	a   *writer
}

func (c *counted) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.a.written += int64(n)
	if c.a.opts.Progress != nil {
		c.a.opts.Progress(c.a.written)
	}
	return n, err
}
