// SPDX-License-Identifier: Apache-2.0

// Package transfer moves images: from a registry into the image store (pull),
// back (push), and from one name to another (tag).
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
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/ident"
	"slipway/meta"
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
	Downloads   int    // blobs fetched at once by one pull, 0 for 4
	Unpacks     int    // layers applied at once by one pull, 0 for 2
	Uploads     int    // blobs pushed at once by one push, 0 for 4
	SyncFS      bool   // flush the file system of each applied layer
}

// Service runs transfers. Use New.
type Service struct {
	Config
	flights keyedLocks // one download of a blob and one unpack of a chain at a time
}

// New returns a Service.
func New(c Config) *Service {
	if c.Snapshotter == "" {
		c.Snapshotter = "overlayfs"
	}
	c.Downloads = orDefault(c.Downloads, 4)
	c.Unpacks = orDefault(c.Unpacks, 2)
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

// uniqueName is upstream's form of a generated name: nanoseconds and three
// random bytes.
func uniqueName() string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%s", time.Now().Nanosecond(), base64.RawURLEncoding.EncodeToString(b[:]))
}

// Tag stores the target of image from under the name to as well.
func (s *Service) Tag(ctx context.Context, scope ident.Scope, from string, to StoreOpts) error {
	img, err := s.DB.Images(scope).Get(ctx, from)
	if err != nil {
		return err
	}
	return s.record(ctx, scope, meta.Image{Name: to.Name, Target: img.Target, Labels: to.Labels})
}

// record creates the image, or moves its name.
func (s *Service) record(ctx context.Context, scope ident.Scope, img meta.Image) error {
	images := s.DB.Images(scope)
	_, err := images.Create(ctx, img)
	if !errdefs.IsAlreadyExists(err) {
		return err
	}
	fields := []string{"target"}
	for k := range img.Labels {
		fields = append(fields, "labels."+k)
	}
	_, err = images.Update(ctx, img, fields...)
	return err
}
