// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"io"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"slipway/client"
	"slipway/content"
	"slipway/ctr/progress"
	"slipway/image"
	"slipway/registry"
)

// The commands of this file speak to a registry themselves, where others have
// the daemon do it.

// repository opens a reference with the flags of a command.
func (r *registryFlags) repository(s *session, ref string) (*registry.Repository, error) {
	o, err := r.optionsFor(s, ref)
	if err != nil {
		return nil, err
	}
	return registry.New(ref, o)
}

func fetchObject(f flagSet) action {
	flags := registryOf(f)
	return func(s *session, args []string) error {
		repo, err := flags.repository(s, arg(args, 0))
		if err != nil {
			return err
		}
		_, desc, err := repo.Resolve(s.ctx)
		if err != nil {
			return err
		}
		return s.fetchTo(s.out, repo, desc)
	}
}

func (s *session) fetchTo(w io.Writer, repo *registry.Repository, desc ocispec.Descriptor) error {
	rc, err := repo.Fetch(s.ctx, desc, 0)
	if err != nil {
		return err
	}
	defer rc.Close()
	check := desc.Digest.Verifier()
	if _, err := io.Copy(io.MultiWriter(w, check), rc); err != nil {
		return err
	}
	if !check.Verified() {
		return fmt.Errorf("%s: the registry sent something else: %w", desc.Digest, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func fetchBlob(f flagSet) action {
	flags := registryOf(f)
	mediaType := f.String("media-type", "", "Media type to ask for")
	return func(s *session, args []string) error {
		if len(args) < 2 {
			return errors.New("must specify digests")
		}
		repo, err := flags.repository(s, args[0])
		if err != nil {
			return err
		}
		for _, text := range args[1:] {
			d, err := digest.Parse(text)
			if err != nil {
				return err
			}
			err = s.fetchTo(s.out, repo, ocispec.Descriptor{MediaType: *mediaType, Digest: d})
			if errdefs.IsNotFound(err) && *mediaType == "" { // not a blob: a manifest
				err = s.fetchTo(s.out, repo, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func pushObject(f flagSet) action {
	flags := registryOf(f)
	return func(s *session, args []string) error {
		d, err := digest.Parse(arg(args, 1))
		if err != nil {
			return err
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		info, err := store.Info(s.ctx, d)
		if err != nil {
			return err
		}
		repo, err := flags.repository(s, args[0])
		if err != nil {
			return err
		}
		desc := ocispec.Descriptor{MediaType: arg(args, 2), Digest: d, Size: info.Size}
		if err := pushOne(s.ctx, repo, store, desc, true); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "Pushed %s %s\n", desc.Digest, desc.MediaType)
		return nil
	}
}

// pushOne sends a blob or manifest that is not there yet.
func pushOne(ctx context.Context, repo *registry.Repository, store content.Provider, d ocispec.Descriptor, top bool) error {
	var err error
	if image.IsManifest(d.MediaType) || image.IsIndex(d.MediaType) {
		err = repo.PushManifest(ctx, d, store, top)
	} else {
		err = repo.Push(ctx, d, store, nil, func(int64) {})
	}
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// localPush is an image to be pushed from here.
type localPush struct {
	remote, name, manifest, manifestType string
	registry                             *registryFlags
	platforms                            []string
}

func (s *session) pushLocal(c *client.Client, p localPush) error {
	store := c.Store()
	desc := ocispec.Descriptor{MediaType: p.manifestType}
	if p.manifest != "" {
		var err error
		if desc.Digest, err = digest.Parse(p.manifest); err != nil {
			return fmt.Errorf("invalid manifest digest: %w", err)
		}
		info, err := store.Info(s.ctx, desc.Digest)
		if err != nil {
			return err
		}
		desc.Size = info.Size
	} else {
		resp, err := c.Images().Get(s.ctx, &imagesapi.GetImageRequest{Name: p.name})
		if err != nil {
			return fmt.Errorf("unable to resolve image to manifest: %w", err)
		}
		desc = client.Descriptor(resp.Image.Target)
	}
	want, err := matcher(p.platforms, nil)
	if err != nil {
		return err
	}
	repo, err := p.registry.repository(s, p.remote)
	if err != nil {
		return err
	}
	return pushTree(s.ctx, repo, store, desc, want, true)
}

// pushTree sends what a manifest refers to before itself.
func pushTree(ctx context.Context, repo *registry.Repository, store content.Provider, d ocispec.Descriptor, want platforms.MatchComparer, top bool) error {
	children, err := image.Children(ctx, store, d)
	if err != nil {
		return err
	}
	for _, child := range forPlatform(d, children, want) {
		if err := pushTree(ctx, repo, store, child, want, false); err != nil {
			return err
		}
	}
	return pushOne(ctx, repo, store, d, top)
}

// matcher is for the platforms named, or otherwise.
func matcher(names []string, otherwise platforms.MatchComparer) (platforms.MatchComparer, error) {
	if len(names) == 0 {
		return otherwise, nil
	}
	var list []ocispec.Platform
	for _, n := range names {
		p, err := platforms.Parse(n)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w: %w", n, err, errdefs.ErrInvalidArgument)
		}
		list = append(list, p)
	}
	return platforms.Ordered(list...), nil
}

func fetchContent(f flagSet) action {
	l := localPull{registry: registryOf(f)}
	labelPairs, platform := labelFlag(f), platformFlag(f)
	f.BoolVar(&l.all, "all-platforms", false, "Fetch the content for every platform")
	skip := f.Bool("skip-metadata", false, "Do not fetch the manifests of other platforms")
	only := f.Bool("metadata-only", false, "Fetch manifests and configs only")
	f.Bool("all-metadata", false, "Fetch the manifests of other platforms")
	f.MarkHidden("all-metadata")
	return func(s *session, args []string) error {
		c, err := s.dial()
		if err != nil {
			return err
		}
		l.ref, l.labels, l.platforms = arg(args, 0), labels(*labelPairs), *platform
		l.metadata, l.layers = !*skip || *only, !*only
		l.progress = progress.New(s.out, "Fetching "+l.ref, progress.Auto)
		_, err = s.fetchImage(c, l)
		l.progress.End(err)
		return err
	}
}

// localPull is an image to be fetched from here.
type localPull struct {
	ref       string
	registry  *registryFlags
	platforms []string
	all       bool // for every platform
	metadata  bool // manifests and configs of other platforms as well
	layers    bool
	labels    map[string]string
	atOnce    int // downloads, 0 for the default
	progress  *progress.Display
}

func (s *session) pullLocal(c *client.Client, l localPull, unpack client.UnpackOpts, chain bool) error {
	ctx, done, err := c.WithLease(s.ctx, 0)
	if err != nil {
		return err
	}
	defer s.later(done)
	s.ctx = ctx
	target, err := s.fetchImage(c, l)
	l.progress.End(err)
	if err != nil {
		return err
	}
	if len(l.platforms) == 0 {
		l.platforms = []string{""} // of this machine
	}
	for _, p := range l.platforms {
		fmt.Fprintf(s.out, "unpacking %s %s...\n", p, target.Digest)
		unpack.Platform = p
		top, _, err := c.UnpackWith(ctx, target, unpack)
		if err != nil {
			return err
		}
		if chain {
			fmt.Fprintf(s.out, "image chain ID: %s\n", top)
		}
	}
	fmt.Fprintln(s.out, "done")
	return nil
}

// fetchImage fetches the content of an image and records it.
func (s *session) fetchImage(c *client.Client, l localPull) (ocispec.Descriptor, error) {
	repo, err := l.registry.repository(s, l.ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	name, desc, err := repo.Resolve(s.ctx)
	if err != nil {
		return desc, err
	}
	ctx, done, err := c.WithLease(s.ctx, 0)
	if err != nil {
		return desc, err
	}
	defer s.later(done)
	want, err := matcher(l.platforms, platforms.Default())
	if err != nil {
		return desc, err
	}
	if l.all {
		want = platforms.All
	}
	f := &fetching{localPull: l, repo: repo, store: c.Store(), want: want}
	if f.atOnce <= 0 {
		f.atOnce = 3
	}
	if err := f.tree(ctx, desc, "", l.layers); err != nil {
		return desc, err
	}
	i := &imagesapi.Image{Name: name, Target: client.DescriptorProto(desc), Labels: l.labels}
	_, err = c.Images().Create(ctx, &imagesapi.CreateImageRequest{Image: i})
	if errdefs.IsAlreadyExists(err) {
		_, err = c.Images().Update(ctx, &imagesapi.UpdateImageRequest{Image: i})
	}
	return desc, err
}

// fetching is a fetch under way.
type fetching struct {
	localPull
	repo  *registry.Repository
	store *client.Store
	want  platforms.MatchComparer
}

// tree fetches a blob and then what it refers to.
func (f *fetching) tree(ctx context.Context, d ocispec.Descriptor, parent string, layers bool) error {
	if image.IsLayer(d.MediaType) && !layers {
		return nil
	}
	if err := f.blob(ctx, d, parent); err != nil {
		return err
	}
	children, err := image.Children(ctx, f.store, d)
	if err != nil || len(children) == 0 {
		return err
	}
	if err := keepChildren(ctx, f.store, d, children); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.atOnce)
	for _, child := range children {
		wanted := child.Platform == nil || f.want.Match(*child.Platform)
		if !wanted && !f.metadata {
			continue
		}
		g.Go(func() error { return f.tree(ctx, child, image.IngestRef(d), layers && wanted) })
	}
	return g.Wait()
}

// keepChildren makes a blob hold on to what it refers to.
func keepChildren(ctx context.Context, store *client.Store, d ocispec.Descriptor, children []ocispec.Descriptor) error {
	refs := content.Info{Digest: d.Digest, Labels: image.RefLabels(children)}
	var fields []string
	for key := range refs.Labels {
		fields = append(fields, "labels."+key)
	}
	_, err := store.Update(ctx, refs, fields...)
	return err
}

func (f *fetching) blob(ctx context.Context, d ocispec.Descriptor, parent string) error {
	ref := image.IngestRef(d)
	say := func(event string, n int64) {
		f.progress.Update(client.Progress{Event: event, Name: ref, Parents: []string{parent}, Progress: n, Total: d.Size, Desc: &d})
	}
	if _, err := f.store.Info(ctx, d.Digest); err == nil {
		say("already exists", d.Size)
		return nil
	}
	say("downloading", 0)
	rc, err := f.repo.Fetch(ctx, d, 0)
	if err != nil {
		return err
	}
	defer rc.Close()
	source := map[string]string{"containerd.io/distribution.source." + f.repo.Host(): f.repo.Name()}
	opts := content.WriterOpts{Ref: ref, Total: d.Size, Expected: d.Digest}
	if _, err := ingest(ctx, f.store, opts, &counted{rc, say, 0}, source); err != nil {
		return err
	}
	say("complete", d.Size)
	return nil
}

// counted reports what is read.
type counted struct {
	io.Reader
	say func(string, int64)
	n   int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.say("downloading", c.n)
	return n, err
}
