// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/internal/erofs"
	"slipway/internal/mount"
)

// ErofsOpts says how EROFS images are made of layers.
type ErofsOpts struct {
	Mkfs []string // more options of mkfs.erofs
}

// Build makes an image of the layer that plain gives, in a new file. It unpacks
// the layer beside the file if mkfs.erofs does not read archives; what the layer
// says by its lower layers only, such as implied directories, cannot be had then.
func (o *ErofsOpts) Build(ctx context.Context, image string, plain io.Reader) error {
	tar, err := erofs.CanTar(ctx)
	if err != nil {
		return err
	}
	if tar {
		return erofs.FromTar(ctx, image, plain, o.Mkfs...)
	}
	dir, err := os.MkdirTemp(filepath.Dir(image), "layer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	_, err = Apply(ctx, dir, plain, ApplyOpts{Overlay: true})
	if errors.Is(err, ErrImplied) {
		return fmt.Errorf("%w: mkfs.erofs 1.7 or later is needed for that: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	return erofs.FromDir(ctx, image, dir, o.Mkfs...)
}

// ApplyBlob makes an image of the layer desc. It is errdefs.ErrNotImplemented
// unless the mounts are those of a snapshot that is to become one.
func (o *ErofsOpts) ApplyBlob(ctx context.Context, provider content.Provider, desc ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error) {
	return o.apply(ctx, blobOpener(ctx, provider, desc), desc, mounts)
}

// apply makes an image of a layer, without unpacking it. It is
// errdefs.ErrNotImplemented unless the mounts are those of a snapshot that is
// to become one.
func (o *ErofsOpts) apply(ctx context.Context, open func() (io.ReadCloser, error), desc ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error) {
	if erofs.IsImage(desc.MediaType) {
		return applyImage(open, mounts)
	}
	if !tarLayer(desc.MediaType) {
		return ocispec.Descriptor{}, fmt.Errorf("EROFS image of media type %q: %w", desc.MediaType, errdefs.ErrNotImplemented)
	}
	return writeImage(open, mounts, func(image string, r io.Reader) error {
		return erofs.FromTar(ctx, image, r, o.Mkfs...)
	})
}

// applyImage copies a layer that is an image to where its snapshot wants it.
func applyImage(open func() (io.ReadCloser, error), mounts []mount.Mount) (ocispec.Descriptor, error) {
	return writeImage(open, mounts, erofs.Write)
}

// writeImage makes the image of a snapshot of the uncompressed layer.
func writeImage(open func() (io.ReadCloser, error), mounts []mount.Mount, write func(image string, r io.Reader) error) (applied ocispec.Descriptor, err error) {
	dir, err := layerDir(mounts)
	if err != nil {
		return applied, err
	}
	packed, err := open()
	if err != nil {
		return applied, err
	}
	defer packed.Close()
	limits := &bomb{free: freeSize}
	plain, _, err := Decompress(limits.countPacked(packed))
	if err != nil {
		return applied, err
	}
	defer plain.Close()
	sum := sha256.New()
	archive := io.TeeReader(limits.checkPlain(plain), sum)
	stage := filepath.Join(dir, "new-"+rand.Text())
	if err := write(stage, archive); err != nil {
		return applied, err
	}
	if _, err := io.Copy(io.Discard, archive); err != nil { // padding belongs to the digest
		os.Remove(stage)
		return applied, err
	}
	if err := os.Rename(stage, filepath.Join(dir, erofs.Image)); err != nil {
		return applied, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: limits.plain, Digest: digest.NewDigest(digest.SHA256, sum)}, nil
}

func tarLayer(mediaType string) bool {
	base, _, _ := strings.Cut(mediaType, "+")
	switch strings.TrimSuffix(base, ".gzip") {
	case ocispec.MediaTypeImageLayer, "application/vnd.docker.image.rootfs.diff.tar":
		return true
	}
	return false
}

// layerDir is the directory of the snapshot that the mounts show.
func layerDir(mounts []mount.Mount) (string, error) {
	if len(mounts) > 0 {
		m := mounts[len(mounts)-1]
		upper, _ := Direct(mounts)
		if upper == "" && (m.Type == "mkfs/ext4" || m.Type == "format/mkdir/bind" || strings.HasSuffix(m.Type, "/overlay")) {
			upper = mounts[0].Source // the image of what is written
		}
		if dir := filepath.Dir(upper); upper != "" && erofs.IsLayer(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("mounts of no EROFS snapshot: %w", errdefs.ErrNotImplemented)
}
