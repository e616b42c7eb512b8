// SPDX-License-Identifier: Apache-2.0

// Package fsck finds what of an image is damaged: blobs that are not what
// their digests say, and unpacked layers that are not what is in the blob.
//
// It only looks. Times are not compared, since a file system may round them;
// nor are files found that no layer has.
package fsck

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
)

// Blob reads a blob to its end. One of another size or content is
// errdefs.ErrDataLoss.
func Blob(ctx context.Context, p content.Provider, desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	ra, err := p.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return err
	}
	defer ra.Close()
	if desc.Size > 0 && ra.Size() != desc.Size {
		return fmt.Errorf("%s: %d bytes, not %d: %w", desc.Digest, ra.Size(), desc.Size, errdefs.ErrDataLoss)
	}
	check := desc.Digest.Verifier()
	if _, err := io.CopyBuffer(check, readerOnly{io.NewSectionReader(ra, 0, ra.Size())}, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("%s: %w", desc.Digest, err)
	}
	if !check.Verified() {
		return fmt.Errorf("%s: the content has another digest: %w", desc.Digest, errdefs.ErrDataLoss)
	}
	return nil
}

type readerOnly struct{ io.Reader }
