// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/mount"
	"slipway/internal/mount/mountproto"
	"slipway/oci"
)

// DefaultRuntime runs containers that name no other.
const DefaultRuntime = "io.containerd.runc.v2"

// StopSignalLabel of a container names the signal that ends it.
const StopSignalLabel = "io.containerd.image.config.stop-signal"

// NewContainer says what container to make. ID and Spec are required.
type NewContainer struct {
	ID      string
	Image   string // name of the image, for the record
	Labels  map[string]string
	Spec    *specs.Spec
	Sandbox string

	Runtime        string // DefaultRuntime if empty
	RuntimeOptions *anypb.Any
	Extensions     map[string]*anypb.Any

	// Snapshotter makes the root file system, as a snapshot named like the
	// container on top of Parent. Without one the spec has a root of its own.
	Snapshotter    string
	Parent         digest.Digest // from Unpack
	SnapshotLabels map[string]string
	ReadOnlyView   bool // the snapshot cannot be written

	// RootOpts, if set, edits Spec by what the root file system contains,
	// which it finds mounted at root and must not change.
	RootOpts func(root string) []oci.Opt
}

// MadeContainer is a container as it was just made, so that it can be run
// without asking for it again.
type MadeContainer struct {
	ID             string
	Spec           *specs.Spec
	Snapshotter    string // empty without a snapshot
	RuntimeOptions *anypb.Any

	rootfs []*types.Mount
}

// Rootfs is what to mount as the container's root, nothing without a snapshot.
func (m *MadeContainer) Rootfs() []*types.Mount { return m.rootfs }

// NewContainer makes the snapshot of a container and its record. If it fails,
// neither stays.
func (c *Client) NewContainer(ctx context.Context, n NewContainer) (_ *MadeContainer, err error) {
	if n.Spec == nil {
		return nil, fmt.Errorf("container %s: no spec: %w", n.ID, errdefs.ErrInvalidArgument)
	}
	made := &MadeContainer{ID: n.ID, Spec: n.Spec, Snapshotter: n.Snapshotter, RuntimeOptions: n.RuntimeOptions}
	return made, c.leased(ctx, func(ctx context.Context) (err error) {
		if n.Snapshotter == "" {
			return c.record(ctx, n)
		}
		mounts, err := c.prepare(ctx, n)
		if err != nil {
			return err
		}
		defer func() {
			if err != nil {
				c.removeSnapshot(ctx, n.Snapshotter, n.ID)
			}
		}()
		if err := c.editByRoot(ctx, n, mounts); err != nil {
			return err
		}
		made.rootfs = mountproto.Of(mounts)
		return c.record(ctx, n)
	})
}

// Unmake removes a container that has no task any more, with its snapshot.
func (c *Client) Unmake(ctx context.Context, m *MadeContainer) error {
	var calls errgroup.Group
	calls.Go(func() error {
		_, err := c.Containers().Delete(ctx, &containersapi.DeleteContainerRequest{ID: m.ID})
		return err
	})
	if m.Snapshotter != "" {
		calls.Go(func() error {
			_, err := c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: m.Snapshotter, Key: m.ID})
			if errdefs.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	return calls.Wait()
}

func (c *Client) prepare(ctx context.Context, n NewContainer) ([]mount.Mount, error) {
	if n.ReadOnlyView {
		resp, err := c.Snapshots().View(ctx, &snapshotsapi.ViewSnapshotRequest{
			Snapshotter: n.Snapshotter, Key: n.ID, Parent: n.Parent.String(), Labels: n.SnapshotLabels,
		})
		return mount.FromProto(resp.GetMounts()), err
	}
	resp, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: n.Snapshotter, Key: n.ID, Parent: n.Parent.String(), Labels: n.SnapshotLabels,
	})
	return mount.FromProto(resp.GetMounts()), err
}

func (c *Client) editByRoot(ctx context.Context, n NewContainer, mounts []mount.Mount) error {
	if n.RootOpts == nil {
		return nil
	}
	return c.withMounted(ctx, mounts, func(root string) error {
		return oci.Apply(ctx, n.Spec, n.RootOpts(root)...)
	})
}

