// SPDX-License-Identifier: Apache-2.0

// Package remote is a content store that another process serves by the
// content service of containerd's API.
package remote

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"slipway/content"
)

// blockSize is how much of a blob one message carries, in bytes.
const blockSize = 1 << 20

// closeTimeout bounds how long the end of a writer waits for the server.
const closeTimeout = 10 * time.Second

// A Store is the content that a server has in the namespace of the calls. It
// implements content.Store.
type Store struct {
	api contentapi.ContentClient
}

// New returns a store over a connection whose errors have a kind of errdefs.
func New(conn grpc.ClientConnInterface) *Store { return &Store{contentapi.NewContentClient(conn)} }

// Info describes a blob.
func (s *Store) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	resp, err := s.api.Info(ctx, &contentapi.InfoRequest{Digest: dgst.String()})
	if err != nil {
		return content.Info{}, err
	}
	return infoOf(resp.Info), nil
}

// Update sets the labels of info.Digest: those that fields name
// ("labels.<key>"), or all of them without fields.
func (s *Store) Update(ctx context.Context, info content.Info, fields ...string) (content.Info, error) {
	r := &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: info.Digest.String(), Labels: info.Labels}}
	if len(fields) > 0 {
		r.UpdateMask = &fieldmaskpb.FieldMask{Paths: fields}
	}
	resp, err := s.api.Update(ctx, r)
	if err != nil {
		return content.Info{}, err
	}
	return infoOf(resp.Info), nil
}

// Walk calls fn for each blob that a filter matches, in the order of their
// digests, until fn fails.
func (s *Store) Walk(ctx context.Context, fn func(content.Info) error, filters ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.api.List(ctx, &contentapi.ListContentRequest{Filters: filters})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, i := range resp.Info {
			if err := fn(infoOf(i)); err != nil {
				return err
			}
		}
	}
}

// Delete removes a blob from the namespace.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	_, err := s.api.Delete(ctx, &contentapi.DeleteContentRequest{Digest: dgst.String()})
	return err
}

// Status describes an ingest.
func (s *Store) Status(ctx context.Context, ref string) (content.Status, error) {
	resp, err := s.api.Status(ctx, &contentapi.StatusRequest{Ref: ref})
	if err != nil {
		return content.Status{}, err
	}
	return statusOf(resp.Status), nil
}

// ListStatuses describes the ingests that a filter matches.
func (s *Store) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	resp, err := s.api.ListStatuses(ctx, &contentapi.ListStatusesRequest{Filters: filters})
	if err != nil {
		return nil, err
	}
	var all []content.Status
	for _, st := range resp.Statuses {
		all = append(all, statusOf(st))
	}
	return all, nil
}

// Abort drops an ingest.
func (s *Store) Abort(ctx context.Context, ref string) error {
	_, err := s.api.Abort(ctx, &contentapi.AbortRequest{Ref: ref})
	return err
}

// ReaderAt opens a blob. Every call on it is made under ctx.
func (s *Store) ReaderAt(ctx context.Context, dgst digest.Digest) (content.ReaderAt, error) {
	info, err := s.Info(ctx, dgst)
	if err != nil {
		return nil, err
	}
	read := func(p []byte, off int64) error { return s.Read(ctx, dgst, p, off) }
	return &reader{size: info.Size, read: read}, nil
}

// Read fills p with the bytes of a blob from off on.
func (s *Store) Read(ctx context.Context, dgst digest.Digest, p []byte, off int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.api.Read(ctx, &contentapi.ReadContentRequest{Digest: dgst.String(), Offset: off, Size: int64(len(p))})
	if err != nil {
		return err
	}
	for len(p) > 0 {
		resp, err := stream.Recv()
		if err == io.EOF {
			return fmt.Errorf("content %s: read at %d: %w", dgst, off, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		p = p[copy(p, resp.Data):]
	}
	return nil
}

// reader reads a blob over the wire, ahead of calls for less than a block.
type reader struct {
	size int64
	read func(p []byte, off int64) error

	mu    sync.Mutex // guards what follows
	start int64
	block []byte
}

func (r *reader) Size() int64  { return r.size }
func (r *reader) Close() error { return nil }

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, errdefs.ErrInvalidArgument)
	}
	rest := max(r.size-off, 0)
	var end error
	if int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	if len(p) >= blockSize {
		if err := r.read(p, off); err != nil {
			return 0, err
		}
		return len(p), end
	}
	if err := r.buffered(p, off); err != nil {
		return 0, err
	}
	return len(p), end
}

func (r *reader) buffered(p []byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if off < r.start || off+int64(len(p)) > r.start+int64(len(r.block)) {
		block := make([]byte, min(blockSize, r.size-off))
		if err := r.read(block, off); err != nil {
			return err
		}
		r.start, r.block = off, block
	}
	copy(p, r.block[off-r.start:])
	return nil
}

