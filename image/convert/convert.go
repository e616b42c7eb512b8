// SPDX-License-Identifier: Apache-2.0

// Package convert makes another image of the same files: with its layers
// packed in another way, as eStargz or images of EROFS, or with the media types
// of OCI.
//
// Layers that are only packed keep their diffIDs, and so the image its snapshots.
package convert

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"slipway/content"
	"slipway/diff"
	"slipway/image"
	"slipway/internal/erofs"
)

// A Store has the blobs of an image and takes those of the new one. What it
// takes should be under a lease until the new image has a name.
type Store interface {
	content.Provider
	content.Ingester
	Abort(ctx context.Context, ref string) error
}

// Options says what to change; the zero value changes nothing.
type Options struct {
	// Layers is how layers are to be packed, nil for as they are. Zstd implies
	// OCI, since Docker has no media type for it.
	Layers *diff.Compression
	// Erofs makes images of EROFS of layers, nil leaves them as they are. It
	// goes with Layers nil, and implies OCI as well.
	Erofs *Erofs
	// Estargz makes eStargz of layers, nil leaves them as they are. It goes with
	// Layers and Erofs nil, and implies OCI, whose manifests have annotations.
	Estargz *Estargz
	OCI     bool // replace the media types of Docker
	// Platform limits the new image to the matching manifests, nil to those
	// that are present.
	Platform platforms.MatchComparer
}

// Image converts the image desc and returns the new one's descriptor.
func Image(ctx context.Context, store Store, desc ocispec.Descriptor, opts Options) (ocispec.Descriptor, error) {
	if opts.rebuilds() || opts.Layers != nil && *opts.Layers == diff.Zstd {
		opts.OCI = true
	}
	c := &converter{store: store, opts: opts, id: rand.Text()}
	return c.convert(ctx, desc, 0)
}

// rebuilds reports whether layers get other diffIDs.
func (o Options) rebuilds() bool { return o.Erofs != nil || o.Estargz != nil }

type converter struct {
	store Store
	opts  Options
	id    string // in the refs of ingests
}

// maxDepth is how deep indexes may nest.
const maxDepth = 4

func (c *converter) convert(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	switch {
	case depth > maxDepth:
		return desc, fmt.Errorf("index %s: nested deeper than %d: %w", desc.Digest, maxDepth, errdefs.ErrInvalidArgument)
	case image.IsIndex(desc.MediaType):
		return c.index(ctx, desc, depth)
	case image.IsManifest(desc.MediaType):
		return c.manifest(ctx, desc)
	}
	return desc, fmt.Errorf("%s of media type %q is no image: %w", desc.Digest, desc.MediaType, errdefs.ErrInvalidArgument)
}

func (c *converter) index(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	index, err := image.ReadIndex(ctx, c.store, desc)
	if err != nil {
		return desc, err
	}
	var kept []ocispec.Descriptor
	for _, m := range index.Manifests {
		if c.opts.Platform != nil && m.Platform != nil && !c.opts.Platform.Match(*m.Platform) {
			continue
		}
		next, err := c.convert(ctx, m, depth+1)
		if errdefs.IsNotFound(err) { // not fetched
			continue
		}
		if err != nil {
			return desc, err
		}
		kept = append(kept, next)
	}
	if len(kept) == 0 {
		return desc, fmt.Errorf("index %s: no wanted platform is present: %w", desc.Digest, errdefs.ErrNotFound)
	}
	if slices.EqualFunc(kept, index.Manifests, sameBlob) && !c.renamed(desc.MediaType) {
		return desc, nil
	}
	index.Manifests, index.MediaType = kept, c.mediaType(desc.MediaType)
	return c.document(ctx, desc, index.MediaType, index, kept)
}

func sameBlob(a, b ocispec.Descriptor) bool {
	return a.Digest == b.Digest && a.MediaType == b.MediaType
}

func (c *converter) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	m, err := image.ReadManifest(ctx, c.store, desc)
	if err != nil {
		return desc, err
	}
	var diffIDs []digest.Digest
	if image.IsConfig(m.Config.MediaType) {
		config, err := image.ReadConfig(ctx, c.store, m.Config)
		if err != nil {
			return desc, err
		}
		diffIDs = config.RootFS.DiffIDs
	}
	rebuilt := c.opts.rebuilds() && slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return image.IsLayer(l.MediaType) })
	if rebuilt && len(diffIDs) != len(m.Layers) {
		return desc, fmt.Errorf("manifest %s has %d layers, its config %d: %w", desc.Digest, len(m.Layers), len(diffIDs), errdefs.ErrInvalidArgument)
	}
	layers := slices.Clone(m.Layers)
	next := make([]digest.Digest, len(layers)) // diffIDs
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range layers {
		var want digest.Digest
		if len(diffIDs) == len(layers) {
			want = diffIDs[i]
		}
		g.Go(func() (err error) {
			layers[i], next[i], err = c.layer(gctx, layers[i], want)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return desc, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if slices.EqualFunc(layers, m.Layers, sameBlob) && !c.renamed(desc.MediaType) {
		return desc, nil
	}
	m.Layers, m.MediaType = layers, c.mediaType(desc.MediaType)
	m.Config.MediaType = c.mediaType(m.Config.MediaType)
	if rebuilt {
		if m.Config, err = c.config(ctx, m.Config, next); err != nil {
			return desc, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
		if p := desc.Platform; p != nil && c.opts.Erofs != nil {
			with := *p
			with.OSFeatures = withFeature(p.OSFeatures)
			desc.Platform = &with
		}
	}
	return c.document(ctx, desc, m.MediaType, m, append([]ocispec.Descriptor{m.Config}, layers...))
}

// config stores a config with other diffIDs, and what a platform must have for
// such layers. Fields that are not known stay.
func (c *converter) config(ctx context.Context, old ocispec.Descriptor, diffIDs []digest.Digest) (next ocispec.Descriptor, err error) {
	fields, err := image.ReadFields(ctx, c.store, old)
	if err != nil {
		return old, err
	}
	if fields["rootfs"], err = json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}); err != nil {
		return old, err
	}
	if c.opts.Erofs != nil {
		if fields["os.features"], err = features(fields["os.features"]); err != nil {
			return old, fmt.Errorf("config %s: os.features: %w: %w", old.Digest, err, errdefs.ErrInvalidArgument)
		}
	}
	return c.document(ctx, old, old.MediaType, fields, nil)
}

// document stores a new manifest or index in place of old.
func (c *converter) document(ctx context.Context, old ocispec.Descriptor, mediaType string, v any, children []ocispec.Descriptor) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return old, err
	}
	next := old
	next.MediaType, next.Digest, next.Size, next.Data = mediaType, digest.FromBytes(data), int64(len(data)), nil
	_, err = c.put(ctx, strings.NewReader(string(data)), next.Digest, func() map[string]string { return image.RefLabels(children) })
	return next, err
}

