// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
)

// reduce gives the index to push: the one that is stored, or if manifests of
// it are not wanted or not present another one without them, since a registry
// refuses an index that lists what it does not have.
func (p *push) reduce(ctx context.Context, desc ocispec.Descriptor, children []ocispec.Descriptor) (ocispec.Descriptor, []ocispec.Descriptor, error) {
	var some []ocispec.Descriptor
	keep := make([]bool, len(children))
	for i, c := range children {
		if len(p.opts.Platforms) > 0 && c.Platform != nil && !platforms.Any(p.opts.Platforms...).Match(*c.Platform) {
			continue
		}
		err := p.whole(ctx, c)
		if errdefs.IsNotFound(err) && !p.opts.AllPlatforms {
			p.opts.Report(Progress{Event: "missing " + platformOf(c), Name: image.IngestRef(c), Parents: []string{p.root}, Desc: &c})
			continue
		}
		if err != nil {
			return desc, nil, fmt.Errorf("platform %s: %w", platformOf(c), err)
		}
		keep[i] = true
		some = append(some, c)
	}
	if len(some) == len(children) {
		return desc, children, nil
	}
	if len(some) == 0 {
		return desc, nil, fmt.Errorf("index %s: no wanted platform is present: %w", desc.Digest, errdefs.ErrNotFound)
	}
	desc, err := p.without(ctx, desc, keep)
	return desc, some, err
}

func platformOf(desc ocispec.Descriptor) string {
	if desc.Platform == nil {
		return desc.Digest.String()
	}
	return platforms.Format(*desc.Platform)
}

// whole is errdefs.ErrNotFound unless desc is present with all it refers to.
func (p *push) whole(ctx context.Context, desc ocispec.Descriptor) error {
	if _, err := p.store.Info(ctx, desc.Digest); err != nil {
		return err
	}
	children, err := image.Children(ctx, p.store, desc)
	if err != nil || image.IsIndex(desc.MediaType) {
		return err
	}
	for _, c := range children {
		if _, err := p.store.Info(ctx, c.Digest); err != nil {
			return err
		}
	}
	return nil
}

// without stores an index that lists the manifests to keep, and is otherwise
// as it was, also in what this program does not know of.
func (p *push) without(ctx context.Context, desc ocispec.Descriptor, keep []bool) (ocispec.Descriptor, error) {
	ra, err := p.store.ReaderAt(ctx, desc.Digest)
	if err != nil {
		return desc, err
	}
	defer ra.Close()
	var doc map[string]json.RawMessage
	var all, kept []json.RawMessage
	if err := json.NewDecoder(io.NewSectionReader(ra, 0, ra.Size())).Decode(&doc); err != nil {
		return desc, err
	}
	if err := json.Unmarshal(doc["manifests"], &all); err != nil {
		return desc, err
	}
	if len(all) != len(keep) { // "manifests" and "Manifests" are two keys, but one field
		return desc, fmt.Errorf("index %s: its manifests are ambiguous: %w", desc.Digest, errdefs.ErrInvalidArgument)
	}
	for i, m := range all {
		if keep[i] {
			kept = append(kept, m)
		}
	}
	if doc["manifests"], err = json.Marshal(kept); err != nil {
		return desc, err
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return desc, err
	}
	desc.Digest, desc.Size = digest.FromBytes(data), int64(len(data))
	return desc, p.put(ctx, desc, data)
}

// put stores a document for as long as the lease.
func (p *push) put(ctx context.Context, desc ocispec.Descriptor, data []byte) error {
	w, err := p.store.Writer(ctx, content.WriterOpts{Ref: "push-" + uniqueName(), Expected: desc.Digest, Total: desc.Size})
	if err != nil {
		return ignoreExists(err)
	}
	defer w.Close()
	return ignoreExists(write(ctx, w, desc, data, nil))
}
