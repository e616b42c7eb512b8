// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/bytestream"
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
func (s *Containers) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(encodes(api.Containers_ServiceDesc, "List", s.list), s)
}

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

// list gives the containers that match.
func (s *Containers) list(ctx context.Context, r *api.ListContainersRequest) (bytestream.Encoded, error) {
	var l listing
	err := s.each(ctx, r, func(c meta.ContainerRecord) error {
		l.add(func(b []byte) []byte { return appendContainerField(b, c) })
		return nil
	})
	return l.message(), err
}

func (s *Containers) each(ctx context.Context, r *api.ListContainersRequest, fn func(meta.ContainerRecord) error) error {
	store, err := s.store(ctx)
	if err != nil {
		return err
	}
	return store.Each(ctx, fn, r.Filters...)
}

// ListStream sends the containers that match, each in a message of its own:
// specs are large.
func (s *Containers) ListStream(r *api.ListContainersRequest, stream api.Containers_ListStreamServer) error {
	var all [][]byte
	var scratch []byte
	err := s.each(stream.Context(), r, func(c meta.ContainerRecord) error {
		scratch = appendContainerField(scratch[:0], c)
		all = append(all, bytes.Clone(scratch))
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := stream.SendMsg(bytestream.Encoded{mem.SliceBuffer(m)}); err != nil {
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
