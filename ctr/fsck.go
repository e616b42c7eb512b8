// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/client"
	"slipway/content"
	"slipway/diff"
	"slipway/image"
	"slipway/image/fsck"
)

func checkContent(flagSet) action {
	return func(s *session, args []string) error {
		filters := slices.Clone(args)
		for i, f := range filters {
			if digest.Digest(f).Validate() == nil {
				filters[i] = "digest==" + f
			}
		}
		store, err := s.store()
		if err != nil {
			return err
		}
		all, bad := 0, 0
		err = store.Walk(s.ctx, func(i content.Info) error {
			all++
			err := fsck.Blob(s.ctx, store, ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
			if errdefs.IsNotFound(err) {
				if _, gone := store.Info(s.ctx, i.Digest); errdefs.IsNotFound(gone) {
					all--
					return nil // collected meanwhile
				}
				err = fmt.Errorf("%s: missing: %w", i.Digest, errdefs.ErrDataLoss)
			}
			if errdefs.IsDataLoss(err) {
				bad++
				fmt.Fprintln(s.out, err)
				return nil
			}
			return err
		}, filters...)
		if err != nil {
			return err
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d blobs are damaged: %w", bad, all, errdefs.ErrDataLoss)
		}
		if all == 1 {
			fmt.Fprintln(s.out, "1 blob is sound")
			return nil
		}
		fmt.Fprintf(s.out, "%d blobs are sound\n", all)
		return nil
	}
}

func fsckImages(f flagSet) action {
	flags, name := registryOf(f), snapshotter(f)
	repair := f.Bool("repair", false, "Fetch damaged blobs again, and unpack damaged layers again")
	return func(s *session, args []string) error {
		c, all, err := s.images(nil)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			all = slices.DeleteFunc(all, func(i *imagesapi.Image) bool { return !slices.Contains(args, i.Name) })
			for _, name := range args {
				if !slices.ContainsFunc(all, func(i *imagesapi.Image) bool { return i.Name == name }) {
					return fmt.Errorf("image %q: %w", name, errdefs.ErrNotFound)
				}
			}
		}
		sn, err := c.Snapshotter(s.ctx, *name)
		if err != nil {
			return err
		}
		bad := 0
		for _, i := range all {
			x := &checkup{s: s, c: c, flags: flags, image: i, snapshotter: sn, repair: *repair}
			if err := x.run(); err != nil {
				return fmt.Errorf("image %s: %w", i.Name, err)
			}
			if x.faults == 0 {
				fmt.Fprintf(s.out, "%s: sound\n", i.Name)
				continue
			}
			bad++
		}
		if bad > 0 {
			return fmt.Errorf("%d of %d images are damaged: %w", bad, len(all), errdefs.ErrDataLoss)
		}
		return nil
	}
}

// checkup is that of one image: of its blobs for this machine, and of its
// layers where they are unpacked.
type checkup struct {
	s           *session
	c           *client.Client
	flags       *registryFlags
	image       *imagesapi.Image
	snapshotter string
	repair      bool
	faults      int // that are left
}

func (x *checkup) run() error {
	store, target := x.c.Store(), client.Descriptor(x.image.Target)
	err := walk(x.s.ctx, store, target, platforms.Default(), x.blob)
	if err != nil || x.faults > 0 {
		return err // what is unpacked cannot be compared with it
	}
	m, err := image.Manifest(x.s.ctx, store, target, platforms.Default())
	if err != nil {
		return err
	}
	config, err := image.ReadConfig(x.s.ctx, store, m.Config)
	if err != nil {
		return err
	}
	chain := image.ChainIDs(config.RootFS.DiffIDs)
	if len(chain) != len(m.Layers) {
		return fmt.Errorf("config lists %d layers, manifest %d: %w", len(chain), len(m.Layers), errdefs.ErrInvalidArgument)
	}
	for i, layer := range m.Layers {
		there, err := x.layer(layer, chain[i])
		if err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
		if !there {
			break
		}
		if x.faults > 0 && x.repair {
			return x.unpackAgain(target, chain, i)
		}
	}
	return nil
}

// say reports a fault, and counts it unless it is mended.
func (x *checkup) say(mended bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if mended {
		text += " (repaired)"
	} else {
		x.faults++
	}
	fmt.Fprintf(x.s.out, "%s: %s\n", x.image.Name, text)
}

func (x *checkup) blob(d ocispec.Descriptor) error {
	err := fsck.Blob(x.s.ctx, x.c.Store(), d)
	lost := errdefs.IsNotFound(err) || errdefs.IsDataLoss(err)
	if !lost {
		return err
	}
	if !x.repair {
		x.say(false, "blob %v", err)
		return nil
	}
	if rerr := x.fetchAgain(d); rerr != nil {
		x.say(false, "blob %v; repair: %v", err, rerr)
		return nil
	}
	x.say(true, "blob %v", err)
	return nil
}

