// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"

	api "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/diff"
	"slipway/internal/mount"
	"slipway/internal/mount/mountproto"
)

// Differ applies and makes layers in another process, which reads and writes
// their blobs where it likes, such as in the daemon's content store.
type Differ struct{ client api.DiffClient }

// NewDiffer returns the differ name that c's server has.
func NewDiffer(c grpc.ClientConnInterface, name string) *Differ {
	return &Differ{api.NewDiffClient(conn{c, "differ " + name, namespaced})}
}

// Apply unpacks a layer into what the mounts show. Of the options, those that
// are about the layer reach the server.
func (d *Differ) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts diff.ApplyOpts) (ocispec.Descriptor, error) {
	r, err := d.client.Apply(ctx, &api.ApplyRequest{
		Diff: descriptorProto(desc), Mounts: mountproto.Of(mounts), Payloads: opts.Payloads, SyncFs: opts.SyncFS,
	})
	return descriptorOf(r.GetApplied()), err
}

// Compare makes a layer of what upper has changed over lower.
func (d *Differ) Compare(ctx context.Context, lower, upper []mount.Mount, opts diff.DiffOpts) (ocispec.Descriptor, error) {
	r := &api.DiffRequest{
		Left: mountproto.Of(lower), Right: mountproto.Of(upper), MediaType: opts.MediaType, Ref: opts.Ref, Labels: opts.Labels,
	}
	if !opts.SourceDateEpoch.IsZero() {
		r.SourceDateEpoch = timestamppb.New(opts.SourceDateEpoch)
	}
	resp, err := d.client.Diff(ctx, r)
	return descriptorOf(resp.GetDiff()), err
}

func descriptorOf(d *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations()}
}

func descriptorProto(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}
