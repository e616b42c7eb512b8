// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/internal/mount"
)

// DiffOpts changes Compare; the zero value is the default.
type DiffOpts struct {
	MediaType string // of the layer, "" for an OCI layer with gzip
	Ref       string // of the ingest, "" for a generated one
	Labels    map[string]string
	// SourceDateEpoch bounds the times in the layer, for builds that must be
	// reproducible.
	SourceDateEpoch time.Time
	Tmp             string // where temporary mounts are made
	// Mount performs mounts, nil for what can do with plain ones.
	Mount Mounter
}

// LabelUncompressed notes the diffID on a compressed layer.
const LabelUncompressed = "containerd.io/uncompressed"

// Compare makes a layer of what upper has changed over lower and puts it into
// the store. No lower means that everything is new.
func Compare(ctx context.Context, lower, upper []mount.Mount, store content.Ingester, opts DiffOpts) (desc ocispec.Descriptor, err error) {
	if opts.MediaType == "" {
		opts.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	comp, err := compressionOf(opts.MediaType)
	if err != nil {
		return desc, err
	}
	err = opts.Mount.with(ctx, opts.Tmp, mount.ReadOnly(lower), func(lowerRoot string) error {
		return opts.Mount.with(ctx, opts.Tmp, mount.ReadOnly(upper), func(upperRoot string) error {
			if len(lower) == 0 {
				lowerRoot = ""
			}
			desc, err = ingest(ctx, lowerRoot, upperRoot, store, comp, opts)
			return err
		})
	})
	return desc, err
}

// ingest writes the layer into the store.
func ingest(ctx context.Context, lower, upper string, store content.Ingester, comp Compression, opts DiffOpts) (desc ocispec.Descriptor, err error) {
	ref := opts.Ref
	if ref == "" {
		var b [6]byte
		rand.Read(b[:])
		ref = "diff-" + base64.RawURLEncoding.EncodeToString(b[:])
	}
	w, err := store.Writer(ctx, content.WriterOpts{Ref: ref})
	if err != nil {
		return desc, err
	}
	defer w.Close()
	defer func() {
		if a, ok := store.(interface {
			Abort(context.Context, string) error
		}); ok && err != nil {
			w.Close()
			a.Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	if err := w.Truncate(0); err != nil {
		return desc, err
	}
	diffID, err := writeLayer(ctx, w, lower, upper, comp, opts)
	if err != nil {
		return desc, err
	}
	labels := maps.Clone(opts.Labels)
	if comp != None {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[LabelUncompressed] = diffID.String()
	}
	st, err := w.Status()
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: opts.MediaType, Digest: w.Digest(), Size: st.Offset}
	if err := w.Commit(ctx, st.Offset, desc.Digest, labels); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("commit layer: %w", err)
	}
	return desc, nil
}

func writeLayer(ctx context.Context, w io.Writer, lower, upper string, comp Compression, opts DiffOpts) (digest.Digest, error) {
	packed, err := NewCompressor(w, comp)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	l := newLayer(io.MultiWriter(packed, sum), upper, opts.SourceDateEpoch)
	if lower == "" {
		if lower, err = os.MkdirTemp(opts.Tmp, "empty"); err != nil {
			return "", err
		}
		defer os.Remove(lower)
	}
	if err := fs.Changes(ctx, lower, upper, l.change); err != nil {
		return "", fmt.Errorf("compare: %w", err)
	}
	if err := l.tar.Close(); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, sum), packed.Close()
}
