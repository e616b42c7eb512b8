// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/plainjson"
)

// Type URLs of the documents that travel as JSON.
const (
	specURL      = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
	processURL   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	resourcesURL = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// Descriptor converts a descriptor from the wire.
func Descriptor(d *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations()}
}

// DescriptorProto converts a descriptor for the wire.
func DescriptorProto(d ocispec.Descriptor) *types.Descriptor {
	return &types.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

// Spec reads a runtime spec from a container's record.
func Spec(a *anypb.Any) (*specs.Spec, error) {
	s := &specs.Spec{}
	if err := plainjson.Unmarshal(a.GetValue(), s); err != nil {
		return nil, fmt.Errorf("spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// SpecProto converts a runtime spec for a container's record.
func SpecProto(s *specs.Spec) (*anypb.Any, error) { return jsonAny(specURL, s) }

// ProcessProto converts the spec of a process for an exec.
func ProcessProto(p *specs.Process) (*anypb.Any, error) { return jsonAny(processURL, p) }

func jsonAny(url string, v any) (*anypb.Any, error) {
	data, err := plainjson.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: url, Value: data}, nil
}

func platformProto(p ocispec.Platform) *types.Platform {
	return &types.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}
}

// anyOf wraps m under the type URL that the daemon expects, without a host.
func anyOf(m proto.Message) (*anypb.Any, error) { return typeurl.MarshalAnyToProto(m) }

func unmarshalAny(a *anypb.Any, into proto.Message) error {
	if err := typeurl.UnmarshalTo(a, into); err != nil {
		return fmt.Errorf("%s: %w: %w", a.GetTypeUrl(), err, errdefs.ErrInvalidArgument)
	}
	return nil
}
