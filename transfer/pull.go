// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"slipway/content"
	"slipway/image"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/registry"
)

// StoreOpts says how an image is kept.
type StoreOpts struct {
	Name      string
	Labels    map[string]string
	Platforms []ocispec.Platform // which to fetch; none means all
	// AllMetadata fetches manifests and configs of every platform, and
	// layers of Platforms only.
	AllMetadata bool
	// Manifests is how many of each index are fetched at most, those first
	// that suit Platforms best; 0 is for all.
	Manifests  int
	Unpacks    []Unpack
	References []Reference // further names
}

// Unpack asks for the snapshots of one platform.
type Unpack struct {
	Platform    ocispec.Platform
	Snapshotter string // empty for the default of the namespace
}

// PullOpts describes a pull.
type PullOpts struct {
	Registry registry.Options
	Store    StoreOpts
	Report   Report
}

// Pull fetches the image ref, unpacks it where asked and records its name.
func (s *Service) Pull(ctx context.Context, scope ident.Scope, ref string, opts PullOpts) error {
	scope, end, err := s.withLease(ctx, scope)
	if err != nil {
		return err
	}
	defer end()
	report := opts.Report
	report(Progress{Event: "Resolving from " + ref})
	repo, err := registry.New(ref, opts.Registry)
	if err != nil {
		return err
	}
	_, desc, err := repo.Resolve(ctx)
	if err != nil {
		return err
	}
	if err := s.Verifier.verify(ctx, ref, desc); err != nil {
		return err
	}
	found, err := s.Policy.Check(ctx, ref, desc, remoteSignatures{repo, opts.Registry})
	if err != nil {
		return err
	}
	report(Progress{Event: "Pulling from " + ref})
	report(Progress{Event: "fetching image content", Name: ref})
	p := &pull{
		Service: s, scope: scope, repo: repo, opts: opts.Store, report: report, root: ref,
		source: sourceLabel(repo), store: s.DB.Content(scope),
		downloads: semaphore.NewWeighted(int64(s.Downloads)), unpacks: semaphore.NewWeighted(int64(s.Unpacks)),
	}
	p.bring = p.fetch
	if err := p.run(ctx, desc); err != nil {
		return err
	}
	if err := p.keep(ctx, desc.Digest, found); err != nil {
		return fmt.Errorf("image %s: keep its signature: %w", ref, err)
	}
	if err := s.save(ctx, scope, opts.Store.names(desc), ref, report); err != nil {
		return err
	}
	report(Progress{Event: "Completed pull from " + ref})
	return nil
}

// pull is one Pull or Import under way.
type pull struct {
	*Service
	scope ident.Scope
	// bring makes sure that a blob is in the store.
	bring              func(ctx context.Context, l *pending, parent string) error
	repo               *registry.Repository
	opts               StoreOpts
	report             Report
	root               string // name of the tree's root for progress
	source             map[string]string
	store              *meta.Content
	downloads, unpacks *semaphore.Weighted
}

// sourceLabel says where blobs came from, so that a push can mount them.
func sourceLabel(repo *registry.Repository) map[string]string {
	return map[string]string{"containerd.io/distribution.source." + repo.Host(): repo.Name()}
}

func (p *pull) run(ctx context.Context, desc ocispec.Descriptor) error {
	g, gctx := errgroup.WithContext(ctx) // ends with the group
	p.fetchTree(gctx, g, desc, p.root)
	if err := g.Wait(); err != nil {
		return err
	}
	return p.checkPlatform(ctx, desc)
}

// checkPlatform fails if nothing of the image suits the wanted platforms.
func (p *pull) checkPlatform(ctx context.Context, desc ocispec.Descriptor) error {
	if len(p.opts.Platforms) == 0 || !image.IsIndex(desc.MediaType) {
		return nil
	}
	if _, err := image.Manifest(ctx, p.store, desc, platforms.Any(p.opts.Platforms...)); err != nil {
		return fmt.Errorf("image %s: %w", p.root, err)
	}
	return nil
}

