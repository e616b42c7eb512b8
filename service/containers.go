// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/meta"
)

// Containers serves containerd.services.containers.v1.Containers.
type Containers struct {
	api.UnimplementedContainersServer
	db *meta.DB
}

// NewContainers returns the service over a database.
func NewContainers(db *meta.DB) *Containers { return &Containers{db: db} }

// Register puts the service on a server.
func (s *Containers) Register(r grpc.ServiceRegistrar) { api.RegisterContainersServer(r, s) }

func (s *Containers) store(ctx context.Context) (*meta.Containers, error) {
	scope, err := ident.ScopeOf(ctx)
	return s.db.Containers(scope), err
}

// Get finds a container.
func (s *Containers) Get(ctx context.Context, r *api.GetContainerRequest) (*api.GetContainerResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	c, err := store.Get(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &api.GetContainerResponse{Container: containerProto(c)}, nil
}

// List gives the containers that match.
func (s *Containers) List(ctx context.Context, r *api.ListContainersRequest) (*api.ListContainersResponse, error) {
	all, err := s.list(ctx, r)
	if err != nil {
		return nil, err
	}
	return &api.ListContainersResponse{Containers: protos(all, containerProto)}, nil
}

func (s *Containers) list(ctx context.Context, r *api.ListContainersRequest) ([]meta.Container, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	return store.List(ctx, r.Filters...)
}

// ListStream sends the containers that match, each in a message of its own:
// specs are large.
func (s *Containers) ListStream(r *api.ListContainersRequest, stream api.Containers_ListStreamServer) error {
	all, err := s.list(stream.Context(), r)
	if err != nil {
		return err
	}
	for _, c := range all {
		if err := stream.Send(&api.ListContainerMessage{Container: containerProto(c)}); err != nil {
			return err
		}
	}
	return nil
}

// Create adds a container.
func (s *Containers) Create(ctx context.Context, r *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	c, err := store.Create(ctx, containerOf(r.Container))
	if err != nil {
		return nil, err
	}
	return &api.CreateContainerResponse{Container: containerProto(c)}, nil
}

// Update changes what the mask names.
func (s *Containers) Update(ctx context.Context, r *api.UpdateContainerRequest) (*api.UpdateContainerResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	c, err := store.Update(ctx, containerOf(r.Container), r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateContainerResponse{Container: containerProto(c)}, nil
}

// Delete removes the record; it does not look for a task.
func (s *Containers) Delete(ctx context.Context, r *api.DeleteContainerRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.Delete(ctx, r.ID); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
