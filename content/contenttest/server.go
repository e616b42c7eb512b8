// SPDX-License-Identifier: Apache-2.0

package contenttest

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/content"
)

// Server serves a store by the content service of containerd's API, as a
// plug-in does: without namespaces, and with nothing that makes errors statuses.
type Server struct {
	contentapi.UnimplementedContentServer
	Local *content.Local
	Reads atomic.Int32 // calls of Read
}

// Info describes a blob.
func (s *Server) Info(ctx context.Context, r *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	i, err := s.Local.Info(ctx, digest.Digest(r.Digest))
	return &contentapi.InfoResponse{Info: &contentapi.Info{
		Digest: i.Digest.String(), Size: i.Size, CreatedAt: timestamppb.New(i.CreatedAt), UpdatedAt: timestamppb.New(i.UpdatedAt),
	}}, err
}

// Delete removes a blob.
func (s *Server) Delete(ctx context.Context, r *contentapi.DeleteContentRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Local.Delete(ctx, digest.Digest(r.Digest))
}

// Abort drops an ingest.
func (s *Server) Abort(ctx context.Context, r *contentapi.AbortRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, s.Local.Abort(ctx, r.Ref)
}

// Status describes an ingest.
func (s *Server) Status(ctx context.Context, r *contentapi.StatusRequest) (*contentapi.StatusResponse, error) {
	st, err := s.Local.Status(ctx, r.Ref)
	return &contentapi.StatusResponse{Status: &contentapi.Status{
		Ref: st.Ref, Offset: st.Offset, Total: st.Total, Expected: st.Expected.String(),
	}}, err
}

// ListStatuses describes every ingest.
func (s *Server) ListStatuses(ctx context.Context, _ *contentapi.ListStatusesRequest) (*contentapi.ListStatusesResponse, error) {
	all, err := s.Local.ListStatuses(ctx)
	r := &contentapi.ListStatusesResponse{}
	for _, st := range all {
		r.Statuses = append(r.Statuses, &contentapi.Status{Ref: st.Ref, Offset: st.Offset, Total: st.Total})
	}
	return r, err
}

// List sends a message for each blob.
func (s *Server) List(_ *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	return s.Local.Walk(stream.Context(), func(i content.Info) error {
		return stream.Send(&contentapi.ListContentResponse{Info: []*contentapi.Info{{Digest: i.Digest.String(), Size: i.Size}}})
	})
}

// Read answers in small messages, whose offsets are relative.
func (s *Server) Read(r *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	s.Reads.Add(1)
	ra, err := s.Local.ReaderAt(stream.Context(), digest.Digest(r.Digest))
	if err != nil {
		return err
	}
	defer ra.Close()
	if r.Offset > ra.Size() {
		return fmt.Errorf("offset: %w", errdefs.ErrOutOfRange)
	}
	n := r.Size
	if n <= 0 || n > ra.Size()-r.Offset {
		n = ra.Size() - r.Offset
	}
	data, err := io.ReadAll(io.NewSectionReader(ra, r.Offset, n))
	for at := 0; err == nil && at < len(data); at += 1000 {
		err = stream.Send(&contentapi.ReadContentResponse{Offset: int64(at), Data: data[at:min(len(data), at+1000)]})
	}
	return err
}

// Write answers a commit twice.
func (s *Server) Write(stream contentapi.Content_WriteServer) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	w, err := s.Local.Writer(stream.Context(), content.WriterOpts{Ref: r.Ref, Expected: digest.Digest(r.Expected), Total: r.Total})
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		resp, err := answer(stream.Context(), w, r)
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		if r.Action == contentapi.WriteAction_COMMIT {
			return stream.Send(resp)
		}
		if r, err = stream.Recv(); err != nil {
			return nil
		}
	}
}

func answer(ctx context.Context, w content.Writer, r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	st, err := w.Status()
	if err != nil {
		return nil, err
	}
	if r.Action != contentapi.WriteAction_STAT && r.Offset != st.Offset {
		if r.Offset != 0 {
			return nil, fmt.Errorf("offset %d, not %d: %w", r.Offset, st.Offset, errdefs.ErrOutOfRange)
		}
		if err := w.Truncate(0); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(r.Data); err != nil {
		return nil, err
	}
	dgst := w.Digest()
	if r.Action == contentapi.WriteAction_COMMIT {
		err := w.Commit(ctx, r.Total, digest.Digest(r.Expected), r.Labels)
		return &contentapi.WriteContentResponse{Action: r.Action, Offset: r.Offset, Digest: dgst.String()}, err
	}
	st, err = w.Status()
	return &contentapi.WriteContentResponse{Action: r.Action, Offset: st.Offset, Total: st.Total, Digest: dgst.String()}, err
}
