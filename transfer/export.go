// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/image/archive"
	"slipway/internal/ident"
)

// ExportOpts describes an export.
type ExportOpts struct {
	Images    []string           // names in the image store
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
	for _, name := range opts.Images {
		img, err := s.DB.Images(scope).Get(ctx, name)
		if err == nil {
			err = s.hold(ctx, scope, img.Target)
		}
		if err != nil {
			return err
		}
		images = append(images, archive.Image{Name: name, Target: img.Target})
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
