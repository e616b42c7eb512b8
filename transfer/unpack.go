// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"slipway/diff"
	"slipway/image"
	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
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
	u := &unpacking{pull: p, name: name, sn: sn, layers: layers, diffIDs: diffIDs, chain: image.ChainIDs(diffIDs)}
	u.rebase = slices.Contains(p.Capabilities(name), "rebase") && p.Differ == nil // others keep no whiteouts
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
	name    string // of the snapshotter
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
		there, err := u.there(ctx, i)
		if err != nil {
			return 0, err
		}
		if there {
			return i + 1, nil
		}
	}
	return 0, nil
}

// there reports whether the chain up to layer i is unpacked, and if so keeps
// it for as long as the lease.
func (u *unpacking) there(ctx context.Context, i int) (bool, error) {
	chain := u.chain[i].String()
	for range 2 {
		_, err := u.sn.Stat(ctx, chain)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		// A collection may have been first: only the second look is sure.
		held := meta.Resource{Type: "snapshots/" + u.name, ID: chain}
		if err := u.DB.Leases(u.scope.Namespace).AddResource(ctx, u.scope.Lease, held); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (u *unpacking) parent(i int) string {
	if i == 0 {
		return ""
	}
	return u.chain[i-1].String()
}

func (u *unpacking) inOrder(ctx context.Context, first int) error {
	for i := first; i < len(u.layers); i++ {
		l := &laid{}
		err := u.extract(ctx, i, u.parent(i), l)
		if err == nil {
			err = u.flush(ctx, l)
		}
		if err == nil {
			err = u.commit(ctx, i, l, "")
		}
		u.end(ctx, l)
		if err != nil {
			return err
		}
	}
	return nil
}

// laid is a layer that is applied on its own, to be committed onto the chain.
//
//	extract   takes the chain's lock, makes the snapshot and fills it
//	flush     makes it durable
//	commit    names it after its chain
//	end       removes it if it was not committed, and gives back the lock
type laid struct {
	ready   chan struct{} // closed when extracted, if others wait for it
	key     string        // of the active snapshot; empty if there is none
	dir     string        // where its files are, if they can be flushed
	flushed bool
	inTurn  bool // it has to be applied to its parent after all
	release func()
}

// sideBySide applies all layers at once and commits them from the bottom up.
func (u *unpacking) sideBySide(ctx context.Context, first int) error {
	all := make([]laid, len(u.layers))
	g, gctx := errgroup.WithContext(ctx)
	for i := first; i < len(all); i++ {
		l := &all[i]
		l.ready = make(chan struct{})
		g.Go(func() error {
			err := u.extract(gctx, i, "", l)
			if errors.Is(err, diff.ErrImplied) {
				u.end(gctx, l)
				l.inTurn, err = true, nil
			}
			if err == nil {
				close(l.ready)
			}
			return err
		})
	}
	g.Go(func() error { return u.settle(gctx, all, first) })
	err := g.Wait()
	for i := range all {
		u.end(ctx, &all[i])
	}
	return err
}

// settle commits the layers in order. Those that are ready together share a
// flush.
func (u *unpacking) settle(ctx context.Context, all []laid, first int) error {
	for i := first; i < len(all); i++ {
		l := &all[i]
		if err := waitFor(ctx, l.ready); err != nil {
			return err
		}
		parent := u.parent(i)
		if l.inTurn {
			if err := u.extract(ctx, i, parent, l); err != nil {
				return err
			}
			parent = "" // it has it already
		}
		if err := u.flushReady(ctx, all[i:]); err != nil {
			return err
		}
		if err := u.commit(ctx, i, l, parent); err != nil {
			return err
		}
		u.end(ctx, l)
	}
	return nil
}

// flushReady makes the first of the layers durable, and the others that are
// ready by now with it.
func (u *unpacking) flushReady(ctx context.Context, layers []laid) error {
	if layers[0].flushed {
		return nil
	}
	ready := 1
	for ready < len(layers) && isClosed(layers[ready].ready) {
		ready++
	}
	if err := u.flush(ctx, &layers[0]); err != nil || !layers[0].flushed {
		return err // there was nothing to flush: the others are as they were
	}
	for i := range layers[:ready] {
		l := &layers[i]
		l.flushed = l.flushed || !l.inTurn && l.dir != ""
	}
	return nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// flush makes an extracted layer durable.
func (u *unpacking) flush(ctx context.Context, l *laid) error {
	fault.Point("transfer.layer.applied")
	if l.key == "" || l.dir == "" || u.NoSync {
		return nil
	}
	if err := u.flusher.sync(ctx, l.dir); err != nil {
		return err
	}
	l.flushed = true
	fault.Point("transfer.layer.flushed")
	return nil
}

// end is safe to call at any time and more than once.
func (u *unpacking) end(ctx context.Context, l *laid) {
	if l.key != "" {
		u.discard(ctx, l.key)
		l.key = ""
	}
	if l.release != nil {
		l.release()
		l.release = nil
	}
}

// extract applies layer i to a new active snapshot, unless the chain up to the
// layer is there already. The snapshot and the lock are l's on failure, too.
func (u *unpacking) extract(ctx context.Context, i int, parent string, l *laid) (err error) {
	if err := waitFor(ctx, u.layers[i].begun); err != nil {
		return err
	}
	chain := u.chain[i].String()
	if l.release, err = u.flights.acquire(ctx, fmt.Sprintf("chain %s %s %s", u.scope.Namespace, u.name, chain)); err != nil {
		return err
	}
	there, err := u.there(ctx, i)
	if there || err != nil {
		return err
	}
	if err := u.unpacks.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer u.unpacks.Release(1)
	key := fmt.Sprintf("extract-%s %s", uniqueName(), chain)
	mounts, err := u.sn.Prepare(ctx, key, parent, map[string]string{"containerd.io/snapshot.ref": chain})
	if errdefs.IsAlreadyExists(err) {
		return nil // a remote snapshotter has it
	}
	if err != nil {
		return err
	}
	l.key = key
	l.dir, _ = diff.Direct(mounts)
	return u.apply(ctx, i, mounts, parent == "" && i > 0)
}

// apply unpacks layer i, maybe while it is being downloaded; apart says that
// it is not on its parent. The layer is verified when apply returns.
func (u *unpacking) apply(ctx context.Context, i int, mounts []mount.Mount, apart bool) error {
	l := u.layers[i]
	u.extracting("extracting", l.desc)
	dir, _ := diff.Direct(mounts)
	opts := diff.ApplyOpts{SyncFS: dir == "" && !u.NoSync, Tmp: u.Temp, Overlay: apart, Erofs: u.Erofs, Processors: u.Processors}
	if u.Mount != nil {
		opts.Mount = u.Mount(u.scope.Namespace)
	}
	applied, err := u.applyWith(ctx, l, mounts, opts)
	if err == nil || isAboutData(err) {
		// What is wrong with the blob itself says more than what that did
		// to its archive.
		if werr := l.wait(ctx); werr != nil {
			return werr
		}
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.desc.Digest, err)
	}
	if applied.Digest != u.diffIDs[i] {
		return fmt.Errorf("layer %s: wrong diff id %s, the image config says %s: %w", l.desc.Digest, applied.Digest, u.diffIDs[i], errdefs.ErrFailedPrecondition)
	}
	u.extracting("extracted", l.desc)
	return u.label(ctx, l.desc.Digest, map[string]string{diff.LabelUncompressed: applied.Digest.String()})
}

// applyWith has the configured differ apply a layer, or does it here.
func (u *unpacking) applyWith(ctx context.Context, l *pending, mounts []mount.Mount, opts diff.ApplyOpts) (ocispec.Descriptor, error) {
	if u.Differ == nil {
		open := func() (io.ReadCloser, error) { return l.open(ctx, u.store) }
		return diff.ApplyStream(ctx, open, l.desc, mounts, opts)
	}
	if err := l.wait(ctx); err != nil {
		return ocispec.Descriptor{}, err
	}
	return u.Differ.Apply(ident.WithScope(ctx, u.scope), l.desc, mounts, opts)
}

// isAboutData tells a layer that cannot be read from a place that cannot be
// written.
func isAboutData(err error) bool {
	var sys *os.PathError
	return !errors.As(err, &sys) && !errors.Is(err, diff.ErrImplied)
}

func (u *unpacking) extracting(event string, desc ocispec.Descriptor) {
	u.report(Progress{Event: event, Name: image.IngestRef(desc), Parents: []string{u.root}, Progress: desc.Size, Total: desc.Size, Desc: &desc})
}

// commit names the snapshot after its chain. A client may have been first.
func (u *unpacking) commit(ctx context.Context, i int, l *laid, parent string) error {
	if l.key == "" {
		return nil
	}
	err := u.sn.Commit(ctx, u.chain[i].String(), l.key, snapshot.CommitOpts{Parent: parent})
	if errdefs.IsAlreadyExists(err) {
		return nil // the end removes ours
	}
	if err == nil {
		l.key = ""
	}
	return err
}

func (u *unpacking) discard(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	u.sn.Remove(ctx, key) // what stays is in no lease for long: the collector's
}
