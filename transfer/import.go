// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"slipway/image"
	"slipway/image/archive"
	"slipway/internal/ident"
	"slipway/meta"
)

// ImportOpts describes an import.
type ImportOpts struct {
	Store    StoreOpts // Name, if any, is for the index of the archive
	Compress bool      // gzip the layers of docker save that are not compressed
}

// Import reads an archive of images in the layout of OCI or of docker save,
// compressed or not, unpacks them where asked and records their names.
func (s *Service) Import(ctx context.Context, scope ident.Scope, r io.Reader, opts ImportOpts, report Report) error {
	scope, end, err := s.withLease(ctx, scope)
	if err != nil {
		return err
	}
	defer end()
	report(Progress{Event: "Importing"})
	p := &pull{
		Service: s, scope: scope, opts: opts.Store, report: report, store: s.DB.Content(scope), root: "archive",
		downloads: semaphore.NewWeighted(int64(s.Downloads)), unpacks: semaphore.NewWeighted(int64(s.Unpacks)),
	}
	p.bring = p.present
	desc, err := archive.Read(ctx, r, p.store, archive.ReadOpts{Compress: opts.Compress})
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if err := p.takeArchived(ctx, desc); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	report(Progress{Event: "Completed import"})
	return nil
}

// present is bring for an archive: what was in it is in the store. Without a
// parent it only looks.
func (p *pull) present(ctx context.Context, l *pending, parent string) error {
	_, err := p.store.Info(ctx, l.desc.Digest)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%s is not in the archive: %w", image.IngestRef(l.desc), err)
	}
	if err == nil && parent != "" {
		p.say("complete", l.desc, parent, l.desc.Size)
	}
	return err
}

// takeArchived unpacks and records what an archive lists, if all of it is
// admitted.
func (p *pull) takeArchived(ctx context.Context, desc ocispec.Descriptor) error {
	index, err := image.ReadIndex(ctx, p.store, desc)
	if err != nil {
		return err
	}
	all := p.archivedImages(ctx, desc, index)
	if err := p.admitArchived(ctx, index, all); err != nil {
		return err
	}
	if err := p.run(ctx, desc); err != nil {
		return err
	}
	return p.save(ctx, p.scope, all, "archive", p.report)
}

// archivedImages gives the index and the images that it lists their names. If
// none has a name, each gets that of its digest.
func (p *pull) archivedImages(ctx context.Context, desc ocispec.Descriptor, index ocispec.Index) []meta.Image {
	all := p.opts.names(desc)
	var found []ocispec.Descriptor
	for _, m := range index.Manifests {
		if p.present(ctx, newPending(m), "") == nil && (p.opts.AllMetadata || p.wanted(m.Platform)) {
			found = append(found, m)
			all = append(all, p.opts.archived(m)...)
		}
	}
	if len(all) == 0 {
		all = p.opts.byDigest(found)
	}
	return unique(all)
}

// unique drops all but the last image of a name.
func unique(all []meta.Image) (list []meta.Image) {
	at := map[string]int{}
	for _, img := range all {
		if i, ok := at[img.Name]; ok {
			list[i] = img
			continue
		}
		at[img.Name] = len(list)
		list = append(list, img)
	}
	return list
}
