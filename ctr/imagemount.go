// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"fmt"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"

	"slipway/client"
	"slipway/internal/mount"
)

// An image is mounted by a snapshot on top of its own, named like the target,
// which a lease of the same name keeps until it expires.
func mountImage(f flagSet) action {
	registryOf(f)
	labelFlag(f)
	name := snapshotter(f)
	rw := f.Bool("rw", false, "Let the mount be written")
	platform := f.String("platform", "", "Platform of the image")
	sync := f.Bool("sync-fs", false, "Flush the file system after unpacking")
	expires := f.DurationP("expiration", "x", time.Hour, "When the snapshot may be removed")
	return func(s *session, args []string) error {
		ref, target := arg(args, 0), arg(args, 1)
		if ref == "" {
			return errors.New("please provide an image reference to mount")
		}
		if target == "" {
			return errors.New("please provide a target path to mount to")
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		id, err := c.NewLease(s.ctx, target, *expires, nil)
		if errdefs.IsAlreadyExists(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		ctx := client.UnderLease(s.ctx, id)
		m := imageMount{ref: ref, target: target, rw: *rw, opts: client.UnpackOpts{Snapshotter: *name, Platform: *platform, SyncFS: *sync}}
		if err := s.mountImage(ctx, c, m); err != nil {
			c.Leases().Delete(context.WithoutCancel(ctx), &leasesapi.DeleteRequest{ID: id})
			return err
		}
		fmt.Fprintln(s.out, target)
		return nil
	}
}

type imageMount struct {
	ref, target string
	rw          bool
	opts        client.UnpackOpts
}

func (s *session) mountImage(ctx context.Context, c *client.Client, m imageMount) error {
	resp, err := c.Images().Get(ctx, &imagesapi.GetImageRequest{Name: m.ref})
	if err != nil {
		return err
	}
	if m.opts.Snapshotter, err = c.Snapshotter(ctx, m.opts.Snapshotter); err != nil {
		return err
	}
	top, _, err := c.UnpackWith(ctx, client.Descriptor(resp.Image.Target), m.opts)
	if err != nil {
		return fmt.Errorf("error unpacking image: %w", err)
	}
	var mounts []*types.Mount
	if m.rw {
		r, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.target, Parent: top.String()})
		if err != nil {
			return err
		}
		mounts = r.Mounts
	} else {
		r, err := c.Snapshots().View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.target, Parent: top.String()})
		if err != nil {
			return err
		}
		mounts = r.Mounts
	}
	system, err := c.Activate(ctx, m.target, mount.FromProto(mounts))
	if err == nil {
		err = mount.All(system, m.target)
	}
	if err != nil {
		err = errors.Join(err, c.Deactivate(context.WithoutCancel(ctx), m.target))
		_, rerr := c.Snapshots().Remove(context.WithoutCancel(ctx), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.target})
		return errors.Join(err, rerr)
	}
	return nil
}

func unmountImage(f flagSet) action {
	registryOf(f)
	labelFlag(f)
	name := snapshotter(f)
	rm := f.Bool("rm", false, "Remove the snapshot as well")
	return func(s *session, args []string) error {
		target := arg(args, 0)
		if target == "" {
			return errors.New("please provide a target path to unmount from")
		}
		if err := mount.UnmountRecursive(target); err != nil {
			return err
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		if err := c.Deactivate(s.ctx, target); err != nil {
			return err
		}
		if *rm {
			sn, err := c.Snapshotter(s.ctx, *name)
			if err != nil {
				return err
			}
			if _, err := c.Leases().Delete(s.ctx, &leasesapi.DeleteRequest{ID: target}); ignoreNotFound(err) != nil {
				return fmt.Errorf("error deleting lease: %w", err)
			}
			if _, err := c.Snapshots().Remove(s.ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: sn, Key: target}); ignoreNotFound(err) != nil {
				return fmt.Errorf("error removing snapshot: %w", err)
			}
		}
		fmt.Fprintln(s.out, target)
		return nil
	}
}