func (c *Client) record(ctx context.Context, n NewContainer) error {
	spec, err := SpecProto(n.Spec)
	if err != nil {
		return fmt.Errorf("container %s: %w", n.ID, err)
	}
	if n.Runtime == "" {
		n.Runtime = DefaultRuntime
	}
	r := &containersapi.Container{
		ID: n.ID, Image: n.Image, Labels: n.Labels, Spec: spec, Sandbox: n.Sandbox, Extensions: n.Extensions,
		Runtime: &containersapi.Container_Runtime{Name: n.Runtime, Options: n.RuntimeOptions},
	}
	if n.Snapshotter != "" {
		r.Snapshotter, r.SnapshotKey = n.Snapshotter, n.ID
	}
	_, err = c.Containers().Create(ctx, &containersapi.CreateContainerRequest{Container: r})
	return err
}

// Container returns the record of a container.
func (c *Client) Container(ctx context.Context, id string) (*containersapi.Container, error) {
	resp, err := c.Containers().Get(ctx, &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return nil, err
	}
	return resp.Container, nil
}

// ListContainers returns the records that a filter matches.
func (c *Client) ListContainers(ctx context.Context, filters ...string) ([]*containersapi.Container, error) {
	r := &containersapi.ListContainersRequest{Filters: filters}
	stream, err := c.Containers().ListStream(ctx, r)
	var all []*containersapi.Container
	for err == nil {
		var m *containersapi.ListContainerMessage
		if m, err = stream.Recv(); err == nil {
			all = append(all, m.Container)
		}
	}
	switch {
	case err == io.EOF:
		return all, nil
	case !errdefs.IsNotImplemented(err):
		return nil, err
	}
	resp, err := c.Containers().List(ctx, r) // a daemon without streams
	return resp.GetContainers(), err
}

// WithRootfs calls fn while a snapshot is mounted at root, read-only.
func (c *Client) WithRootfs(ctx context.Context, snapshotter, key string, fn func(root string) error) error {
	resp, err := c.Snapshots().Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: snapshotter, Key: key})
	if err != nil {
		return err
	}
	return c.withMounted(ctx, mount.FromProto(resp.Mounts), fn)
}

// rootfs returns the mounts of a container's snapshot, none without one.
func (c *Client) rootfs(ctx context.Context, r *containersapi.Container) ([]*types.Mount, error) {
	if r.SnapshotKey == "" {
		return nil, nil
	}
	resp, err := c.Snapshots().Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: r.Snapshotter, Key: r.SnapshotKey})
	if err != nil {
		return nil, err
	}
	return resp.Mounts, nil
}

// DeleteContainer deletes a container, and with snapshot its root file
// system. A task that has stopped goes with it; any other is
// errdefs.ErrFailedPrecondition. ahead, if set, is called with the container
// when its task is gone and nothing else is yet; what it fails with stops.
func (c *Client) DeleteContainer(ctx context.Context, id string, snapshot bool, ahead func(*containersapi.Container) error) error {
	r, err := c.Container(ctx, id)
	if err != nil {
		return err
	}
	t, err := c.LoadTask(ctx, id)
	if err == nil {
		err = t.deleteStopped(ctx)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if ahead != nil {
		if err := ahead(r); err != nil {
			return err
		}
	}
	if snapshot && r.SnapshotKey != "" {
		_, err := c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: r.Snapshotter, Key: r.SnapshotKey})
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	_, err = c.Containers().Delete(ctx, &containersapi.DeleteContainerRequest{ID: id})
	return err
}

func (t *Task) deleteStopped(ctx context.Context) error {
	st, err := t.Status(ctx)
	if err != nil {
		return err
	}
	if st.Status != tasktypes.Status_STOPPED && st.Status != tasktypes.Status_CREATED {
		return fmt.Errorf("cannot delete a non stopped container: %s: %w", statusName(st.Status), errdefs.ErrFailedPrecondition)
	}
	_, err = t.Delete(ctx)
	return err
}
