// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"slipway/image"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/registry"
)

// PushOpts describes a push.
type PushOpts struct {
	Registry  registry.Options
	Platforms []ocispec.Platform // none means those that are present
	// AllPlatforms demands every platform of the image. Otherwise those that
	// are absent are left out of the index.
	AllPlatforms bool
	Report       Report
}

// Push sends the image name to ref. Blobs go first, side by side, then the
// manifests, and the one that ref tags last.
func (s *Service) Push(ctx context.Context, scope ident.Scope, name, ref string, opts PushOpts) error {
	scope, end, err := s.withLease(ctx, scope)
	if err != nil {
		return err
	}
	defer end()
	img, err := s.DB.Images(scope).Get(ctx, name)
	if err == nil {
		err = s.hold(ctx, scope, img.Target)
	}
	if err != nil {
		return err
	}
	repo, err := registry.New(ref, opts.Registry)
	if err != nil {
		return err
	}
	opts.Report(Progress{Event: "Pushing to " + ref})
	opts.Report(Progress{Event: "pushing content", Name: ref, Desc: &img.Target})
	p := &push{
		Service: s, repo: repo, store: s.DB.Content(scope), opts: opts, root: ref,
		uploads: semaphore.NewWeighted(int64(s.Uploads)),
	}
	if err := p.tree(ctx, img.Target, true); err != nil {
		return fmt.Errorf("image %s: push to %s: %w", name, ref, err)
	}
	opts.Report(Progress{Event: "pushed content", Name: ref, Desc: &img.Target})
	opts.Report(Progress{Event: "Completed push to " + ref})
	return nil
}

type push struct {
	*Service
	repo    *registry.Repository
	store   *meta.Content
	opts    PushOpts
	root    string
	uploads *semaphore.Weighted
}

// tree pushes what desc refers to, and then desc.
func (p *push) tree(ctx context.Context, desc ocispec.Descriptor, top bool) error {
	children, err := image.Children(ctx, p.store, desc)
	if err != nil {
		return err
	}
	if image.IsIndex(desc.MediaType) {
		if desc, children, err = p.reduce(ctx, desc, children); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range children {
		g.Go(func() error { return p.tree(gctx, c, false) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.one(ctx, desc, top)
}

func (p *push) one(ctx context.Context, desc ocispec.Descriptor, top bool) error {
	if err := p.uploads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.uploads.Release(1)
	say := func(event string, n int64) {
		p.opts.Report(Progress{Event: event, Name: image.IngestRef(desc), Parents: []string{p.root}, Progress: n, Total: desc.Size, Desc: &desc})
	}
	say("uploading", 0)
	if image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType) {
		if err := ignoreExists(p.repo.PushManifest(ctx, desc, p.store, top)); err != nil {
			return err
		}
		say("complete", desc.Size)
		return nil
	}
	from, err := p.mountFrom(ctx, desc)
	if err != nil {
		return err
	}
	err = p.repo.Push(ctx, desc, p.store, from, func(n int64) { say("uploading", n) })
	if err = ignoreExists(err); err != nil {
		return err
	}
	say("complete", desc.Size)
	return nil
}

// mountFrom lists repositories of the same registry that have the blob.
func (p *push) mountFrom(ctx context.Context, desc ocispec.Descriptor) ([]string, error) {
	info, err := p.store.Info(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%s is not in the content store: %w", image.IngestRef(desc), err)
	}
	if err != nil {
		return nil, err
	}
	list := info.Labels["containerd.io/distribution.source."+p.repo.Host()]
	if list == "" {
		return nil, nil
	}
	return strings.Split(list, ","), nil
}