// fetchAgain replaces a blob by what the registry has. Nothing is removed
// unless the registry answers.
func (x *checkup) fetchAgain(d ocispec.Descriptor) error {
	store := x.c.Store()
	repo, err := x.flags.repository(x.s, x.image.Name)
	if err != nil {
		return err
	}
	rc, err := repo.Fetch(x.s.ctx, d, 0)
	if err != nil {
		return err
	}
	defer rc.Close()
	info, err := store.Info(x.s.ctx, d.Digest)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	ctx, done, err := x.held(d, info)
	if err != nil {
		return err
	}
	defer done()
	if err := ignoreNotFound(store.Delete(ctx, d.Digest)); err != nil {
		return err
	}
	if err := x.collect(ctx); err != nil {
		return err
	}
	opts := content.WriterOpts{Ref: "fsck-" + rand.Text(), Total: d.Size, Expected: d.Digest}
	if _, err := ingest(ctx, store, opts, rc, info.Labels); err != nil {
		return err
	}
	if err := fsck.Blob(ctx, store, d); err != nil {
		return fmt.Errorf("another namespace has it as well: %w", err)
	}
	children, err := image.Children(ctx, store, d)
	if err != nil || len(children) == 0 {
		return err
	}
	return keepChildren(ctx, store, d, children)
}

// held is a context under a lease that keeps everything of the image but d,
// which may be what others are kept by.
func (x *checkup) held(d ocispec.Descriptor, info content.Info) (context.Context, func(), error) {
	id, err := x.c.NewLease(x.s.ctx, "", 0, nil)
	if err != nil {
		return nil, nil, err
	}
	done := func() {
		ctx, cancel := x.s.cleanup()
		defer cancel()
		if _, err := x.c.Leases().Delete(ctx, &leasesapi.DeleteRequest{ID: id}); err != nil {
			x.s.log().Warn("clean up", "error", err)
		}
	}
	var resources []*leasesapi.Resource
	add := func(kind, id string) {
		resources = append(resources, &leasesapi.Resource{Type: kind, ID: id})
	}
	for key, value := range info.Labels {
		if sn, ok := strings.CutPrefix(key, "containerd.io/gc.ref.snapshot."); ok {
			add("snapshots/"+sn, value)
		} else if strings.HasPrefix(key, "containerd.io/gc.ref.content") {
			add("content", value)
		}
	}
	for _, r := range resources {
		if _, err := x.c.Leases().AddResource(x.s.ctx, &leasesapi.AddResourceRequest{ID: id, Resource: r}); err != nil {
			done()
			return nil, nil, fmt.Errorf("lease: keep %s %s: %w", r.Type, r.ID, err)
		}
	}
	return client.UnderLease(x.s.ctx, id), done, nil
}

// collect has the daemon remove what nothing keeps, and returns when it has.
func (x *checkup) collect(ctx context.Context) error {
	id, err := x.c.NewLease(ctx, "", 0, nil)
	if err != nil {
		return err
	}
	_, err = x.c.Leases().Delete(ctx, &leasesapi.DeleteRequest{ID: id, Sync: true})
	return err
}

// layer compares an unpacked layer with its blob. It returns false if the
// layer is not unpacked.
func (x *checkup) layer(layer ocispec.Descriptor, name digest.Digest) (there bool, err error) {
	ctx, done, err := x.c.WithLease(x.s.ctx, 0)
	if err != nil {
		return false, err
	}
	defer x.s.later(done)
	key := "fsck-" + rand.Text()
	_, err = x.c.Snapshots().View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: x.snapshotter, Key: key, Parent: name.String()})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := x.s.cleanup()
		defer cancel()
		_, rerr := x.c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: x.snapshotter, Key: key})
		if err == nil {
			err = rerr
		}
	}()
	var faults []fsck.Fault
	err = x.c.WithRootfs(ctx, x.snapshotter, key, func(root string) (err error) {
		faults, err = x.compare(ctx, root, layer)
		return err
	})
	for _, f := range faults {
		x.say(false, "layer %s: %s: %s", layer.Digest, f.Path, f.Reason)
	}
	return true, err
}

func (x *checkup) compare(ctx context.Context, root string, layer ocispec.Descriptor) ([]fsck.Fault, error) {
	ra, err := x.c.Store().ReaderAt(ctx, layer.Digest)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	plain, _, err := diff.Decompress(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	return fsck.Layer(ctx, root, plain)
}

// unpackAgain replaces the snapshots of an image from the layer first on. One
// that others are made of cannot be removed, and stays damaged.
func (x *checkup) unpackAgain(target ocispec.Descriptor, chain []digest.Digest, first int) error {
	for _, name := range slices.Backward(chain[first:]) {
		_, err := x.c.Snapshots().Remove(x.s.ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: x.snapshotter, Key: name.String()})
		if err := ignoreNotFound(err); err != nil {
			return fmt.Errorf("repair: remove snapshot %s, which a container may use: %w", name, err)
		}
	}
	if _, _, err := x.c.UnpackWith(x.s.ctx, target, client.UnpackOpts{Snapshotter: x.snapshotter}); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	x.faults = 0
	fmt.Fprintf(x.s.out, "%s: unpacked again from layer %d\n", x.image.Name, first+1)
	return nil
}
