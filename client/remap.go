// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/mount"
)

// IDMaps are the mappings of a user namespace.
type IDMaps struct {
	UIDs []specs.LinuxIDMapping `json:"UidMap"`
	GIDs []specs.LinuxIDMapping `json:"GidMap"`
}

// Remapped gives a snapshot with the files of parent, owned by the ids of the
// host that ids stand for. It is for snapshotters that cannot show them so:
// the files are copied, once for the same parent and ids. The name is
// upstream's, so that either finds the other's.
func (c *Client) Remapped(ctx context.Context, snapshotter string, parent digest.Digest, ids IDMaps) (digest.Digest, error) {
	for _, list := range [][]specs.LinuxIDMapping{ids.UIDs, ids.GIDs} {
		slices.SortStableFunc(list, func(a, b specs.LinuxIDMapping) int { return int(int64(a.ContainerID) - int64(b.ContainerID)) })
		if _, ok := hostID(list, 0); !ok {
			return "", fmt.Errorf("the id mappings say nothing of id 0: %w", errdefs.ErrInvalidArgument)
		}
	}
	doc, err := json.Marshal(struct {
		Parent string
		IDMap  IDMaps
	}{parent.String(), ids})
	if err != nil {
		return "", err
	}
	name := digest.FromBytes(doc)
	_, err = c.Snapshots().Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: name.String()})
	if errdefs.IsNotFound(err) {
		err = c.makeRemapped(ctx, snapshotter, parent, name, ids)
	}
	return name, err
}

func (c *Client) makeRemapped(ctx context.Context, snapshotter string, parent, name digest.Digest, ids IDMaps) (err error) {
	key := name.String() + "-remap-" + rand.Text()
	resp, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: snapshotter, Key: key, Parent: parent.String()})
	if err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			c.removeSnapshot(ctx, snapshotter, key)
		}
	}()
	if err := c.mounted(ctx, mount.FromProto(resp.Mounts), func(root string) error { return chownTree(ctx, root, ids) }); err != nil {
		return fmt.Errorf("snapshot %s: map owners: %w", parent, err)
	}
	_, err = c.Snapshots().Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: snapshotter, Name: name.String(), Key: key})
	if errdefs.IsAlreadyExists(err) {
		return nil // somebody else was first
	}
	committed = err == nil
	return err
}

// hostID is the id of the host that id stands for.
func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// chownTree gives every file below root the owner that its own stands for.
// Further names of a file find it done.
func chownTree(ctx context.Context, root string, ids IDMaps) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	done := map[[2]uint64]bool{}
	return fs.WalkDir(r.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if file := [2]uint64{st.Dev, st.Ino}; st.Nlink > 1 && !fi.IsDir() {
			if done[file] {
				return nil
			}
			done[file] = true
		}
		return chown(r, name, fi.Mode(), st, ids)
	})
}

func chown(r *os.Root, name string, mode fs.FileMode, st *syscall.Stat_t, ids IDMaps) error {
	uid, ok := hostID(ids.UIDs, st.Uid)
	gid, also := hostID(ids.GIDs, st.Gid)
	if !ok || !also {
		return fmt.Errorf("/%s: its owner %d:%d is not mapped: %w", name, st.Uid, st.Gid, errdefs.ErrInvalidArgument)
	}
	if err := r.Lchown(name, int(uid), int(gid)); err != nil {
		return err
	}
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if mode&fs.ModeSymlink != 0 || mode&special == 0 {
		return nil
	}
	return r.Chmod(name, mode.Perm()|mode&special) // the change of owner has dropped them
}
