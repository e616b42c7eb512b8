// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/internal/erofs"
	"slipway/internal/mount"
)

// ApplyBlob applies the layer desc to what mounts show. It returns the
// descriptor of the uncompressed layer, whose digest is the diffID.
//
// A bind mount and the upper directory of an overlay are written to as they
// are, without mounting.
func ApplyBlob(ctx context.Context, provider content.Provider, desc ocispec.Descriptor, mounts []mount.Mount, opts ApplyOpts) (ocispec.Descriptor, error) {
	return ApplyStream(ctx, blobOpener(ctx, provider, desc), desc, mounts, opts)
}

// blobOpener opens a blob from its beginning.
func blobOpener(ctx context.Context, provider content.Provider, desc ocispec.Descriptor) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		ra, err := provider.ReaderAt(ctx, desc.Digest)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
	}
}

// ApplyStream is ApplyBlob for a layer whose bytes open gives, from the first
// one on, each time that it is called. They may be unverified.
func ApplyStream(ctx context.Context, open func() (io.ReadCloser, error), desc ocispec.Descriptor, mounts []mount.Mount, opts ApplyOpts) (ocispec.Descriptor, error) {
	if opts.Erofs != nil || erofs.IsImage(desc.MediaType) {
		applied, err := opts.Erofs.apply(ctx, open, desc, mounts)
		if !errdefs.IsNotImplemented(err) || erofs.IsImage(desc.MediaType) {
			return applied, err
		}
	}
	chain, err := opts.processorsFor(desc.MediaType)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(chain) > 0 {
		open = opts.processed(ctx, desc.MediaType, chain, open)
	}
	apply := func(dir string, overlay bool) (ocispec.Descriptor, error) {
		o := opts
		o.Overlay = overlay
		return applyTo(ctx, open, dir, o)
	}
	dir, overlay := Direct(mounts)
	apart := opts.Overlay // what the mounts show has no lower layers
	if dir != "" {
		applied, err := apply(dir, overlay || apart)
		if !overlay || !errors.Is(err, ErrImplied) {
			return applied, err
		}
		// What an implied directory looks like is in the lower layers.
		if err := clearDir(dir); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	var applied ocispec.Descriptor
	err = opts.Mount.with(ctx, opts.Tmp, mounts, func(root string) (err error) {
		applied, err = apply(root, apart && dir == "")
		return err
	})
	return applied, err
}

// Direct gives the directory that can stand for the mounts, and whether it is
// the upper one of an overlay. There may be none.
func Direct(mounts []mount.Mount) (dir string, overlay bool) {
	if len(mounts) == 0 {
		return "", false
	}
	m := mounts[len(mounts)-1] // those before are what it stands on
	if m.Target != "" {
		return "", false
	}
	if m.Type == "bind" && len(mounts) == 1 && !slices.Contains(m.Options, "ro") {
		return m.Source, false
	}
	if m.Type != "overlay" && !strings.HasSuffix(m.Type, "/overlay") {
		return "", false
	}
	for _, o := range m.Options {
		if strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") || o == "userxattr" {
			return "", false
		}
		upper, ok := strings.CutPrefix(o, "upperdir=")
		if ok && !strings.Contains(upper, "{{") { // a place in another mount
			dir = upper
		}
	}
	return dir, dir != ""
}

// clearDir undoes a layer that was applied in part.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func applyTo(ctx context.Context, open func() (io.ReadCloser, error), dir string, opts ApplyOpts) (ocispec.Descriptor, error) {
	packed, err := open()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer packed.Close()
	if opts.bomb == nil {
		opts.bomb = &bomb{free: freeSize}
	}
	plain, _, err := Decompress(opts.bomb.countPacked(packed))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer plain.Close()
	sum := sha256.New()
	p := newPipeline(ctx, opts.bomb.checkPlain(plain), sum)
	_, err = Apply(ctx, dir, p, opts)
	if err == nil {
		_, err = io.Copy(io.Discard, p) // padding belongs to the digest
	}
	p.Close()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer, Size: opts.bomb.plain, Digest: digest.NewDigest(digest.SHA256, sum),
	}, nil
}
