// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/image"
)

// Labels that the daemon understands.
const (
	snapshotRefLabel        = "containerd.io/snapshot.ref"         // what a snapshot is going to be
	snapshotLabel           = "containerd.io/gc.ref.snapshot."     // + snapshotter: content keeps the snapshot
	defaultSnapshotterLabel = "containerd.io/defaults/snapshotter" // of a namespace
)

// DefaultSnapshotter is the one of a namespace that names none.
const DefaultSnapshotter = "overlayfs"

// Snapshotter returns name, or if it is empty the one that the namespace uses.
func (c *Client) Snapshotter(ctx context.Context, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	resp, err := c.Namespaces().Get(ctx, &namespacesapi.GetNamespaceRequest{Name: c.ns})
	if err != nil && !errdefs.IsNotFound(err) {
		return "", err
	}
	if name := resp.GetNamespace().GetLabels()[defaultSnapshotterLabel]; name != "" {
		return name, nil
	}
	return DefaultSnapshotter, nil
}

// UnpackOpts says how to unpack an image. The zero value is the image for
// this machine, with the namespace's snapshotter.
type UnpackOpts struct {
	Snapshotter string
	Platform    string
	SyncFS      bool // flush the file system of each layer
}

// Unpack makes the snapshots of the image target that are not there, and
// returns the name of the topmost (empty for an image without layers) with
// the config of the image.
func (c *Client) Unpack(ctx context.Context, target ocispec.Descriptor, snapshotter, platform string) (digest.Digest, ocispec.Image, error) {
	return c.UnpackWith(ctx, target, UnpackOpts{Snapshotter: snapshotter, Platform: platform})
}

// UnpackWith is Unpack with more to choose.
func (c *Client) UnpackWith(ctx context.Context, target ocispec.Descriptor, opts UnpackOpts) (digest.Digest, ocispec.Image, error) {
	want, err := matcher(opts.Platform)
	if err != nil {
		return "", ocispec.Image{}, err
	}
	store := &documents{Store: c.Store(), known: make(map[digest.Digest][]byte)}
	manifest, err := image.Manifest(ctx, store, target, want)
	if err != nil {
		return "", ocispec.Image{}, err
	}
	config, err := image.ReadConfig(ctx, store, manifest.Config)
	if err != nil {
		return "", ocispec.Image{}, err
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(manifest.Layers) {
		return "", config, fmt.Errorf("image %s: config lists %d layers, manifest %d: %w", target.Digest, len(ids), len(manifest.Layers), errdefs.ErrInvalidArgument)
	}
	if len(ids) == 0 {
		return "", config, nil
	}
	if opts.Snapshotter, err = c.Snapshotter(ctx, opts.Snapshotter); err != nil {
		return "", config, err
	}
	u := &unpacking{c, opts, manifest.Layers, ids, image.ChainIDs(ids)}
	top := u.chain[len(ids)-1]
	if there, err := u.there(ctx, top); err != nil || there {
		return top, config, err
	}
	err = c.leased(ctx, func(ctx context.Context) error {
		if err := u.run(ctx); err != nil {
			return fmt.Errorf("image %s: unpack with %s: %w", target.Digest, opts.Snapshotter, err)
		}
		return u.keep(ctx, manifest.Config.Digest, top)
	})
	return top, config, err
}

// documents is a store that asks for each document once, and not for its size
// first.
type documents struct {
	*Store
	known map[digest.Digest][]byte
}

// ReadDocument implements image.DocumentReader.
func (d *documents) ReadDocument(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	if data, ok := d.known[desc.Digest]; ok {
		return data, nil
	}
	data := make([]byte, desc.Size)
	if err := d.Store.Read(ctx, desc.Digest, data, 0); err != nil {
		return nil, err
	}
	d.known[desc.Digest] = data
	return data, nil
}

func matcher(platform string) (platforms.MatchComparer, error) {
	if platform == "" {
		return platforms.Default(), nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w: %w", platform, err, errdefs.ErrInvalidArgument)
	}
	return platforms.Only(p), nil
}

type unpacking struct {
	*Client
	UnpackOpts
	layers  []ocispec.Descriptor
	diffIDs []digest.Digest
	chain   []digest.Digest
}

// run applies the layers above the topmost snapshot that is there.
func (u *unpacking) run(ctx context.Context) error {
	first := len(u.chain)
	for ; first > 0; first-- {
		there, err := u.there(ctx, u.chain[first-1])
		if err != nil {
			return err
		}
		if there {
			break
		}
	}
	for i := first; i < len(u.chain); i++ {
		if err := u.layer(ctx, i); err != nil {
			return fmt.Errorf("layer %s: %w", u.layers[i].Digest, err)
		}
	}
	return nil
}

func (u *unpacking) there(ctx context.Context, name digest.Digest) (bool, error) {
	_, err := u.Snapshots().Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: u.UnpackOpts.Snapshotter, Key: name.String()})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// layer makes one snapshot. Another client may make the same one meanwhile,
// and a remote snapshotter may have it without being given the layer.
func (u *unpacking) layer(ctx context.Context, i int) (err error) {
	name, parent := u.chain[i].String(), ""
	if i > 0 {
		parent = u.chain[i-1].String()
	}
	sn, key := u.UnpackOpts.Snapshotter, fmt.Sprintf("extract-%s %s", uniqueID(time.Now()), name)
	prepared, err := u.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: sn, Key: key, Parent: parent, Labels: map[string]string{snapshotRefLabel: name},
	})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			u.removeSnapshot(ctx, sn, key)
		}
		if errdefs.IsAlreadyExists(err) {
			err = nil
		}
	}()
	applied, err := u.Diff().Apply(ctx, &diffapi.ApplyRequest{
		Diff: DescriptorProto(u.layers[i]), Mounts: prepared.Mounts, SyncFs: u.SyncFS,
	})
	if err != nil {
		return err
	}
	if got := applied.GetApplied().GetDigest(); got != u.diffIDs[i].String() {
		return fmt.Errorf("wrong diff id %s, the image config says %s: %w", got, u.diffIDs[i], errdefs.ErrFailedPrecondition)
	}
	_, err = u.Snapshots().Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: sn, Key: key, Name: name})
	return err
}

// keep makes the config of the image hold on to its snapshots.
func (u *unpacking) keep(ctx context.Context, config, top digest.Digest) error {
	key, store := snapshotLabel+u.UnpackOpts.Snapshotter, u.Store()
	info, err := store.Info(ctx, config)
	if err != nil || info.Labels[key] == top.String() {
		return err
	}
	_, err = store.Update(ctx, content.Info{Digest: config, Labels: map[string]string{key: top.String()}}, "labels."+key)
	return err
}

// removeSnapshot undoes what failed or was cancelled, as far as it can.
func (c *Client) removeSnapshot(ctx context.Context, snapshotter, key string) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	_, err := c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: snapshotter, Key: key})
	return err
}
