// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/internal/mount/mountproto"
	"slipway/mounts"
)

// Mounts serves containerd.services.mounts.v1.Mounts.
type Mounts struct {
	api.UnimplementedMountsServer
	manager *mounts.Manager
}

// NewMounts returns the service of a manager.
func NewMounts(m *mounts.Manager) *Mounts { return &Mounts{manager: m} }

// Register puts the service on a server.
func (s *Mounts) Register(r grpc.ServiceRegistrar) { api.RegisterMountsServer(r, s) }

// Activate performs the mounts that the kernel alone cannot, or all for a
// temporary activation.
func (s *Mounts) Activate(ctx context.Context, r *api.ActivateRequest) (*api.ActivateResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.manager.Activate(ctx, scope, r.Name, mount.FromProto(r.Mounts), mounts.Options{Labels: r.Labels, Temporary: r.Temporary})
	if err != nil {
		return nil, err
	}
	return &api.ActivateResponse{Info: activationProto(info)}, nil
}

// Deactivate takes them off again.
func (s *Mounts) Deactivate(ctx context.Context, r *api.DeactivateRequest) (*emptypb.Empty, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.manager.Deactivate(ctx, scope.Namespace, r.Name); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Info describes an activation.
func (s *Mounts) Info(ctx context.Context, r *api.InfoRequest) (*api.InfoResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.manager.Info(ctx, scope.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	return &api.InfoResponse{Info: activationProto(info)}, nil
}

// Update is not to be had, from upstream neither.
func (s *Mounts) Update(context.Context, *api.UpdateRequest) (*api.UpdateResponse, error) {
	return nil, fmt.Errorf("update of a mount activation: %w", errdefs.ErrNotImplemented)
}

// List sends the activations of the namespace; the filters of the request
// have no meaning.
func (s *Mounts) List(_ *api.ListRequest, stream api.Mounts_ListServer) error {
	scope, err := ident.ScopeOf(stream.Context())
	if err != nil {
		return err
	}
	all, err := s.manager.List(stream.Context(), scope.Namespace)
	if err != nil {
		return err
	}
	for _, info := range all {
		if err := stream.Send(&api.ListMessage{Info: activationProto(info)}); err != nil {
			return err
		}
	}
	return nil
}

func activationProto(i mounts.Info) *types.ActivationInfo {
	out := &types.ActivationInfo{Name: i.Name, System: mountproto.Of(i.System), Labels: i.Labels}
	for _, a := range i.Active {
		out.Active = append(out.Active, &types.ActiveMount{
			Mount: mountproto.Of([]mount.Mount{a.Mount})[0], MountPoint: a.Point, MountedAt: timestamppb.New(a.At),
		})
	}
	return out
}
