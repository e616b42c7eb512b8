// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"
)

// An Image is a name for a descriptor.
type Image struct {
	Name      string
	Target    ocispec.Descriptor // MediaType, Digest, Size, Annotations
	Labels    map[string]string
	CreatedAt time.Time
	UpdatedAt time.Time
}

// A Container is what is needed to make a task of it.
type Container struct {
	ID          string
	Image       string
	Runtime     Runtime
	Spec        *anypb.Any
	Snapshotter string
	SnapshotKey string
	Sandbox     string
	Labels      map[string]string
	Extensions  map[string]*anypb.Any
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// A Runtime names a shim and its options.
type Runtime struct {
	Name    string // such as io.containerd.runc.v2, or an absolute path
	Options *anypb.Any
}

// A Lease keeps its resources from being collected.
type Lease struct {
	ID        string
	CreatedAt time.Time
	Labels    map[string]string
}

// A Resource is one thing that a lease keeps. Type is "content", "ingests",
// "images" or "snapshots/<snapshotter>".
type Resource struct {
	Type string
	ID   string
}

// A Sandbox is what is needed to run a group of containers.
type Sandbox struct {
	ID         string
	Runtime    Runtime
	Spec       *anypb.Any
	Sandboxer  string
	Labels     map[string]string
	Extensions map[string]*anypb.Any
	CreatedAt  time.Time
	UpdatedAt  time.Time
}
