// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/images/v1"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/bytestream"
	"slipway/internal/ident"
	"slipway/meta"
)

// Images serves containerd.services.images.v1.Images.
type Images struct {
	api.UnimplementedImagesServer
	db *meta.DB
	gc Collector
}

// NewImages returns the service over a database; gc is for deletions that
// wait until the space is free.
func NewImages(db *meta.DB, gc Collector) *Images { return &Images{db: db, gc: gc} }

// Register puts the service on a server.
func (s *Images) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(encodes(api.Images_ServiceDesc, "List", s.list), s)
}

func (s *Images) store(ctx context.Context) (*meta.Images, error) {
	scope, err := ident.ScopeOf(ctx)
	return s.db.Images(scope), err
}

// Get finds an image.
func (s *Images) Get(ctx context.Context, r *api.GetImageRequest) (*api.GetImageResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	img, err := store.Get(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	return &api.GetImageResponse{Image: imageProto(img)}, nil
}

// list gives the images that match.
func (s *Images) list(ctx context.Context, r *api.ListImagesRequest) (bytestream.Encoded, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	var l listing
	err = store.Each(ctx, func(i meta.ImageRecord) error {
		l.add(func(b []byte) []byte { return appendImageField(b, i) })
		return nil
	}, r.Filters...)
	return l.message(), err
}

// Create adds an image.
func (s *Images) Create(ctx context.Context, r *api.CreateImageRequest) (*api.CreateImageResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	img := imageOf(r.Image)
	if r.SourceDateEpoch != nil {
		img.CreatedAt, img.UpdatedAt = r.SourceDateEpoch.AsTime(), r.SourceDateEpoch.AsTime()
	}
	if img, err = store.Create(ctx, img); err != nil {
		return nil, err
	}
	return &api.CreateImageResponse{Image: imageProto(img)}, nil
}

// Update changes what the mask names.
func (s *Images) Update(ctx context.Context, r *api.UpdateImageRequest) (*api.UpdateImageResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	img := imageOf(r.Image)
	if r.SourceDateEpoch != nil {
		img.UpdatedAt = r.SourceDateEpoch.AsTime()
	}
	if img, err = store.Update(ctx, img, r.GetUpdateMask().GetPaths()...); err != nil {
		return nil, err
	}
	return &api.UpdateImageResponse{Image: imageProto(img)}, nil
}

// Delete removes a name.
func (s *Images) Delete(ctx context.Context, r *api.DeleteImageRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	var target *digest.Digest
	if r.Target != nil {
		d := digest.Digest(r.Target.Digest)
		target = &d
	}
	if err := store.Delete(ctx, r.Name, target); err != nil {
		return nil, err
	}
	if err := collectIf(ctx, s.gc, r.Sync); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
