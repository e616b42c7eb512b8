// SPDX-License-Identifier: Apache-2.0

// Package content keeps blobs by their digest.
//
// A blob is immutable and complete. An ingest is a blob that is still being
// written; it is found by its ref, keeps its bytes when the writer goes away,
// and becomes a blob when it is committed. One writer at a time holds a ref.
//
// The package knows nothing of namespaces, leases or garbage: meta does.
package content

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Info describes a blob. Labels are kept by meta, never by Local.
type Info struct {
	Digest    digest.Digest
	Size      int64 // bytes
	CreatedAt time.Time
	UpdatedAt time.Time
	Labels    map[string]string
}

// Status describes an ingest.
type Status struct {
	Ref       string
	Offset    int64 // bytes written so far
	Total     int64 // expected size in bytes, 0 if unknown
	Expected  digest.Digest
	StartedAt time.Time
	UpdatedAt time.Time
}

// A ReaderAt reads one blob.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// A Provider opens blobs. It returns errdefs.ErrNotFound for an absent one.
type Provider interface {
	ReaderAt(ctx context.Context, dgst digest.Digest) (ReaderAt, error)
}

// WriterOpts names an ingest.
type WriterOpts struct {
	Ref      string        // identity of the ingest, required
	Expected digest.Digest // digest of the whole, if known
	Total    int64         // size of the whole in bytes, if known
}

// An Ingester opens writers. Writer resumes an ingest that exists: the new
// writer's Status gives the offset to continue at. It returns
// errdefs.ErrUnavailable while another writer holds the ref, and
// errdefs.ErrAlreadyExists if the blob opts.Expected is there.
type Ingester interface {
	Writer(ctx context.Context, opts WriterOpts) (Writer, error)
}

// A Writer appends to one ingest. Close keeps the ingest; Commit ends it.
type Writer interface {
	io.WriteCloser
	// Digest is that of the bytes written so far.
	Digest() digest.Digest
	Status() (Status, error)
	// Truncate drops everything beyond size, which must be 0 or the offset.
	Truncate(size int64) error
	// Commit makes the ingest a blob, durably. size 0 and an empty expected
	// are not checked; a mismatch is errdefs.ErrFailedPrecondition and keeps
	// the ingest; an existing blob is errdefs.ErrAlreadyExists and ends it.
	Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error
}

// A Tail reads the bytes of an ingest while they are written, and after its
// commit.
type Tail interface {
	io.ReaderAt
	io.Closer
}

// A Tailer is a Writer that can be read from while it is written.
type Tailer interface {
	Tail() (Tail, error)
}

// A Store keeps blobs and ingests. Local implements it on a directory, and
// meta for one namespace on top of Local.
type Store interface {
	Provider
	Ingester
	Info(ctx context.Context, dgst digest.Digest) (Info, error)
	Delete(ctx context.Context, dgst digest.Digest) error
	Status(ctx context.Context, ref string) (Status, error)
	Abort(ctx context.Context, ref string) error
}
