// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/internal/erofs"
)

// Erofs says how layers become images of EROFS. Their diffIDs are the digests of
// these, so the new image has snapshots of its own.
type Erofs struct {
	Zstd        bool     // pack them
	Compressors string   // inside of them, as option -z of mkfs.erofs has it
	Mkfs        []string // more options of mkfs.erofs
}

// feature is what a platform must have for such layers.
const feature = "erofs"

func (e *Erofs) packing() diff.Compression {
	if e.Zstd {
		return diff.Zstd
	}
	return diff.None
}

// options make the same image of the same layer every time.
func (e *Erofs) options(diffID digest.Digest) []string {
	id := sha256.Sum256([]byte(diffID))
	opts := []string{fmt.Sprintf("-U%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16]), "-T0", "--preserve-mtime"}
	if e.Compressors != "" {
		opts = append(opts, "-z"+e.Compressors)
	}
	return append(opts, e.Mkfs...)
}

// erofsLayer makes an image of a layer and gives its diffID. One that is an
// image stays what it is; it is packed as wanted.
func (c *converter) erofsLayer(ctx context.Context, desc ocispec.Descriptor, plain io.Reader, is diff.Compression, diffID digest.Digest) (ocispec.Descriptor, digest.Digest, error) {
	if erofs.IsImage(desc.MediaType) {
		if is == c.opts.Erofs.packing() {
			return desc, diffID, nil
		}
		next, err := c.repacked(ctx, desc, plain, c.opts.Erofs.packing(), diffID)
		return next, diffID, err
	}
	dir, err := os.MkdirTemp("", "convert-")
	if err != nil {
		return desc, "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, erofs.Image)
	sum := digest.Canonical.Digester()
	archive := io.TeeReader(plain, sum.Hash())
	if err := (&diff.ErofsOpts{Mkfs: c.opts.Erofs.options(diffID)}).Build(ctx, file, archive); err != nil {
		return desc, "", err
	}
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return desc, "", err
	}
	if err := sameDiffID(sum.Digest(), diffID); err != nil {
		return desc, "", err
	}
	return c.storeImage(ctx, desc, file)
}

func (c *converter) storeImage(ctx context.Context, desc ocispec.Descriptor, file string) (ocispec.Descriptor, digest.Digest, error) {
	made, err := os.Open(file)
	if err != nil {
		return desc, "", err
	}
	defer made.Close()
	diffID, err := digest.FromReader(made)
	if err != nil {
		return desc, "", err
	}
	if _, err := made.Seek(0, io.SeekStart); err != nil {
		return desc, "", err
	}
	desc.MediaType = erofs.MediaType
	next, err := c.repacked(ctx, desc, made, c.opts.Erofs.packing(), diffID)
	return next, diffID, err
}

// features adds ours to those of a config.
func features(old json.RawMessage) (json.RawMessage, error) {
	var list []string
	if old != nil {
		if err := json.Unmarshal(old, &list); err != nil {
			return nil, err
		}
	}
	return json.Marshal(withFeature(list))
}

func withFeature(list []string) []string {
	if slices.Contains(list, feature) {
		return list
	}
	return append(slices.Clone(list), feature)
}
