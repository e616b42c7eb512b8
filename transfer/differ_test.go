// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
)

// elsewhere applies layers as another process does: from the content store of
// the scope that it is told.
type elsewhere struct {
	db    *meta.DB
	asked []ocispec.Descriptor
}

func (e *elsewhere) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ diff.ApplyOpts) (ocispec.Descriptor, error) {
	e.asked = append(e.asked, desc)
	s, err := ident.ScopeOf(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return diff.ApplyBlob(ctx, e.db.Content(s), desc, mounts, diff.ApplyOpts{})
}

// A differ in another process gets layers that are stored, in order, each on
// the ones below.
func TestAnotherDifferUnpacks(t *testing.T) {
	w := newWorld(t)
	e := &elsewhere{db: w.DB}
	w.Differ = e
	ref := serve(t, nil) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	opts := pullOpts(ref, "overlayfs")
	if opts.Report == nil {
		opts.Report = func(Progress) {}
	}
	if err := w.Pull(t.Context(), scope, ref, opts); err != nil {
		t.Fatal(err)
	}
	w.clean(t)
	if got := w.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
		t.Errorf("files: %s", got)
	}
	if len(e.asked) < 2 {
		t.Errorf("the differ was asked for %d layers", len(e.asked))
	}
}