// fetchTree fetches desc and then, side by side, what it refers to.
func (p *pull) fetchTree(ctx context.Context, g *errgroup.Group, desc ocispec.Descriptor, parent string) {
	g.Go(func() error {
		if err := p.bringOne(ctx, desc, parent); err != nil {
			return err
		}
		switch {
		case image.IsIndex(desc.MediaType):
			return p.fetchIndex(ctx, g, desc)
		case image.IsManifest(desc.MediaType):
			return p.fetchManifest(ctx, g, desc)
		}
		return nil
	})
}

func (p *pull) fetchIndex(ctx context.Context, g *errgroup.Group, desc ocispec.Descriptor) error {
	children, err := image.Children(ctx, p.store, desc)
	if err != nil {
		return err
	}
	if err := p.label(ctx, desc.Digest, image.RefLabels(children)); err != nil {
		return err
	}
	for _, c := range p.limit(children) {
		if p.repo == nil { // an archive need not hold every platform
			err := p.bring(ctx, newPending(c), "")
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
		}
		if p.opts.AllMetadata || p.wanted(c.Platform) {
			p.fetchTree(ctx, g, c, image.IngestRef(desc))
		}
	}
	return nil
}

// limit keeps as many manifests as are wanted at most.
func (p *pull) limit(list []ocispec.Descriptor) []ocispec.Descriptor {
	if p.opts.Manifests <= 0 || len(list) <= p.opts.Manifests {
		return list
	}
	if !p.opts.AllMetadata {
		list = slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool { return !p.wanted(d.Platform) })
	}
	if len(p.opts.Platforms) > 0 {
		best := platforms.Ordered(p.opts.Platforms...)
		slices.SortStableFunc(list, func(a, b ocispec.Descriptor) int {
			switch {
			case a.Platform == nil && b.Platform == nil:
				return 0
			case b.Platform == nil || a.Platform != nil && best.Less(*a.Platform, *b.Platform):
				return -1
			case a.Platform == nil || best.Less(*b.Platform, *a.Platform):
				return 1
			}
			return 0
		})
	}
	return list[:min(len(list), p.opts.Manifests)]
}

// wanted says whether a manifest's layers are to be fetched. One that does
// not name its platform is looked at.
func (p *pull) wanted(platform *ocispec.Platform) bool {
	if len(p.opts.Platforms) == 0 || platform == nil {
		return true
	}
	return platforms.Any(p.opts.Platforms...).Match(*platform)
}

func (p *pull) fetchManifest(ctx context.Context, g *errgroup.Group, desc ocispec.Descriptor) error {
	m, err := image.ReadManifest(ctx, p.store, desc)
	if err != nil {
		return err
	}
	children := append([]ocispec.Descriptor{m.Config}, m.Layers...)
	if err := p.label(ctx, desc.Digest, image.RefLabels(children)); err != nil {
		return err
	}
	if err := p.bringOne(ctx, m.Config, image.IngestRef(desc)); err != nil {
		return err
	}
	if p.opts.AllMetadata && !p.wanted(desc.Platform) {
		return nil
	}
	layers := make([]*pending, len(m.Layers))
	for i, l := range m.Layers {
		layers[i] = newPending(l)
	}
	g.Go(func() error { return p.bringLayers(ctx, g, layers, image.IngestRef(desc)) })
	return p.unpackManifest(ctx, g, m, layers)
}

// bringOne brings a document.
func (p *pull) bringOne(ctx context.Context, desc ocispec.Descriptor, parent string) error {
	p.say("waiting", desc, parent, 0)
	if err := p.downloads.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer p.downloads.Release(1)
	return p.bring(ctx, newPending(desc), parent)
}

// bringLayers begins with the largest layers: what is begun last should not
// take long.
func (p *pull) bringLayers(ctx context.Context, g *errgroup.Group, layers []*pending, parent string) error {
	order := slices.Clone(layers)
	slices.SortStableFunc(order, func(a, b *pending) int { return cmp.Compare(b.desc.Size, a.desc.Size) })
	for _, l := range order {
		p.say("waiting", l.desc, parent, 0)
		if err := p.downloads.Acquire(ctx, 1); err != nil {
			return context.Cause(ctx)
		}
		g.Go(func() error {
			defer p.downloads.Release(1)
			err := p.bring(ctx, l, parent)
			if err == nil {
				l.finish()
			}
			return err
		})
	}
	return nil
}

