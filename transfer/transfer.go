// SPDX-License-Identifier: Apache-2.0

// Package transfer moves images: from a registry into the image store (pull),
// back (push), from an archive (import), into one (export), and from one name
// to another (tag).
//
// A pull is resolve, fetch and unpack, record. Fetching walks the tree of
// descriptors from the top; a layer is applied to a snapshot as soon as its
// blob is there, whatever the others do. Everything that a pull makes belongs
// to a lease until the image names it.
package transfer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/policy"
)

// Config is what a Service stands on. DB is required.
type Config struct {
	DB *meta.DB
	// Capabilities gives those of a snapshotter, such as "rebase".
	Capabilities func(snapshotter string) []string
	// Snapshotter unpacks when neither the request nor the namespace names
	// one. The default is "overlayfs".
	Snapshotter string
	Temp        string // for temporary mounts
	Downloads   int    // blobs fetched at once by one pull, 0 for 6
	Unpacks     int    // layers applied at once by one pull, 0 for what the processors can do
	Uploads     int    // blobs pushed at once by one push, 0 for 4
	// NoSync records images before their layers are on disk, for tests and
	// for what can be lost.
	NoSync bool
	SyncFS bool // without a meaning beside NoSync: layers are synced anyway
	// Mount performs mounts in a namespace, nil for what can do with plain ones.
	Mount func(ident.Namespace) diff.Mounter
	Erofs *diff.ErofsOpts // see diff.ApplyOpts
	// Processors make plain layers of those of other media types.
	Processors []diff.Processor
	// Differ applies layers when they are stored, nil for this process, which
	// does it while they arrive.
	Differ Differ
	// Verifier says which images may be pulled, nil for all.
	Verifier *Verifier
	// Policy says which images may be pulled and imported, nil for all. What
	// runs is for Guard.
	Policy *policy.File
}

// A Differ applies layers elsewhere, from the content store.
type Differ interface {
	Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts diff.ApplyOpts) (ocispec.Descriptor, error)
}

// Service runs transfers. Use New.
type Service struct {
	Config
	flights keyedLocks // one download of a blob and one unpack of a chain at a time
	flusher flusher
}

// New returns a Service.
func New(c Config) *Service {
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
	}
	c.Downloads = orDefault(c.Downloads, 6)
	c.Unpacks = orDefault(c.Unpacks, min(max(runtime.GOMAXPROCS(0), 2), 8))
	c.Uploads = orDefault(c.Uploads, 4)
	return &Service{Config: c}
}

func orDefault(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

// Progress is one step of a transfer. Name and Parents are ingest refs, which
// clients show as a tree; Progress and Total are bytes.
type Progress struct {
	Event           string
	Name            string
	Parents         []string
	Progress, Total int64
	Desc            *ocispec.Descriptor
}

// Report receives the progress of a transfer. It may be called concurrently
// and must not block for long.
type Report func(Progress)

// leaseLife is how long a transfer that dies keeps what it made.
const leaseLife = 24 * time.Hour

// withLease makes a lease for the transfer unless the caller brought one. The
// returned function ends it.
func (s *Service) withLease(ctx context.Context, scope ident.Scope) (ident.Scope, func(), error) {
	if scope.Lease != "" {
		return scope, func() {}, nil
	}
	leases := s.DB.Leases(scope.Namespace)
	l, err := leases.Create(ctx, uniqueName(), map[string]string{
		"containerd.io/gc.expire": time.Now().Add(leaseLife).UTC().Format(time.RFC3339),
	})
	if err != nil {
		return scope, nil, err
	}
	scope.Lease = l.ID
	return scope, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		leases.Delete(ctx, l.ID) // an expired lease that stays is collected
	}, nil
}

// hold keeps the tree of desc for as long as the transfer's lease, even if
// the image goes away meanwhile.
func (s *Service) hold(ctx context.Context, scope ident.Scope, desc ocispec.Descriptor) error {
	return s.DB.Leases(scope.Namespace).AddResource(ctx, scope.Lease, meta.Resource{Type: "content", ID: desc.Digest.String()})
}

// uniqueName is upstream's form of a generated name: nanoseconds and three
// random bytes.
func uniqueName() string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%s", time.Now().Nanosecond(), base64.RawURLEncoding.EncodeToString(b[:]))
}

// Tag stores the target of image from under the names of to as well.
func (s *Service) Tag(ctx context.Context, scope ident.Scope, from string, to StoreOpts) error {
	img, err := s.DB.Images(scope).Get(ctx, from)
	if err != nil {
		return err
	}
	return s.save(ctx, scope, to.names(img.Target), from, func(Progress) {})
}
