// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	diskfs "github.com/containerd/continuity/fs"
	"github.com/moby/sys/mountinfo"

	"slipway/internal/btrfs"
	"slipway/internal/mount"
)

// OpenBtrfs keeps each snapshot as a subvolume: active/<id>, view/<id> or, once
// committed, snapshots/<id>, which is read-only. The root must be on btrfs.
func OpenBtrfs(root string) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	at, err := mountOf(root)
	if err != nil {
		return nil, err
	}
	if at.FSType != "btrfs" {
		return nil, &UnsupportedError{fmt.Sprintf("path %s (%s) must be a btrfs filesystem to be used with the btrfs snapshotter", root, at.FSType)}
	}
	s, err := openStore(root)
	if err != nil {
		return nil, err
	}
	return s.start(btrfsDriver{plain{s}, at.Source})
}

// mountOf finds the mount that a directory is in: the last of those with the
// longest path lies on top.
func mountOf(dir string) (*mountinfo.Info, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	list, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return nil, err
	}
	var at *mountinfo.Info
	for _, m := range list {
		if at == nil || len(m.Mountpoint) >= len(at.Mountpoint) {
			at = m
		}
	}
	if at == nil {
		return nil, fmt.Errorf("mount that %s is in: %w", dir, fs.ErrNotExist)
	}
	return at, nil
}

type btrfsDriver struct {
	plain
	device string
}

func (btrfsDriver) home(k Kind) string {
	switch k {
	case Active:
		return "active"
	case View:
		return "view"
	}
	return "snapshots"
}

func (d btrfsDriver) fill(_ context.Context, path string, info Info, parent uint64) error {
	if parent == 0 {
		return btrfs.Create(path)
	}
	return btrfs.Snapshot(path, d.dir(parent), info.Kind == View)
}

func (d btrfsDriver) mounts(n node) ([]mount.Mount, error) {
	id, err := btrfs.ID(d.store.at(n.Kind, n.id))
	if err != nil {
		return nil, err
	}
	options := []string{fmt.Sprintf("subvolid=%d", id)}
	if n.Kind == View {
		options = append(options, "ro")
	}
	return []mount.Mount{{Type: "btrfs", Source: d.device, Options: options}}, nil
}

// usage counts what differs from the parent.
func (d btrfsDriver) usage(ctx context.Context, n node) (Usage, error) {
	path := d.store.at(n.Kind, n.id)
	if len(n.parents) == 0 {
		return diskUsage(ctx, path)
	}
	u, err := diskfs.DiffUsage(ctx, d.dir(n.parents[0]), path)
	return Usage{Inodes: u.Inodes, Size: u.Size}, err
}

// seal makes the read-only copy that stays.
func (d btrfsDriver) seal(ctx context.Context, n node, stage string) (string, Usage, error) {
	u, err := d.usage(ctx, n)
	if err != nil {
		return "", Usage{}, err
	}
	return d.dir(n.id), u, btrfs.Snapshot(stage, d.store.at(n.Kind, n.id), true)
}

func (d btrfsDriver) settle(n node) { d.discard(d.store.at(Active, n.id)) }

func (btrfsDriver) discard(path string) error {
	err := btrfs.Delete(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
