// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"slipway/diff"
	"slipway/internal/erofs"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/mounts"
	"slipway/service"
	"slipway/snapshot"
)

// openSnapshotter opens a store in its directory. What the host or the
// configuration lacks for it is no failure.
func (d *Daemon) openSnapshotter(p *service.Plugin, configured string, open func(dir string) (*snapshot.Store, error)) error {
	dir, err := d.snapshotterDir(p, configured)
	if err != nil {
		return err
	}
	s, err := open(dir)
	if _, ok := errors.AsType[*snapshot.UnsupportedError](err); ok {
		return fmt.Errorf("%w: %w", err, errSkip)
	}
	if err != nil {
		return err
	}
	d.addSnapshotter(p, s)
	return nil
}

func (d *Daemon) openBlockfile(p *service.Plugin) error {
	o := options[blockfileOptions](d.config, pluginURI(p))
	return d.openSnapshotter(p, o.RootPath, func(dir string) (*snapshot.Store, error) {
		return snapshot.OpenBlockfile(dir, snapshot.BlockfileOpts{
			Scratch: o.ScratchFile, Recreate: o.RecreateScratch, FSType: o.FSType, Options: o.MountOptions,
		})
	})
}

func (d *Daemon) openBtrfs(p *service.Plugin) error {
	return d.openSnapshotter(p, options[nativeOptions](d.config, pluginURI(p)).RootPath, snapshot.OpenBtrfs)
}

func (d *Daemon) openErofs(p *service.Plugin) error {
	o := options[erofsOptions](d.config, pluginURI(p))
	opts := snapshot.ErofsOpts{
		OverlayOptions: o.OvlMountOptions, Verity: o.EnableFSVerity, Immutable: o.SetImmutable, NoTrees: o.DMVerityMode == "off",
	}
	switch o.DMVerityMode {
	case "", "auto", "off":
	case "on":
		return fmt.Errorf("dmverity_mode %q: %w", o.DMVerityMode, errdefs.ErrNotImplemented)
	default:
		return fmt.Errorf("dmverity_mode %q is none of auto, on and off: %w", o.DMVerityMode, errdefs.ErrInvalidArgument)
	}
	if o.DefaultSize != "" {
		var err error
		if opts.Size, err = mounts.ParseSize(o.DefaultSize); err != nil {
			return fmt.Errorf("default_size: %w", err)
		}
	}
	return d.openSnapshotter(p, o.RootPath, func(dir string) (*snapshot.Store, error) { return snapshot.OpenErofs(dir, opts) })
}

// openErofsDiffer finds out whether layers can become images without being
// unpacked. If not, snapshots do it when they are committed.
func (d *Daemon) openErofsDiffer(p *service.Plugin) error {
	o := options[erofsDifferOptions](d.config, pluginURI(p))
	if o.EnableDMVerity {
		return fmt.Errorf("enable_dmverity: %w", errdefs.ErrNotImplemented)
	}
	able, err := erofs.CanTar(d.ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errSkip)
	}
	if !able {
		return fmt.Errorf("mkfs.erofs does not support tar mode (--tar option), disabling erofs differ: %w", errSkip)
	}
	d.erofs = &diff.ErofsOpts{Mkfs: o.MkfsOptions}
	d.differs[p.ID] = service.Erofs{DB: d.db, Opts: d.erofs}
	return nil
}

func (d *Daemon) openWalking(p *service.Plugin) error {
	d.differs[p.ID] = service.Walking{DB: d.db, Temp: d.temp(), Mount: d.mounter(), Processors: d.config.processors()}
	return nil
}

// openDiffs finds the differs that the API asks, in their order.
func (d *Daemon) openDiffs(p *service.Plugin) error {
	for _, name := range options[diffOptions](d.config, pluginURI(p)).Default {
		differ, ok := d.differs[name]
		if !ok {
			return fmt.Errorf("needed differ not loaded: %s: %w", name, errdefs.ErrUnavailable)
		}
		d.ordered = append(d.ordered, differ)
	}
	return nil
}

// mounter performs mounts by the manager of mounts, nil if there is none.
func (d *Daemon) mounter() func(ident.Namespace) diff.Mounter {
	if d.mounts == nil {
		return nil
	}
	return func(ns ident.Namespace) diff.Mounter {
		return func(ctx context.Context, dir string, list []mount.Mount, fn func(string) error) error {
			return d.mounts.With(ctx, ns, dir, list, fn)
		}
	}
}
