// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"fmt"
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
	Unpacks     []Unpack
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
	report(Progress{Event: "Pulling from " + ref})
	report(Progress{Event: "fetching image content", Name: ref})
	p := &pull{
		Service: s, scope: scope, repo: repo, opts: opts.Store, report: report, root: ref,
		source: sourceLabel(repo), store: s.DB.Content(scope),
		downloads: semaphore.NewWeighted(int64(s.Downloads)), unpacks: semaphore.NewWeighted(int64(s.Unpacks)),
	}
	if err := p.run(ctx, desc); err != nil {
		return err
	}
	img := meta.Image{Name: opts.Store.Name, Target: desc, Labels: opts.Store.Labels}
	if err := s.record(ctx, scope, img); err != nil {
		return err
	}
	report(Progress{Event: "saved", Name: img.Name, Parents: []string{ref}, Desc: &desc})
	report(Progress{Event: "Completed pull from " + ref})
	return nil
}

// pull is one Pull under way.
type pull struct {
	*Service
	scope              ident.Scope
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
	g, ctx := errgroup.WithContext(ctx)
	p.fetchTree(ctx, g, desc, p.root)
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
		if err := p.fetch(ctx, desc, parent); err != nil {
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
	if err := p.label(ctx, desc.Digest, refLabels(children)); err != nil {
		return err
	}
	for _, c := range children {
		if p.opts.AllMetadata || p.wanted(c.Platform) {
			p.fetchTree(ctx, g, c, refKey(desc))
		}
	}
	return nil
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
	if err := p.label(ctx, desc.Digest, refLabels(children)); err != nil {
		return err
	}
	if err := p.fetch(ctx, m.Config, refKey(desc)); err != nil {
		return err
	}
	if p.opts.AllMetadata && !p.wanted(desc.Platform) {
		return nil
	}
	layers := make([]*pending, len(m.Layers))
	for i, l := range m.Layers {
		layers[i] = &pending{desc: l, done: make(chan struct{})}
	}
	for _, l := range layers {
		g.Go(func() error {
			err := p.fetch(ctx, l.desc, refKey(desc))
			if err == nil {
				close(l.done)
			}
			return err
		})
	}
	return p.unpackManifest(ctx, g, m, layers)
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

// pending is a layer that will be in the content store when done is closed.
type pending struct {
	desc ocispec.Descriptor
	done chan struct{}
}

func (l *pending) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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

// refLabels are the labels by which a manifest or index keeps its children.
func refLabels(children []ocispec.Descriptor) map[string]string {
	labels := make(map[string]string)
	count := make(map[string]int)
	for _, c := range children {
		key := "containerd.io/gc.ref.content."
		switch {
		case image.IsManifest(c.MediaType), image.IsIndex(c.MediaType):
			key += "m."
		case image.IsLayer(c.MediaType):
			key += "l."
		case image.IsConfig(c.MediaType):
			labels[key+"config"] = c.Digest.String()
			continue
		}
		labels[fmt.Sprint(key, count[key])] = c.Digest.String()
		count[key]++
	}
	return labels
}

// refKey is the ingest ref of a blob. It is the identity by which an
// interrupted download is resumed, by upstream's daemon too.
func refKey(d ocispec.Descriptor) string {
	switch {
	case image.IsManifest(d.MediaType):
		return "manifest-" + d.Digest.String()
	case image.IsIndex(d.MediaType):
		return "index-" + d.Digest.String()
	case image.IsLayer(d.MediaType):
		return "layer-" + d.Digest.String()
	case image.IsConfig(d.MediaType):
		return "config-" + d.Digest.String()
	}
	return "unknown-" + d.Digest.String()
}

// reportEvery bounds how often a download speaks of its progress.
const reportEvery = 100 * time.Millisecond

// fetch puts one blob into the content store, with where it came from.
func (p *pull) fetch(ctx context.Context, desc ocispec.Descriptor, parent string) error {
	say := func(event string, n int64) {
		p.report(Progress{Event: event, Name: refKey(desc), Parents: []string{parent}, Progress: n, Total: desc.Size, Desc: &desc})
	}
	say("waiting", 0)
	if err := p.downloads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer p.downloads.Release(1)
	release, err := p.flights.acquire(ctx, "blob "+string(p.scope.Namespace)+" "+desc.Digest.String())
	if err != nil {
		return err
	}
	defer release()
	fresh, err := p.download(ctx, desc, say)
	if err != nil {
		return err
	}
	if fresh {
		say("complete", desc.Size)
		return nil
	}
	say("already exists", desc.Size)
	return p.addSource(ctx, desc.Digest)
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
func (p *pull) download(ctx context.Context, desc ocispec.Descriptor, say func(string, int64)) (fresh bool, err error) {
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
		if err := p.copyBlob(ctx, w, desc, st.Offset, say); err != nil {
			return false, err
		}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, p.source)
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if errdefs.IsFailedPrecondition(err) { // what was fetched is worthless
		w.Close()
		p.store.Abort(context.WithoutCancel(ctx), refKey(desc))
		return false, fmt.Errorf("image %s: blob %s from %s: %w", p.root, desc.Digest, p.repo.Host(), err)
	}
	return true, err
}

// writer opens the ingest, waiting while a client of the content service
// holds it.
func (p *pull) writer(ctx context.Context, desc ocispec.Descriptor) (content.Writer, error) {
	for {
		w, err := p.store.Writer(ctx, content.WriterOpts{Ref: refKey(desc), Expected: desc.Digest, Total: desc.Size})
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
