// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"io"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/content"
	"slipway/internal/ident"
	"slipway/meta"
)

// readChunk is the size in bytes of the messages that a blob is read in.
const readChunk = 1 << 20

// Content serves containerd.services.content.v1.Content. Write is in
// write.go.
type Content struct {
	api.UnimplementedContentServer
	db *meta.DB
}

// NewContent returns the service over a database.
func NewContent(db *meta.DB) *Content { return &Content{db: db} }

// Register puts the service on a server.
func (s *Content) Register(r grpc.ServiceRegistrar) { api.RegisterContentServer(r, s) }

func (s *Content) store(ctx context.Context) (*meta.Content, error) {
	scope, err := ident.ScopeOf(ctx)
	return s.db.Content(scope), err
}

// digestOf checks what a request calls a digest.
func digestOf(text string) (digest.Digest, error) {
	d, err := digest.Parse(text)
	if err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", text, err, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// blob finds the store of a request and the digest in it.
func (s *Content) blob(ctx context.Context, text string) (*meta.Content, digest.Digest, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, "", err
	}
	d, err := digestOf(text)
	return store, d, err
}

// Info describes a blob.
func (s *Content) Info(ctx context.Context, r *api.InfoRequest) (*api.InfoResponse, error) {
	store, d, err := s.blob(ctx, r.Digest)
	if err != nil {
		return nil, err
	}
	info, err := store.Info(ctx, d)
	if err != nil {
		return nil, err
	}
	return &api.InfoResponse{Info: blobProto(info)}, nil
}

// Update changes labels.
func (s *Content) Update(ctx context.Context, r *api.UpdateRequest) (*api.UpdateResponse, error) {
	store, d, err := s.blob(ctx, r.GetInfo().GetDigest())
	if err != nil {
		return nil, err
	}
	info, err := store.Update(ctx, content.Info{Digest: d, Labels: r.Info.Labels}, r.GetUpdateMask().GetPaths()...)
	if err != nil {
		return nil, err
	}
	return &api.UpdateResponse{Info: blobProto(info)}, nil
}

// List sends the blobs that match, a page at a time.
func (s *Content) List(r *api.ListContentRequest, stream api.Content_ListServer) error {
	store, err := s.store(stream.Context())
	if err != nil {
		return err
	}
	p := pager[*api.Info]{send: func(batch []*api.Info) error {
		return stream.Send(&api.ListContentResponse{Info: batch})
	}}
	err = store.Walk(stream.Context(), func(i content.Info) error { return p.add(blobProto(i)) }, r.Filters...)
	if err != nil {
		return err
	}
	return p.flush()
}

// Delete unlinks a blob.
func (s *Content) Delete(ctx context.Context, r *api.DeleteContentRequest) (*emptypb.Empty, error) {
	store, d, err := s.blob(ctx, r.Digest)
	if err != nil {
		return nil, err
	}
	if err := store.Delete(ctx, d); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Read sends a part of a blob. The offsets of the messages count from the
// offset of the request, as upstream's do.
func (s *Content) Read(r *api.ReadContentRequest, stream api.Content_ReadServer) error {
	ctx := stream.Context()
	store, d, err := s.blob(ctx, r.Digest)
	if err != nil {
		return err
	}
	ra, err := store.ReaderAt(ctx, d)
	if err != nil {
		return err
	}
	defer ra.Close()
	offset, size := max(r.Offset, 0), r.Size
	if offset > ra.Size() {
		return fmt.Errorf("content %v: offset %d is beyond the end at %d: %w", d, offset, ra.Size(), errdefs.ErrOutOfRange)
	}
	if left := ra.Size() - offset; size <= 0 || size > left {
		size = left
	}
	return send(stream, io.NewSectionReader(ra, offset, size), size)
}

// send makes a buffer for each message: the transport may still hold the last
// one.
func send(stream api.Content_ReadServer, from io.Reader, size int64) error {
	for at := int64(0); at < size; {
		buf := make([]byte, min(size-at, readChunk))
		if _, err := io.ReadFull(from, buf); err != nil {
			return err
		}
		if err := stream.Send(&api.ReadContentResponse{Offset: at, Data: buf}); err != nil {
			return err
		}
		at += int64(len(buf))
	}
	return nil
}

// Status describes an ingest.
func (s *Content) Status(ctx context.Context, r *api.StatusRequest) (*api.StatusResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	st, err := store.Status(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	return &api.StatusResponse{Status: ingestProto(st)}, nil
}

// ListStatuses describes the ingests that match.
func (s *Content) ListStatuses(ctx context.Context, r *api.ListStatusesRequest) (*api.ListStatusesResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	all, err := store.ListStatuses(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	return &api.ListStatusesResponse{Statuses: protos(all, ingestProto)}, nil
}

// Abort drops an ingest.
func (s *Content) Abort(ctx context.Context, r *api.AbortRequest) (*emptypb.Empty, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.Abort(ctx, r.Ref); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
