// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/internal/mount/mountproto"
	"slipway/meta"
	"slipway/snapshot"
)

// Snapshots serves containerd.services.snapshots.v1.Snapshots.
type Snapshots struct {
	api.UnimplementedSnapshotsServer
	db *meta.DB
}

// NewSnapshots returns the service over a database.
func NewSnapshots(db *meta.DB) *Snapshots { return &Snapshots{db: db} }

// Register puts the service on a server.
func (s *Snapshots) Register(r grpc.ServiceRegistrar) { api.RegisterSnapshotsServer(r, s) }

func (s *Snapshots) named(ctx context.Context, snapshotter string) (snapshot.Snapshotter, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.db.Snapshotter(scope, snapshotter)
}

// Prepare makes an active snapshot.
func (s *Snapshots) Prepare(ctx context.Context, r *api.PrepareSnapshotRequest) (*api.PrepareSnapshotResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Prepare(ctx, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &api.PrepareSnapshotResponse{Mounts: mountproto.Of(mounts)}, nil
}

// View makes a view.
func (s *Snapshots) View(ctx context.Context, r *api.ViewSnapshotRequest) (*api.ViewSnapshotResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.View(ctx, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &api.ViewSnapshotResponse{Mounts: mountproto.Of(mounts)}, nil
}

// Mounts shows an active snapshot or a view again.
func (s *Snapshots) Mounts(ctx context.Context, r *api.MountsRequest) (*api.MountsResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	mounts, err := sn.Mounts(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &api.MountsResponse{Mounts: mountproto.Of(mounts)}, nil
}

// Commit makes an active snapshot immutable.
func (s *Snapshots) Commit(ctx context.Context, r *api.CommitSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if err := sn.Commit(ctx, r.Name, r.Key, snapshot.CommitOpts{Labels: r.Labels, Parent: r.Parent}); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Remove forgets a snapshot.
func (s *Snapshots) Remove(ctx context.Context, r *api.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if err := sn.Remove(ctx, r.Key); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Stat describes a snapshot.
func (s *Snapshots) Stat(ctx context.Context, r *api.StatSnapshotRequest) (*api.StatSnapshotResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	info, err := sn.Stat(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &api.StatSnapshotResponse{Info: snapshotProto(info)}, nil
}

// Update changes labels.
func (s *Snapshots) Update(ctx context.Context, r *api.UpdateSnapshotRequest) (*api.UpdateSnapshotResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	info, err := sn.Update(ctx, snapshotOf(r.Info), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateSnapshotResponse{Info: snapshotProto(info)}, nil
}

// List sends the snapshots that match, a page at a time.
func (s *Snapshots) List(r *api.ListSnapshotsRequest, stream api.Snapshots_ListServer) error {
	sn, err := s.named(stream.Context(), r.Snapshotter)
	if err != nil {
		return err
	}
	p := pager[*api.Info]{send: func(batch []*api.Info) error {
		return stream.Send(&api.ListSnapshotsResponse{Info: batch})
	}}
	err = sn.Walk(stream.Context(), func(i snapshot.Info) error { return p.add(snapshotProto(i)) }, r.Filters...)
	if err != nil {
		return err
	}
	return p.flush()
}

// Usage says what a snapshot occupies.
func (s *Snapshots) Usage(ctx context.Context, r *api.UsageRequest) (*api.UsageResponse, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	u, err := sn.Usage(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &api.UsageResponse{Size: u.Size, Inodes: u.Inodes}, nil
}

// Cleanup removes the files of removed snapshots.
func (s *Snapshots) Cleanup(ctx context.Context, r *api.CleanupRequest) (*emptypb.Empty, error) {
	sn, err := s.named(ctx, r.Snapshotter)
	if err != nil {
		return nil, err
	}
	if err := sn.Cleanup(ctx); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
