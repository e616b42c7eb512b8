// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image/archive"
	"slipway/internal/ident"
	"slipway/meta"
)

// ExportOpts describes an export.
type ExportOpts struct {
	// Images are names in the image store. A prefix stands for all images of
	// that repository: those with a tag, and with AddDigest those named by a
	// digest, with SkipNamedDigest only if no tag has the same target.
	Images    []Reference
	Platforms []ocispec.Platform // none means those that are present
	// AllPlatforms demands every platform of every image.
	AllPlatforms bool
	// SkipManifestJSON leaves out the file by which older Dockers load.
	SkipManifestJSON     bool
	SkipNonDistributable bool // layers that may not be passed on
}

// Export writes images as an archive in the layout of OCI, which docker load
// reads as well.
func (s *Service) Export(ctx context.Context, scope ident.Scope, w io.Writer, opts ExportOpts, report Report) error {
	if len(opts.Images) == 0 {
		return fmt.Errorf("export: no image is named: %w", errdefs.ErrInvalidArgument)
	}
	scope, end, err := s.withLease(ctx, scope)
	if err != nil {
		return err
	}
	defer end()
	report(Progress{Event: "Exporting"})
	var images []archive.Image
	named, err := s.named(ctx, scope, opts.Images)
	if err != nil {
		return err
	}
	for _, img := range named {
		if err := s.hold(ctx, scope, img.Target); err != nil {
			return err
		}
		images = append(images, archive.Image{Name: img.Name, Target: img.Target})
	}
	write := archive.WriteOpts{
		All: opts.AllPlatforms, SkipManifestJSON: opts.SkipManifestJSON, SkipNonDistributable: opts.SkipNonDistributable,
		Progress: exportProgress(report),
	}
	if len(opts.Platforms) > 0 && !opts.AllPlatforms {
		write.Platform = platforms.Ordered(opts.Platforms...)
	}
	if err := archive.Write(ctx, w, s.DB.Content(scope), images, write); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	report(Progress{Event: "Completed export"})
	return nil
}

// named finds the images that references name. A prefix that none has is
// errdefs.ErrNotFound.
func (s *Service) named(ctx context.Context, scope ident.Scope, refs []Reference) (all []meta.Image, err error) {
	store := s.DB.Images(scope)
	for _, ref := range refs {
		if !ref.IsPrefix {
			img, err := store.Get(ctx, ref.Name)
			if err != nil {
				return nil, err
			}
			all = append(all, img)
			continue
		}
		list, err := store.List(ctx)
		if err != nil {
			return nil, err
		}
		found := ref.among(list)
		if len(found) == 0 {
			return nil, fmt.Errorf("images of %q: %w", ref.Name, errdefs.ErrNotFound)
		}
		all = append(all, found...)
	}
	return unique(all), nil
}

// among finds the images that a prefix stands for.
func (r Reference) among(list []meta.Image) (found []meta.Image) {
	tagged := map[digest.Digest]bool{}
	for _, img := range list {
		if strings.HasPrefix(img.Name, r.Name+":") {
			found = append(found, img)
			tagged[img.Target.Digest] = true
		}
	}
	for _, img := range list {
		if r.AddDigest && strings.HasPrefix(img.Name, r.Name+"@") && !(r.SkipNamedDigest && tagged[img.Target.Digest]) {
			found = append(found, img)
		}
	}
	return found
}

// exportProgress reports bytes, not too often.
func exportProgress(report Report) func(int64) {
	last := time.Now()
	return func(n int64) {
		if now := time.Now(); now.Sub(last) >= reportEvery {
			last = now
			report(Progress{Event: "exporting", Progress: n})
		}
	}
}
