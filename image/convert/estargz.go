// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/internal/erofs"
)

// Estargz says how layers become eStargz: archives in gzip that a snapshotter
// can mount before they are there and fetch file by file. The table of their
// contents is one more file, so they have diffIDs of their own.
//
// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md
type Estargz struct {
	Level     int // of gzip, 1 to 9
	ChunkSize int // bytes of a file that can be fetched alone, 0 for the library's 4 MiB
}

// workers is how many parts of a layer are packed at once. They are a part of
// the result, which is to be the same on every machine.
const workers = 4

// estargzLayer makes eStargz of a layer, which is packed and plain, and gives
// its diffID. One that is eStargz, or an image of a file system, stays.
func (c *converter) estargzLayer(ctx context.Context, desc ocispec.Descriptor, packed *io.SectionReader, plain io.Reader, diffID digest.Digest) (ocispec.Descriptor, digest.Digest, error) {
	if isEstargz(desc, packed) || erofs.IsImage(desc.MediaType) {
		return desc, diffID, nil
	}
	tar, err := unpacked(plain, diffID)
	if err != nil {
		return desc, "", err
	}
	defer tar.Close()
	size, err := tar.Seek(0, io.SeekEnd)
	if err != nil {
		return desc, "", err
	}
	e := c.opts.Estargz
	made, err := estargz.Build(io.NewSectionReader(tar, 0, size), estargz.WithContext(ctx), estargz.WithParallelism(workers),
		estargz.WithCompressionLevel(e.Level), estargz.WithChunkSize(e.ChunkSize))
	if made != nil {
		defer made.Close()
	}
	if ctx.Err() != nil {
		err = ctx.Err() // the library's says no more
	}
	if err != nil {
		return desc, "", fmt.Errorf("eStargz: %w", err)
	}
	next, err := c.put(ctx, made, "", func() map[string]string {
		return map[string]string{diff.LabelUncompressed: made.DiffID().String()}
	})
	if err != nil {
		return desc, "", err
	}
	plainSize, err := made.UncompressedSize()
	if err != nil {
		return desc, "", err
	}
	desc = repackedAs(desc, next, diff.Gzip)
	if desc.Annotations == nil {
		desc.Annotations = make(map[string]string)
	}
	maps.Copy(desc.Annotations, map[string]string{
		estargz.TOCJSONDigestAnnotation:         made.TOCDigest().String(),
		estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(plainSize, 10),
	})
	return desc, made.DiffID(), nil
}

// isEstargz wants the digest of the table, which makes it trustworthy, and the
// end of the blob, which leads to it: annotations outlive other conversions.
func isEstargz(desc ocispec.Descriptor, packed *io.SectionReader) bool {
	_, _, err := estargz.OpenFooter(packed)
	return err == nil && desc.Annotations[estargz.TOCJSONDigestAnnotation] != ""
}

// unpacked is a file without a name of the bytes of plain, which diffID names.
func unpacked(plain io.Reader, diffID digest.Digest) (*os.File, error) {
	f, err := os.CreateTemp("", "convert-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	sum := digest.Canonical.Digester()
	if _, err = io.CopyBuffer(struct{ io.Writer }{f}, io.TeeReader(plain, sum.Hash()), make([]byte, 256<<10)); err == nil {
		err = sameDiffID(sum.Digest(), diffID)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
