// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	mountsapi "github.com/containerd/containerd/api/services/mounts/v1"
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
		key := target
		if key == "" {
			key = fmt.Sprintf("ctr-images-mount-%d-%s", time.Now().Nanosecond(), rand.Text()[:4])
		}
		c, err := s.dial()
		if err != nil {
			return err
		}
		id, err := c.NewLease(s.ctx, key, *expires, nil)
		if errdefs.IsAlreadyExists(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		ctx := client.UnderLease(s.ctx, id)
		m := imageMount{ref: ref, key: key, target: target, rw: *rw, opts: client.UnpackOpts{Snapshotter: *name, Platform: *platform, SyncFS: *sync}}
		if target, err = s.mountImage(ctx, c, m); err != nil {
			c.Leases().Delete(context.WithoutCancel(ctx), &leasesapi.DeleteRequest{ID: id})
			return err
		}
		fmt.Fprintln(s.out, target)
		return nil
	}
}

type imageMount struct {
	ref, key string
	target   string // empty for a place of the daemon's
	rw       bool
	opts     client.UnpackOpts
}

// mountImage prints the chain of the layers and gives the place.
func (s *session) mountImage(ctx context.Context, c *client.Client, m imageMount) (string, error) {
	resp, err := c.Images().Get(ctx, &imagesapi.GetImageRequest{Name: m.ref})
	if err != nil {
		return "", err
	}
	if m.opts.Snapshotter, err = c.Snapshotter(ctx, m.opts.Snapshotter); err != nil {
		return "", err
	}
	top, _, err := c.UnpackWith(ctx, client.Descriptor(resp.Image.Target), m.opts)
	if err != nil {
		return "", fmt.Errorf("error unpacking image: %w", err)
	}
	fmt.Fprintln(s.out, top)
	var mounts []*types.Mount
	if m.rw {
		r, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.key, Parent: top.String()})
		if err != nil {
			return "", err
		}
		mounts = r.Mounts
	} else {
		r, err := c.Snapshots().View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.key, Parent: top.String()})
		if err != nil {
			return "", err
		}
		mounts = r.Mounts
	}
	place, err := place(ctx, c, m, mounts)
	if err != nil {
		err = errors.Join(err, c.Deactivate(context.WithoutCancel(ctx), m.key))
		_, rerr := c.Snapshots().Remove(context.WithoutCancel(ctx), &snapshotsapi.RemoveSnapshotRequest{Snapshotter: m.opts.Snapshotter, Key: m.key})
		return "", errors.Join(err, rerr)
	}
	return place, nil
}

// place mounts a snapshot and tells where.
func place(ctx context.Context, c *client.Client, m imageMount, mounts []*types.Mount) (string, error) {
	if m.target != "" {
		system, err := c.Activate(ctx, m.key, mount.FromProto(mounts))
		if err == nil {
			err = mount.All(system, m.target)
		}
		return m.target, err
	}
	resp, err := c.Mounts().Activate(ctx, &mountsapi.ActivateRequest{Name: m.key, Mounts: mounts, Temporary: true})
	if err != nil {
		return "", fmt.Errorf("activate error: %w", err)
	}
	if s := resp.Info.GetSystem(); len(s) == 1 && s[0].Type == "bind" {
		return s[0].Source, nil
	}
	return "", fmt.Errorf("cannot handle returned mounts: %v", resp.Info.GetSystem())
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