func (p *pull) say(event string, desc ocispec.Descriptor, parent string, n int64) {
	p.report(Progress{Event: event, Name: image.IngestRef(desc), Parents: []string{parent}, Progress: n, Total: desc.Size, Desc: &desc})
}

// unpackManifest starts the unpacks that suit the platform of m.
func (p *pull) unpackManifest(ctx context.Context, g *errgroup.Group, m ocispec.Manifest, layers []*pending) error {
	if len(p.opts.Unpacks) == 0 || !image.IsConfig(m.Config.MediaType) {
		return nil
	}
	config, err := image.ReadConfig(ctx, p.store, m.Config)
	if err != nil {
		return err
	}
	for _, u := range p.opts.Unpacks {
		if !platforms.Only(u.Platform).Match(platforms.Normalize(config.Platform)) {
			continue
		}
		g.Go(func() error { return p.unpack(ctx, u.Snapshotter, m.Config, config.RootFS.DiffIDs, layers) })
	}
	return nil
}

// label adds labels to a blob.
func (p *pull) label(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	return addLabels(ctx, p.store, dgst, labels)
}

func addLabels(ctx context.Context, store *meta.Content, dgst digest.Digest, labels map[string]string) error {
	var fields []string
	for k := range labels {
		fields = append(fields, "labels."+k)
	}
	if len(fields) == 0 {
		return nil
	}
	_, err := store.Update(ctx, content.Info{Digest: dgst, Labels: labels}, fields...)
	return err
}

// reportEvery bounds how often a download speaks of its progress.
const reportEvery = 100 * time.Millisecond

// fetch puts one blob into the content store, with where it came from. One
// download of a blob is under way in the daemon; others wait for it.
func (p *pull) fetch(ctx context.Context, l *pending, parent string) error {
	release, err := p.flights.acquire(ctx, "blob "+l.desc.Digest.String())
	if err != nil {
		return err
	}
	defer release()
	fresh, err := p.download(ctx, l, parent)
	if err != nil {
		return err
	}
	if fresh {
		p.say("complete", l.desc, parent, l.desc.Size)
		return nil
	}
	p.say("already exists", l.desc, parent, l.desc.Size)
	return p.addSource(ctx, l.desc.Digest)
}

// addSource notes on a blob that was here that this registry has it as well.
func (p *pull) addSource(ctx context.Context, dgst digest.Digest) error {
	info, err := p.store.Info(ctx, dgst)
	if err != nil {
		return err
	}
	labels := make(map[string]string)
	for k, v := range p.source {
		if merged := mergeSource(info.Labels[k], v); merged != info.Labels[k] {
			labels[k] = merged
		}
	}
	return p.label(ctx, dgst, labels)
}

// download reports whether the blob was not there before.
func (p *pull) download(ctx context.Context, l *pending, parent string) (fresh bool, err error) {
	desc := l.desc
	w, err := p.writer(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, err
	}
	if st.Offset > desc.Size {
		if err := w.Truncate(0); err != nil {
			return false, err
		}
		st.Offset = 0
	}
	if st.Offset < desc.Size {
		if err := p.copyBlob(ctx, w, l, st.Offset, parent); err != nil {
			return false, err
		}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, p.source)
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if errdefs.IsFailedPrecondition(err) { // what was fetched is worthless
		w.Close()
		p.store.Abort(context.WithoutCancel(ctx), image.IngestRef(desc))
		return false, fmt.Errorf("image %s: blob %s from %s: %w", p.root, desc.Digest, p.repo.Host(), err)
	}
	return true, err
}

// writer opens the ingest, waiting while a client of the content service
// holds it.
func (p *pull) writer(ctx context.Context, desc ocispec.Descriptor) (content.Writer, error) {
	for {
		w, err := p.store.Writer(ctx, content.WriterOpts{Ref: image.IngestRef(desc), Expected: desc.Digest, Total: desc.Size})
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}
