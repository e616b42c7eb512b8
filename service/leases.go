// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/leases/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/meta"
)

// Leases serves containerd.services.leases.v1.Leases.
type Leases struct {
	api.UnimplementedLeasesServer
	db *meta.DB
	gc Collector
}

// NewLeases returns the service over a database; gc is for deletions that
// wait until the space is free.
func NewLeases(db *meta.DB, gc Collector) *Leases { return &Leases{db: db, gc: gc} }

// Register puts the service on a server.
func (s *Leases) Register(r grpc.ServiceRegistrar) { api.RegisterLeasesServer(r, s) }

func (s *Leases) store(ctx context.Context) (*meta.Leases, error) {
	scope, err := ident.ScopeOf(ctx)
	return s.db.Leases(scope.Namespace), err
}

// Create makes a lease, with a name of our own if the request has none.
func (s *Leases) Create(ctx context.Context, r *api.CreateRequest) (*api.CreateResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	l, err := store.Create(ctx, r.ID, r.Labels)
	if err != nil {
		return nil, err
	}
	return &api.CreateResponse{Lease: leaseProto(l)}, nil
}

// Delete ends a lease.
func (s *Leases) Delete(ctx context.Context, r *api.DeleteRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.Delete(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := collectIf(ctx, s.gc, r.Sync); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// List gives the leases that match.
func (s *Leases) List(ctx context.Context, r *api.ListRequest) (*api.ListResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	all, err := store.List(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	return &api.ListResponse{Leases: protos(all, leaseProto)}, nil
}

// AddResource puts an object under a lease.
func (s *Leases) AddResource(ctx context.Context, r *api.AddResourceRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.AddResource(ctx, r.ID, resourceOf(r.Resource)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// DeleteResource takes an object from a lease.
func (s *Leases) DeleteResource(ctx context.Context, r *api.DeleteResourceRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.DeleteResource(ctx, r.ID, resourceOf(r.Resource)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// ListResources gives the objects under a lease.
func (s *Leases) ListResources(ctx context.Context, r *api.ListResourcesRequest) (*api.ListResourcesResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	all, err := store.ListResources(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &api.ListResourcesResponse{Resources: protos(all, resourceProto)}, nil
}
