// SPDX-License-Identifier: Apache-2.0

// Package snapshot keeps root file systems as a tree of immutable layers and
// the writable tops of running containers.
//
// A snapshot is active (writable, found by its key), a view (read-only, found
// by its key) or committed (immutable, found by its name). Keys and names
// share one space; only a committed snapshot may be a parent. A Snapshotter
// never mounts: it returns the mounts that, performed in order, show the
// snapshot.
package snapshot

import (
	"context"
	"time"

	"slipway/internal/mount"
)

// Kind says what may be done with a snapshot. The values are those stored in
// metadata.db.
type Kind uint8

const (
	View      Kind = 1
	Active    Kind = 2
	Committed Kind = 3
)

// String gives the name used in filters.
func (k Kind) String() string {
	switch k {
	case View:
		return "view"
	case Active:
		return "active"
	case Committed:
		return "committed"
	}
	return "unknown"
}

// Info describes a snapshot.
type Info struct {
	Kind      Kind
	Name      string // key or name
	Parent    string // name of the parent, empty at a root
	Labels    map[string]string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Usage is what a snapshot occupies, without its parents.
type Usage struct {
	Inodes int64
	Size   int64 // bytes on disk
}

// CommitOpts changes Commit; the zero value commits onto the parent given to
// Prepare, without labels.
type CommitOpts struct {
	Labels map[string]string
	// Parent puts an active snapshot that was prepared without a parent onto
	// this one (capability "rebase").
	Parent string
}

// A Snapshotter keeps one tree. Its methods may be called concurrently. They
// return errdefs.ErrNotFound, ErrAlreadyExists, ErrFailedPrecondition and
// ErrInvalidArgument. Each method that ends a snapshot's life returns before
// its files are gone; Cleanup removes them.
type Snapshotter interface {
	Stat(ctx context.Context, key string) (Info, error)
	// Update replaces the labels named by fields ("labels", "labels.<key>"),
	// all of them if there are no fields.
	Update(ctx context.Context, info Info, fields ...string) (Info, error)
	Usage(ctx context.Context, key string) (Usage, error)
	Mounts(ctx context.Context, key string) ([]mount.Mount, error)
	Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error)
	View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error)
	Commit(ctx context.Context, name, key string, opts CommitOpts) error
	Remove(ctx context.Context, key string) error
	// Walk calls fn for every snapshot that one of filters matches, in the
	// order of their names.
	Walk(ctx context.Context, fn func(Info) error, filters ...string) error
	// Cleanup removes the files of removed snapshots.
	Cleanup(ctx context.Context) error
	Close() error
}
