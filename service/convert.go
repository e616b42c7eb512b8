// SPDX-License-Identifier: Apache-2.0

package service

import (
	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/content"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/snapshot"
	"slipway/task"
)

// One function per type and direction. What clients may not set, such as
// times, is not read from the wire.

func descriptorOf(d *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations(),
	}
}

func descriptorProto(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

func platformOf(p *types.Platform) ocispec.Platform {
	return ocispec.Platform{
		OS: p.GetOS(), Architecture: p.GetArchitecture(), Variant: p.GetVariant(), OSVersion: p.GetOsVersion(), OSFeatures: p.GetOsFeatures(),
	}
}

func platformProto(p ocispec.Platform) *types.Platform {
	return &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

func platformsOf(in []*types.Platform) (out []ocispec.Platform) {
	for _, p := range in {
		out = append(out, platformOf(p))
	}
	return out
}

func imageOf(i *imagesapi.Image) meta.Image {
	return meta.Image{Name: i.GetName(), Labels: i.GetLabels(), Target: descriptorOf(i.GetTarget())}
}

func imageProto(i meta.Image) *imagesapi.Image {
	return &imagesapi.Image{
		Name: i.Name, Labels: i.Labels, Target: descriptorProto(i.Target),
		CreatedAt: timestamppb.New(i.CreatedAt), UpdatedAt: timestamppb.New(i.UpdatedAt),
	}
}

// containerOf makes a spec that is not there an empty one: upstream demands
// one of its own code and takes records without one from the wire.
func containerOf(c *containersapi.Container) meta.Container {
	spec := c.GetSpec()
	if spec == nil {
		spec = &anypb.Any{}
	}
	return meta.Container{
		ID: c.GetID(), Image: c.GetImage(), Labels: c.GetLabels(), Spec: spec, Sandbox: c.GetSandbox(),
		Runtime:     meta.Runtime{Name: c.GetRuntime().GetName(), Options: c.GetRuntime().GetOptions()},
		Snapshotter: c.GetSnapshotter(), SnapshotKey: c.GetSnapshotKey(), Extensions: c.GetExtensions(),
	}
}

func containerProto(c meta.Container) *containersapi.Container {
	return &containersapi.Container{
		ID: c.ID, Image: c.Image, Labels: c.Labels, Spec: c.Spec, Sandbox: c.Sandbox,
		Runtime:     &containersapi.Container_Runtime{Name: c.Runtime.Name, Options: c.Runtime.Options},
		Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey, Extensions: c.Extensions,
		CreatedAt: timestamppb.New(c.CreatedAt), UpdatedAt: timestamppb.New(c.UpdatedAt),
	}
}

func blobProto(i content.Info) *contentapi.Info {
	return &contentapi.Info{
		Digest: i.Digest.String(), Size: i.Size, Labels: i.Labels,
		CreatedAt: timestamppb.New(i.CreatedAt), UpdatedAt: timestamppb.New(i.UpdatedAt),
	}
}

func ingestProto(s content.Status) *contentapi.Status {
	return &contentapi.Status{
		Ref: s.Ref, Offset: s.Offset, Total: s.Total, Expected: s.Expected.String(),
		StartedAt: timestamppb.New(s.StartedAt), UpdatedAt: timestamppb.New(s.UpdatedAt),
	}
}

func leaseProto(l meta.Lease) *leasesapi.Lease {
	return &leasesapi.Lease{ID: l.ID, CreatedAt: timestamppb.New(l.CreatedAt), Labels: l.Labels}
}

func resourceOf(r *leasesapi.Resource) meta.Resource {
	return meta.Resource{Type: r.GetType(), ID: r.GetID()}
}

func resourceProto(r meta.Resource) *leasesapi.Resource {
	return &leasesapi.Resource{Type: r.Type, ID: r.ID}
}

func sandboxOf(s *types.Sandbox) meta.Sandbox {
	return meta.Sandbox{
		ID: s.GetSandboxID(), Runtime: meta.Runtime{Name: s.GetRuntime().GetName(), Options: s.GetRuntime().GetOptions()},
		Spec: s.GetSpec(), Sandboxer: s.GetSandboxer(), Labels: s.GetLabels(), Extensions: s.GetExtensions(),
	}
}

func sandboxProto(s meta.Sandbox) *types.Sandbox {
	return &types.Sandbox{
		SandboxID: s.ID, Runtime: &types.Sandbox_Runtime{Name: s.Runtime.Name, Options: s.Runtime.Options},
		Spec: s.Spec, Sandboxer: s.Sandboxer, Labels: s.Labels, Extensions: s.Extensions,
		CreatedAt: timestamppb.New(s.CreatedAt), UpdatedAt: timestamppb.New(s.UpdatedAt),
	}
}

func snapshotOf(i *snapshotsapi.Info) snapshot.Info {
	return snapshot.Info{Name: i.GetName(), Labels: i.GetLabels()}
}

func snapshotProto(i snapshot.Info) *snapshotsapi.Info {
	return &snapshotsapi.Info{
		Name: i.Name, Parent: i.Parent, Kind: kindProto(i.Kind), Labels: i.Labels,
		CreatedAt: timestamppb.New(i.CreatedAt), UpdatedAt: timestamppb.New(i.UpdatedAt),
	}
}

func kindProto(k snapshot.Kind) snapshotsapi.Kind {
	switch k {
	case snapshot.View:
		return snapshotsapi.Kind_VIEW
	case snapshot.Active:
		return snapshotsapi.Kind_ACTIVE
	case snapshot.Committed:
		return snapshotsapi.Kind_COMMITTED
	}
	return snapshotsapi.Kind_UNKNOWN
}

// envelopeOf dates an event without a time to the beginning of 1970, as
// upstream does.
func envelopeOf(e *types.Envelope) event.Envelope {
	return event.Envelope{
		Timestamp: e.GetTimestamp().AsTime(), Namespace: ident.Namespace(e.GetNamespace()), Topic: e.GetTopic(), Event: e.GetEvent(),
	}
}

func envelopeProto(e event.Envelope) *types.Envelope {
	return &types.Envelope{Timestamp: timestamppb.New(e.Timestamp), Namespace: string(e.Namespace), Topic: e.Topic, Event: e.Event}
}

// processProto leaves container_id empty, as upstream does.
func processProto(s task.State) *tasktypes.Process {
	return &tasktypes.Process{
		ID: s.ID, Pid: s.Pid, Status: tasktypes.Status(s.Status),
		Stdin: s.Stdio.Stdin, Stdout: s.Stdio.Stdout, Stderr: s.Stdio.Stderr, Terminal: s.Stdio.Terminal,
		ExitStatus: s.ExitStatus, ExitedAt: timestamppb.New(s.ExitedAt),
	}
}

// protos converts a list.
func protos[T, P any](in []T, convert func(T) P) []P {
	var out []P
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}
