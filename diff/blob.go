// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/internal/mount"
)

// ApplyBlob applies the layer desc to what mounts show. It returns the
// descriptor of the uncompressed layer, whose digest is the diffID.
//
// A bind mount and the upper directory of an overlay are written to as they
// are, without mounting.
func ApplyBlob(ctx context.Context, provider content.Provider, desc ocispec.Descriptor, mounts []mount.Mount, opts ApplyOpts) (ocispec.Descriptor, error) {
	if err := checkLayer(desc.MediaType); err != nil {
		return ocispec.Descriptor{}, err
	}
	apply := func(dir string, overlay bool) (ocispec.Descriptor, error) {
		o := opts
		o.Overlay = overlay
		return applyTo(ctx, provider, desc, dir, o)
	}
	dir, overlay := direct(mounts)
	if dir != "" {
		applied, err := apply(dir, overlay || opts.Overlay)
		if !overlay || !errors.Is(err, ErrImplied) {
			return applied, err
		}
		// What an implied directory looks like is in the lower layers.
		if err := clearDir(dir); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	var applied ocispec.Descriptor
	err := mount.WithTemp(ctx, opts.Tmp, mounts, func(root string) (err error) {
		applied, err = apply(root, false)
		return err
	})
	return applied, err
}

// direct gives the directory that can stand for the mounts, and whether it is
// the upper one of an overlay.
func direct(mounts []mount.Mount) (dir string, overlay bool) {
	if len(mounts) != 1 || mounts[0].Target != "" {
		return "", false
	}
	m := mounts[0]
	switch m.Type {
	case "bind":
		if slices.Contains(m.Options, "ro") {
			return "", false
		}
		return m.Source, false
	case "overlay":
		for _, o := range m.Options {
			if strings.HasPrefix(o, "uidmap=") || strings.HasPrefix(o, "gidmap=") || o == "userxattr" {
				return "", false
			}
			if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
				dir = upper
			}
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

func applyTo(ctx context.Context, provider content.Provider, desc ocispec.Descriptor, dir string, opts ApplyOpts) (ocispec.Descriptor, error) {
	ra, err := provider.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer ra.Close()
	plain, _, err := Decompress(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	defer plain.Close()
	sum := sha256.New()
	counted := &countReader{r: plain}
	p := newPipeline(ctx, counted, sum)
	_, err = Apply(ctx, dir, p, opts)
	if err == nil {
		_, err = io.Copy(io.Discard, p) // padding belongs to the digest
	}
	p.Close()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer, Size: counted.n, Digest: digest.NewDigest(digest.SHA256, sum),
	}, nil
}

type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