// Writer opens an ingest, under ctx until the writer is closed.
func (s *Store) Writer(ctx context.Context, opts content.WriterOpts) (content.Writer, error) {
	w := &writer{store: s, ctx: ctx, opts: opts}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w, nil
}

// writer is one call of Write. The server keeps the ref locked while the call
// is open, and answers each message.
type writer struct {
	store *Store
	ctx   context.Context // of the calls that this writer stands for
	opts  content.WriterOpts

	stream contentapi.Content_WriteClient
	cancel context.CancelFunc
	st     content.Status
	dgst   digest.Digest
}

func (w *writer) open() (err error) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	stream, err := w.store.api.Write(ctx)
	if err != nil {
		return err
	}
	w.stream, w.cancel = stream, cancel
	resp, err := w.call(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_STAT, Ref: w.opts.Ref, Total: w.opts.Total, Expected: w.opts.Expected.String(),
	})
	if err != nil {
		w.stream = nil
		return err
	}
	w.st = content.Status{
		Ref: w.opts.Ref, Offset: resp.Offset, Total: resp.Total, Expected: w.opts.Expected,
		StartedAt: resp.StartedAt.AsTime(), UpdatedAt: resp.UpdatedAt.AsTime(),
	}
	w.dgst = digest.Digest(resp.Digest)
	return nil
}

// call sends a message and takes the answer. The reason why a message could
// not be sent comes with the answer.
func (w *writer) call(r *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	if err := w.stream.Send(r); err != nil && err != io.EOF {
		return nil, err
	}
	resp, err := w.stream.Recv()
	if err == io.EOF {
		return nil, fmt.Errorf("ref %s: the server ended the call: %w", w.opts.Ref, io.ErrUnexpectedEOF)
	}
	return resp, err
}

func (w *writer) Digest() digest.Digest { return w.dgst }

func (w *writer) Status() (content.Status, error) { return w.st, nil }

func (w *writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if w.stream == nil {
			return n, fmt.Errorf("ref %s: write after close: %w", w.opts.Ref, errdefs.ErrFailedPrecondition)
		}
		block := p[:min(len(p), blockSize)]
		resp, err := w.call(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_WRITE, Offset: w.st.Offset, Data: block})
		if err != nil {
			return n, err
		}
		w.st.Offset += int64(len(block))
		if resp.Offset != w.st.Offset {
			return n, fmt.Errorf("ref %s: wrote up to %d of %d: %w", w.opts.Ref, resp.Offset, w.st.Offset, io.ErrShortWrite)
		}
		w.st.UpdatedAt, w.dgst = resp.UpdatedAt.AsTime(), digest.Digest(resp.Digest)
		n, p = n+len(block), p[len(block):]
	}
	return n, nil
}

// Truncate starts over with a new ingest: the protocol can only begin again
// by writing, which an empty blob never does.
func (w *writer) Truncate(size int64) error {
	if size == w.st.Offset {
		return nil
	}
	if size != 0 {
		return fmt.Errorf("ref %s: truncate to %d of %d: %w", w.opts.Ref, size, w.st.Offset, errdefs.ErrInvalidArgument)
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := w.store.Abort(w.ctx, w.opts.Ref); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return w.open()
}

func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error {
	if w.stream == nil {
		return fmt.Errorf("ref %s: commit after close: %w", w.opts.Ref, errdefs.ErrFailedPrecondition)
	}
	stop := context.AfterFunc(ctx, w.cancel)
	defer stop()
	_, err := w.call(&contentapi.WriteContentRequest{
		Action: contentapi.WriteAction_COMMIT, Offset: w.st.Offset, Total: size, Expected: expected.String(), Labels: labels,
	})
	w.Close()
	return err
}

// Close returns when the server has let go of the ref.
func (w *writer) Close() error {
	if w.stream == nil {
		return nil
	}
	timer := time.AfterFunc(closeTimeout, w.cancel)
	defer timer.Stop()
	defer w.cancel()
	w.stream.CloseSend()
	for {
		if _, err := w.stream.Recv(); err != nil {
			break // the end of the call, or why it ended before
		}
	}
	w.stream = nil
	return nil
}

func infoOf(i *contentapi.Info) content.Info {
	return content.Info{
		Digest: digest.Digest(i.GetDigest()), Size: i.GetSize(), Labels: i.GetLabels(),
		CreatedAt: i.GetCreatedAt().AsTime(), UpdatedAt: i.GetUpdatedAt().AsTime(),
	}
}

func statusOf(s *contentapi.Status) content.Status {
	return content.Status{
		Ref: s.GetRef(), Offset: s.GetOffset(), Total: s.GetTotal(), Expected: digest.Digest(s.GetExpected()),
		StartedAt: s.GetStartedAt().AsTime(), UpdatedAt: s.GetUpdatedAt().AsTime(),
	}
}

var _ content.Store = (*Store)(nil)
