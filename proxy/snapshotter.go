// SPDX-License-Identifier: Apache-2.0

// Package proxy turns components that other processes serve on a socket into
// what the daemon uses of its own: the other side of package service.
package proxy

import (
	"context"
	"fmt"
	"io"
	"slices"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/snapshot"
)

// Snapshotter is a snapshot.Snapshotter that another process serves.
type Snapshotter struct {
	name   string // of the snapshotter, in the requests
	client api.SnapshotsClient
	close  func() error
}

var _ snapshot.Snapshotter = (*Snapshotter)(nil)

// NewSnapshotter returns the snapshotter name that conn's server has. It
// closes the connection.
func NewSnapshotter(conn *grpc.ClientConn, name string) *Snapshotter {
	return &Snapshotter{name: name, client: api.NewSnapshotsClient(conn), close: conn.Close}
}

// Remote says that another process is asked, which need not answer.
func (s *Snapshotter) Remote() bool { return true }

// outgoing passes the scope of a request on.
func outgoing(ctx context.Context) context.Context {
	s, err := ident.ScopeOf(ctx)
	if err != nil { // the daemon's own work, such as a collection
		return ctx
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", string(s.Namespace))
	if s.Lease != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "containerd-lease", s.Lease)
	}
	return ctx
}

// native gives an error of the wire its kind.
func (s *Snapshotter) native(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("snapshotter %s: %w", s.name, errgrpc.ToNative(err))
}

// Stat implements snapshot.Snapshotter.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshot.Info, error) {
	r, err := s.client.Stat(outgoing(ctx), &api.StatSnapshotRequest{Snapshotter: s.name, Key: key})
	return infoOf(r.GetInfo()), s.native(err)
}

// Update implements snapshot.Snapshotter.
func (s *Snapshotter) Update(ctx context.Context, info snapshot.Info, fields ...string) (snapshot.Info, error) {
	r, err := s.client.Update(outgoing(ctx), &api.UpdateSnapshotRequest{
		Snapshotter: s.name, Info: &api.Info{Name: info.Name, Labels: info.Labels}, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields},
	})
	return infoOf(r.GetInfo()), s.native(err)
}

// Usage implements snapshot.Snapshotter.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshot.Usage, error) {
	r, err := s.client.Usage(outgoing(ctx), &api.UsageRequest{Snapshotter: s.name, Key: key})
	return snapshot.Usage{Inodes: r.GetInodes(), Size: r.GetSize()}, s.native(err)
}

// Mounts implements snapshot.Snapshotter.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	r, err := s.client.Mounts(outgoing(ctx), &api.MountsRequest{Snapshotter: s.name, Key: key})
	return mount.FromProto(r.GetMounts()), s.native(err)
}

// Prepare implements snapshot.Snapshotter.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	r, err := s.client.Prepare(outgoing(ctx), &api.PrepareSnapshotRequest{Snapshotter: s.name, Key: key, Parent: parent, Labels: labels})
	return mount.FromProto(r.GetMounts()), s.native(err)
}

// View implements snapshot.Snapshotter.
func (s *Snapshotter) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	r, err := s.client.View(outgoing(ctx), &api.ViewSnapshotRequest{Snapshotter: s.name, Key: key, Parent: parent, Labels: labels})
	return mount.FromProto(r.GetMounts()), s.native(err)
}

// Commit implements snapshot.Snapshotter.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts snapshot.CommitOpts) error {
	_, err := s.client.Commit(outgoing(ctx), &api.CommitSnapshotRequest{
		Snapshotter: s.name, Name: name, Key: key, Labels: opts.Labels, Parent: opts.Parent,
	})
	return s.native(err)
}

// Remove implements snapshot.Snapshotter.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	_, err := s.client.Remove(outgoing(ctx), &api.RemoveSnapshotRequest{Snapshotter: s.name, Key: key})
	return s.native(err)
}

// Walk implements snapshot.Snapshotter. Servers are free to list in any order.
func (s *Snapshotter) Walk(ctx context.Context, fn func(snapshot.Info) error, filters ...string) error {
	ctx, cancel := context.WithCancel(outgoing(ctx))
	defer cancel()
	stream, err := s.client.List(ctx, &api.ListSnapshotsRequest{Snapshotter: s.name, Filters: filters})
	if err != nil {
		return s.native(err)
	}
	var all []snapshot.Info
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return s.native(err)
		}
		for _, i := range r.Info {
			all = append(all, infoOf(i))
		}
	}
	slices.SortFunc(all, func(a, b snapshot.Info) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	for _, i := range all {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// Cleanup implements snapshot.Snapshotter. Not every server has something to
// clean up.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	_, err := s.client.Cleanup(outgoing(ctx), &api.CleanupRequest{Snapshotter: s.name})
	if err := s.native(err); !errdefs.IsNotImplemented(err) {
		return err
	}
	return nil
}

// Close implements snapshot.Snapshotter.
func (s *Snapshotter) Close() error { return s.close() }

func infoOf(i *api.Info) snapshot.Info {
	info := snapshot.Info{Name: i.GetName(), Parent: i.GetParent(), Labels: i.GetLabels()}
	switch i.GetKind() {
	case api.Kind_VIEW:
		info.Kind = snapshot.View
	case api.Kind_ACTIVE:
		info.Kind = snapshot.Active
	case api.Kind_COMMITTED:
		info.Kind = snapshot.Committed
	}
	if i != nil {
		info.CreatedAt, info.UpdatedAt = i.CreatedAt.AsTime(), i.UpdatedAt.AsTime()
	}
	return info
}
