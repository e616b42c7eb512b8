// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"slipway/diff"
	"slipway/image"
	"slipway/internal/mount"
	"slipway/snapshot"
)

// unpack makes the chain of snapshots of one image's layers.
//
// A snapshotter that can rebase gets every layer into a snapshot of its own,
// without a parent and side by side; each is then committed onto the chain
// below it. Any other gets one layer after the other.
func (p *pull) unpack(ctx context.Context, name string, config ocispec.Descriptor, diffIDs []digest.Digest, layers []*pending) error {
	if len(diffIDs) != len(layers) {
		return fmt.Errorf("image %s: config %s lists %d layers, its manifest %d: %w", p.root, config.Digest, len(diffIDs), len(layers), errdefs.ErrInvalidArgument)
	}
	name, err := p.snapshotter(ctx, name)
	if err != nil {
		return err
	}
	sn, err := p.DB.Snapshotter(p.scope, name)
	if err != nil {
		return err
	}
	u := &unpacking{pull: p, sn: sn, layers: layers, diffIDs: diffIDs, chain: image.ChainIDs(diffIDs)}
	u.rebase = slices.Contains(p.Capabilities(name), "rebase")
	if err := u.run(ctx); err != nil {
		return fmt.Errorf("image %s: unpack with %s: %w", p.root, name, err)
	}
	if len(u.chain) == 0 {
		return nil
	}
	top := u.chain[len(u.chain)-1].String()
	return p.label(ctx, config.Digest, map[string]string{"containerd.io/gc.ref.snapshot." + name: top})
}

// snapshotter resolves an empty name: the namespace's default, or the daemon's.
func (p *pull) snapshotter(ctx context.Context, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	labels, err := p.DB.Namespaces().Labels(ctx, p.scope.Namespace)
	if err != nil {
		return "", err
	}
	if name := labels["containerd.io/defaults/snapshotter"]; name != "" {
		return name, nil
	}
	return p.Snapshotter, nil
}

type unpacking struct {
	*pull
	sn      snapshot.Snapshotter
	layers  []*pending
	diffIDs []digest.Digest
	chain   []digest.Digest
	rebase  bool
}

func (u *unpacking) run(ctx context.Context) error {
	first, err := u.present(ctx)
	if err != nil {
		return err
	}
	if !u.rebase || len(u.layers)-first < 2 {
		return u.inOrder(ctx, first)
	}
	return u.sideBySide(ctx, first)
}

// present counts the layers, from the bottom, that need no unpacking.
func (u *unpacking) present(ctx context.Context) (int, error) {
	for i := len(u.chain) - 1; i >= 0; i-- {
		_, err := u.sn.Stat(ctx, u.chain[i].String())
		if err == nil {
			return i + 1, nil
		}
		if !errdefs.IsNotFound(err) {
			return 0, err
		}
	}
	return 0, nil
}

func (u *unpacking) parent(i int) string {
	if i == 0 {
		return ""
	}
	return u.chain[i-1].String()
}

func (u *unpacking) inOrder(ctx context.Context, first int) error {
	for i := first; i < len(u.layers); i++ {
		key, err := u.extract(ctx, i, u.parent(i))
		if err != nil {
			return err
		}
		if err := u.commit(ctx, i, key, ""); err != nil {
			return err
		}
	}
	return nil
}

// laid is a layer that is applied on its own, to be committed onto the chain.
type laid struct {
	ready  chan struct{}
	key    string // of the active snapshot; empty once committed
	inTurn bool   // it has to be applied to its parent after all
}

func (u *unpacking) sideBySide(ctx context.Context, first int) error {
	all := make([]laid, len(u.layers))
	g, gctx := errgroup.WithContext(ctx)
	for i := first; i < len(all); i++ {
		l := &all[i]
		l.ready = make(chan struct{})
		g.Go(func() (err error) {
			l.key, err = u.extract(gctx, i, "")
			if errors.Is(err, diff.ErrImplied) {
				l.inTurn, err = true, nil
			}
			if err == nil {
				close(l.ready)
			}
			return err
		})
	}
	g.Go(func() error {
		for i := first; i < len(all); i++ {
			if err := u.settle(gctx, i, &all[i]); err != nil {
				return err
			}
		}
		return nil
	})
	err := g.Wait()
	for _, l := range all {
		if l.key != "" { // extracted, never committed
			u.discard(ctx, l.key)
		}
	}
	return err
}

// settle commits layer i once it is laid.
func (u *unpacking) settle(ctx context.Context, i int, l *laid) (err error) {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	parent := u.parent(i)
	if l.inTurn {
		if l.key, err = u.extract(ctx, i, parent); err != nil {
			return err
		}
		parent = "" // it has it already
	}
	key := l.key
	l.key = ""
	return u.commit(ctx, i, key, parent)
}

// extract applies layer i to a new active snapshot and returns its key, or ""
// if the chain up to the layer is there already. On failure no snapshot stays.
func (u *unpacking) extract(ctx context.Context, i int, parent string) (key string, err error) {
	if err := u.layers[i].wait(ctx); err != nil {
		return "", err
	}
	if err := u.unpacks.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer u.unpacks.Release(1)
	chain := u.chain[i].String()
	key = fmt.Sprintf("extract-%s %s", uniqueName(), chain)
	mounts, err := u.sn.Prepare(ctx, key, parent, map[string]string{"containerd.io/snapshot.ref": chain})
	if errdefs.IsAlreadyExists(err) {
		return "", nil // a remote snapshotter has it
	}
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			u.discard(ctx, key)
		}
	}()
	return key, u.apply(ctx, i, mounts, parent == "" && i > 0)
}

// apply unpacks layer i; apart says that it is not on its parent.
func (u *unpacking) apply(ctx context.Context, i int, mounts []mount.Mount, apart bool) error {
	desc := u.layers[i].desc
	u.say("extracting", desc)
	opts := diff.ApplyOpts{SyncFS: u.SyncFS, Tmp: u.Temp, Overlay: apart}
	applied, err := diff.ApplyBlob(ctx, u.store, desc, mounts, opts)
	if err != nil {
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	if applied.Digest != u.diffIDs[i] {
		return fmt.Errorf("layer %s: wrong diff id %s, the image config says %s: %w", desc.Digest, applied.Digest, u.diffIDs[i], errdefs.ErrFailedPrecondition)
	}
	u.say("extracted", desc)
	return u.label(ctx, desc.Digest, map[string]string{"containerd.io/uncompressed": applied.Digest.String()})
}

func (u *unpacking) say(event string, desc ocispec.Descriptor) {
	u.report(Progress{Event: event, Name: refKey(desc), Parents: []string{u.root}, Progress: desc.Size, Total: desc.Size, Desc: &desc})
}

// commit names the snapshot after its chain. Another pull may have been first.
func (u *unpacking) commit(ctx context.Context, i int, key, parent string) error {
	if key == "" {
		return nil
	}
	err := u.sn.Commit(ctx, u.chain[i].String(), key, snapshot.CommitOpts{Parent: parent})
	if errdefs.IsAlreadyExists(err) {
		u.discard(ctx, key)
		return nil
	}
	if err != nil {
		u.discard(ctx, key)
	}
	return err
}

func (u *unpacking) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	u.sn.Remove(ctx, key) // what stays is in no lease for long: the collector's
}
