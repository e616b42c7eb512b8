// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"io"

	api "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/content"
	"slipway/meta"
)

// Write runs one session with an ingest:
//
//	client  STAT ref …      server  STAT offset digest
//	        WRITE offset …          WRITE offset digest
//	        …                       …
//	        COMMIT …                COMMIT offset digest, twice
//
// The first message names the ingest, and the session holds it until it ends.
// Each message may announce the size and the digest of the whole; the last
// ones count, at the commit. Clients of upstream rely on getting the last
// response again when they stop sending.
func (s *Content) Write(stream api.Content_WriteServer) error {
	store, err := s.store(stream.Context())
	if err != nil {
		return err
	}
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	w, err := openSession(stream.Context(), store, r)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		resp, err := w.step(stream.Context(), r)
		if err != nil {
			return err
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		if r, err = stream.Recv(); err == io.EOF {
			return stream.Send(resp)
		}
		if err != nil {
			return err
		}
	}
}

// session is one writer of an ingest and what its client has announced.
type session struct {
	content.Writer
	store    *meta.Content
	ref      string
	total    int64
	expected digest.Digest
}

func openSession(ctx context.Context, store *meta.Content, first *api.WriteContentRequest) (*session, error) {
	if first.Ref == "" {
		return nil, fmt.Errorf("first message must have a reference: %w", errdefs.ErrInvalidArgument)
	}
	s := &session{store: store, ref: first.Ref, total: first.Total, expected: digest.Digest(first.Expected)}
	if first.Total < 0 {
		return nil, fmt.Errorf("ref %s: total of %d bytes: %w", s.ref, s.total, errdefs.ErrInvalidArgument)
	}
	var err error
	s.Writer, err = store.Writer(ctx, content.WriterOpts{Ref: s.ref, Total: s.total, Expected: s.expected})
	return s, err
}

// step carries out one message.
func (s *session) step(ctx context.Context, r *api.WriteContentRequest) (*api.WriteContentResponse, error) {
	st, err := s.Status()
	if err != nil {
		return nil, err
	}
	if err := s.announce(ctx, r); err != nil {
		return nil, err
	}
	resp := &api.WriteContentResponse{Action: r.Action, Offset: st.Offset}
	switch r.Action {
	case api.WriteAction_STAT:
		resp.StartedAt, resp.UpdatedAt = timestamppb.New(st.StartedAt), timestamppb.New(st.UpdatedAt)
		resp.Total = s.total
	case api.WriteAction_WRITE, api.WriteAction_COMMIT:
		if resp.Offset, err = s.write(r, st.Offset); err != nil {
			return nil, err
		}
		if r.Action == api.WriteAction_COMMIT {
			if err := s.Commit(ctx, s.total, s.expected, r.Labels); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("ref %s: action %d: %w", s.ref, r.Action, errdefs.ErrInvalidArgument)
	}
	resp.Digest = s.Digest().String()
	return resp, nil
}

// announce takes note of the size and the digest in a message. A blob that is
// there by now ends the ingest.
func (s *session) announce(ctx context.Context, r *api.WriteContentRequest) error {
	if r.Total > 0 {
		s.total = r.Total
	}
	if r.Expected == "" {
		return nil
	}
	d, err := digestOf(r.Expected)
	if err != nil {
		return err
	}
	s.expected = d
	if _, err := s.store.Info(ctx, d); err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if err := s.store.Abort(ctx, s.ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return fmt.Errorf("content %v: %w", d, errdefs.ErrAlreadyExists)
}

// write appends the data of a message and gives the new offset. Offset 0 in
// an ingest that has data means to begin again.
func (s *session) write(r *api.WriteContentRequest, offset int64) (int64, error) {
	if r.Offset != 0 && r.Offset != offset {
		return 0, fmt.Errorf("ref %s: write at %d, the offset is %d: %w", s.ref, r.Offset, offset, errdefs.ErrOutOfRange)
	}
	if r.Offset == 0 && offset > 0 {
		if err := s.Truncate(0); err != nil {
			return 0, err
		}
		offset = 0
	}
	if len(r.Data) == 0 {
		return offset, nil
	}
	n, err := s.Writer.Write(r.Data)
	if err != nil {
		return 0, err
	}
	if n != len(r.Data) {
		return 0, fmt.Errorf("ref %s: wrote %d of %d bytes: %w", s.ref, n, len(r.Data), errdefs.ErrDataLoss)
	}
	return offset + int64(n), nil
}
