// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/diff/v1"
	"google.golang.org/grpc"

	"slipway/diff"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
)

// Diff serves containerd.services.diff.v1.Diff.
type Diff struct {
	api.UnimplementedDiffServer
	db     *meta.DB
	config DiffConfig
}

// DiffConfig changes the service; the zero value is the default.
type DiffConfig struct {
	Temp   string // where temporary mounts are made
	SyncFS bool   // flush the file system of each applied layer
	// Mount performs mounts in a namespace, nil for what can do with plain ones.
	Mount func(ident.Namespace) diff.Mounter
	Erofs *diff.ErofsOpts // see diff.ApplyOpts
	// Processors make plain layers of those of other media types.
	Processors []diff.Processor
}

// NewDiff returns the service over a database.
func NewDiff(db *meta.DB, c DiffConfig) *Diff { return &Diff{db: db, config: c} }

// Register puts the service on a server.
func (s *Diff) Register(r grpc.ServiceRegistrar) { api.RegisterDiffServer(r, s) }

// Apply unpacks a layer into what the mounts show. Payloads are for stream
// processors of media types that are no plain layers.
func (s *Diff) Apply(ctx context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := digestOf(r.GetDiff().GetDigest()); err != nil {
		return nil, err
	}
	opts := diff.ApplyOpts{
		SyncFS: r.SyncFs || s.config.SyncFS, Tmp: s.config.Temp, Mount: s.mounter(scope.Namespace),
		Erofs: s.config.Erofs, Processors: s.config.Processors, Payloads: r.Payloads,
	}
	applied, err := diff.ApplyBlob(ctx, s.db.Content(scope), descriptorOf(r.Diff), mount.FromProto(r.Mounts), opts)
	if err != nil {
		return nil, err
	}
	return &api.ApplyResponse{Applied: descriptorProto(applied)}, nil
}

func (s *Diff) mounter(ns ident.Namespace) diff.Mounter {
	if s.config.Mount == nil {
		return nil
	}
	return s.config.Mount(ns)
}

// Diff makes a layer of what the mounts on the right have over those on the
// left.
func (s *Diff) Diff(ctx context.Context, r *api.DiffRequest) (*api.DiffResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := ident.CheckLabels(r.Labels); err != nil {
		return nil, err
	}
	opts := diff.DiffOpts{MediaType: r.MediaType, Ref: r.Ref, Labels: r.Labels, Tmp: s.config.Temp, Mount: s.mounter(scope.Namespace)}
	if r.SourceDateEpoch != nil {
		opts.SourceDateEpoch = r.SourceDateEpoch.AsTime()
	}
	desc, err := diff.Compare(ctx, mount.FromProto(r.Left), mount.FromProto(r.Right), s.db.Content(scope), opts)
	if err != nil {
		return nil, err
	}
	return &api.DiffResponse{Diff: descriptorProto(desc)}, nil
}
