// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Version serves containerd.services.version.v1.Version.
type Version struct {
	api.UnimplementedVersionServer
	version, revision string
}

// NewVersion returns the service of a daemon of that version, built from
// that revision of the source.
func NewVersion(version, revision string) *Version {
	return &Version{version: version, revision: revision}
}

// Register puts the service on a server.
func (s *Version) Register(r grpc.ServiceRegistrar) { api.RegisterVersionServer(r, s) }

// Version says which daemon this is.
func (s *Version) Version(context.Context, *emptypb.Empty) (*api.VersionResponse, error) {
	return &api.VersionResponse{Version: s.version, Revision: s.revision}, nil
}