// layer packs a layer as wanted. diffID is what it must be unpacked; the one of
// the new layer is returned.
func (c *converter) layer(ctx context.Context, desc ocispec.Descriptor, diffID digest.Digest) (next ocispec.Descriptor, _ digest.Digest, err error) {
	if !image.IsLayer(desc.MediaType) {
		return desc, diffID, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
	}()
	ra, err := c.store.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return desc, "", err
	}
	defer ra.Close()
	plain, is, err := diff.Decompress(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return desc, "", err
	}
	defer plain.Close()
	next = desc
	next.MediaType = c.mediaType(desc.MediaType)
	switch as := c.opts.Layers; {
	case c.opts.Erofs != nil:
		return c.erofsLayer(ctx, next, plain, is, diffID)
	case c.opts.Estargz != nil:
		return c.estargzLayer(ctx, next, io.NewSectionReader(ra, 0, ra.Size()), plain, diffID)
	case as == nil || is == *as || erofs.IsImage(desc.MediaType):
		return next, diffID, nil
	default:
		next, err = c.repacked(ctx, next, plain, *as, diffID)
		return next, diffID, err
	}
}

// repacked stores a layer packed in another way.
func (c *converter) repacked(ctx context.Context, desc ocispec.Descriptor, plain io.Reader, as diff.Compression, diffID digest.Digest) (ocispec.Descriptor, error) {
	next, err := c.repack(ctx, plain, as, diffID)
	if err != nil {
		return desc, err
	}
	return repackedAs(desc, next, as), nil
}

// repackedAs describes the blob next in place of a layer.
func repackedAs(desc, next ocispec.Descriptor, as diff.Compression) ocispec.Descriptor {
	desc.MediaType = layerType(desc.MediaType, as)
	desc.Digest, desc.Size, desc.Data, desc.URLs = next.Digest, next.Size, nil, nil
	desc.Annotations = maps.Clone(desc.Annotations)
	maps.DeleteFunc(desc.Annotations, func(key, _ string) bool { return ofPacking(key) })
	return desc
}

// sameDiffID fails if a layer is not what the config says.
func sameDiffID(is, want digest.Digest) error {
	if want != "" && is != want {
		return fmt.Errorf("wrong diff id %s, the image config says %s: %w", is, want, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// repack stores the bytes of plain, packed.
func (c *converter) repack(ctx context.Context, plain io.Reader, as diff.Compression, diffID digest.Digest) (ocispec.Descriptor, error) {
	sum := digest.Canonical.Digester()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		z, err := diff.NewCompressor(w, as)
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{z}, io.TeeReader(plain, sum.Hash()), make([]byte, 256<<10))
		}
		if err == nil {
			err = sameDiffID(sum.Digest(), diffID)
		}
		if err == nil {
			err = z.Close()
		}
		w.CloseWithError(err)
	}()
	next, err := c.put(ctx, r, "", func() map[string]string {
		if as == diff.None {
			return nil
		}
		return map[string]string{diff.LabelUncompressed: sum.Digest().String()}
	})
	r.CloseWithError(err) // ends the goroutine if not all was read
	<-done
	return next, err
}

// put stores a blob. labels is called when all of r has been read.
func (c *converter) put(ctx context.Context, r io.Reader, want digest.Digest, labels func() map[string]string) (desc ocispec.Descriptor, err error) {
	ref := fmt.Sprintf("convert-%s-%s", c.id, rand.Text())
	w, err := c.store.Writer(ctx, content.WriterOpts{Ref: ref, Expected: want})
	if errdefs.IsAlreadyExists(err) {
		return desc, nil
	}
	if err != nil {
		return desc, err
	}
	defer func() {
		w.Close()
		if err != nil {
			c.store.Abort(context.WithoutCancel(ctx), ref) // what stays is the collector's
		}
	}()
	st, err := w.Status()
	if err == nil && st.Offset == 0 { // else another namespace has it
		_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 256<<10))
	}
	if err != nil {
		return desc, err
	}
	if st, err = w.Status(); err != nil {
		return desc, err
	}
	desc.Digest, desc.Size = w.Digest(), st.Offset
	err = w.Commit(ctx, st.Offset, want, labels())
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return desc, err
}
