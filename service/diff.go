// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"slipway/diff"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
)

// A Differ applies layers and makes them, under the scope of its context.
// Answering errdefs.ErrNotImplemented, it leaves the work to the next.
type Differ interface {
	Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts diff.ApplyOpts) (ocispec.Descriptor, error)
	Compare(ctx context.Context, lower, upper []mount.Mount, opts diff.DiffOpts) (ocispec.Descriptor, error)
}

// Diff serves containerd.services.diff.v1.Diff.
type Diff struct {
	api.UnimplementedDiffServer
	differs []Differ
	syncFS  bool
}

// NewDiff returns the service of differs, which are asked in turn. syncFS
// flushes the file system of each applied layer.
func NewDiff(syncFS bool, differs ...Differ) *Diff { return &Diff{syncFS: syncFS, differs: differs} }

// Register puts the service on a server.
func (s *Diff) Register(r grpc.ServiceRegistrar) { api.RegisterDiffServer(r, s) }

// Apply unpacks a layer into what the mounts show. Payloads are for stream
// processors of media types that are no plain layers.
func (s *Diff) Apply(ctx context.Context, r *api.ApplyRequest) (*api.ApplyResponse, error) {
	if _, err := digestOf(r.GetDiff().GetDigest()); err != nil {
		return nil, err
	}
	opts := diff.ApplyOpts{SyncFS: r.SyncFs || s.syncFS, Payloads: r.Payloads}
	applied, err := s.first(func(d Differ) (ocispec.Descriptor, error) {
		return d.Apply(ctx, descriptorOf(r.Diff), mount.FromProto(r.Mounts), opts)
	})
	if err != nil {
		return nil, err
	}
	return &api.ApplyResponse{Applied: descriptorProto(applied)}, nil
}

// first asks the differs until one can do it.
func (s *Diff) first(ask func(Differ) (ocispec.Descriptor, error)) (desc ocispec.Descriptor, err error) {
	err = fmt.Errorf("no differ: %w", errdefs.ErrNotImplemented)
	for _, d := range s.differs {
		if desc, err = ask(d); !errdefs.IsNotImplemented(err) {
			break
		}
	}
	return desc, err
}

// Diff makes a layer of what the mounts on the right have over those on the
// left.
func (s *Diff) Diff(ctx context.Context, r *api.DiffRequest) (*api.DiffResponse, error) {
	if err := ident.CheckLabels(r.Labels); err != nil {
		return nil, err
	}
	opts := diff.DiffOpts{MediaType: r.MediaType, Ref: r.Ref, Labels: r.Labels}
	if r.SourceDateEpoch != nil {
		opts.SourceDateEpoch = r.SourceDateEpoch.AsTime()
	}
	desc, err := s.first(func(d Differ) (ocispec.Descriptor, error) {
		return d.Compare(ctx, mount.FromProto(r.Left), mount.FromProto(r.Right), opts)
	})
	if err != nil {
		return nil, err
	}
	return &api.DiffResponse{Diff: descriptorProto(desc)}, nil
}

// Walking is the Differ that unpacks layers and compares directories. DB is
// required.
type Walking struct {
	DB   *meta.DB
	Temp string // where temporary mounts are made
	// Mount performs mounts in a namespace, nil for what can do with plain ones.
	Mount func(ident.Namespace) diff.Mounter
	// Processors make plain layers of those of other media types.
	Processors []diff.Processor
}

// Apply implements Differ.
func (w Walking) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts diff.ApplyOpts) (ocispec.Descriptor, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	opts.Tmp, opts.Mount, opts.Processors = w.Temp, w.mounter(scope.Namespace), w.Processors
	return diff.ApplyBlob(ctx, w.DB.Content(scope), desc, mounts, opts)
}

// Compare implements Differ.
func (w Walking) Compare(ctx context.Context, lower, upper []mount.Mount, opts diff.DiffOpts) (ocispec.Descriptor, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	opts.Tmp, opts.Mount = w.Temp, w.mounter(scope.Namespace)
	return diff.Compare(ctx, lower, upper, w.DB.Content(scope), opts)
}

func (w Walking) mounter(ns ident.Namespace) diff.Mounter {
	if w.Mount == nil {
		return nil
	}
	return w.Mount(ns)
}

// Erofs is the Differ that makes EROFS images of layers, for the snapshots
// that want them.
type Erofs struct {
	DB   *meta.DB
	Opts *diff.ErofsOpts
}

// Apply implements Differ.
func (e Erofs) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, _ diff.ApplyOpts) (ocispec.Descriptor, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return e.Opts.ApplyBlob(ctx, e.DB.Content(scope), desc, mounts)
}

// Compare implements Differ.
func (e Erofs) Compare(context.Context, []mount.Mount, []mount.Mount, diff.DiffOpts) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("EROFS images of differences: %w", errdefs.ErrNotImplemented)
}
