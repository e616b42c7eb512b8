// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"

	"slipway/image/convert"
	"slipway/internal/ident"
	"slipway/meta"
)

// Convert makes the image to from the image from.
func (s *Service) Convert(ctx context.Context, scope ident.Scope, from, to string, opts convert.Options) error {
	scope, end, err := s.withLease(ctx, scope)
	if err != nil {
		return err
	}
	defer end()
	img, err := s.DB.Images(scope).Get(ctx, from)
	if err == nil {
		err = s.hold(ctx, scope, img.Target)
	}
	if err != nil {
		return err
	}
	desc, err := convert.Image(ctx, s.DB.Content(scope), img.Target, opts)
	if err != nil {
		return fmt.Errorf("image %s: convert: %w", from, err)
	}
	return s.record(ctx, scope, meta.Image{Name: to, Target: desc, Labels: img.Labels})
}
