// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	api "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/internal/ident"
	"slipway/meta"
)

// Namespaces serves containerd.services.namespaces.v1.Namespaces, which acts
// on the namespaces that its requests name, not on that of the header.
type Namespaces struct {
	api.UnimplementedNamespacesServer
	store *meta.Namespaces
}

// NewNamespaces returns the service over a database.
func NewNamespaces(db *meta.DB) *Namespaces { return &Namespaces{store: db.Namespaces()} }

// Register puts the service on a server.
func (s *Namespaces) Register(r grpc.ServiceRegistrar) { api.RegisterNamespacesServer(r, s) }

// Get gives the labels of a namespace, none for one that does not exist:
// clients ask for defaults before they write.
func (s *Namespaces) Get(ctx context.Context, r *api.GetNamespaceRequest) (*api.GetNamespaceResponse, error) {
	labels, err := s.store.Labels(ctx, ident.Namespace(r.Name))
	if err != nil {
		return nil, err
	}
	return &api.GetNamespaceResponse{Namespace: &api.Namespace{Name: r.Name, Labels: labels}}, nil
}

// List gives all namespaces; the filter of the request has no meaning.
func (s *Namespaces) List(ctx context.Context, _ *api.ListNamespacesRequest) (*api.ListNamespacesResponse, error) {
	all, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.ListNamespacesResponse{}
	for _, ns := range all {
		labels, err := s.store.Labels(ctx, ns)
		if err != nil {
			return nil, err
		}
		resp.Namespaces = append(resp.Namespaces, &api.Namespace{Name: string(ns), Labels: labels})
	}
	return resp, nil
}

// Create makes a namespace.
func (s *Namespaces) Create(ctx context.Context, r *api.CreateNamespaceRequest) (*api.CreateNamespaceResponse, error) {
	n := r.GetNamespace()
	if err := ident.Check(n.GetName()); err != nil {
		return nil, err
	}
	if err := s.store.Create(ctx, ident.Namespace(n.GetName()), n.GetLabels()); err != nil {
		return nil, err
	}
	return &api.CreateNamespaceResponse{Namespace: n}, nil
}

// Update changes labels.
func (s *Namespaces) Update(ctx context.Context, r *api.UpdateNamespaceRequest) (*api.UpdateNamespaceResponse, error) {
	n := r.GetNamespace()
	if err := ident.Check(n.GetName()); err != nil {
		return nil, err
	}
	labels, err := s.store.Update(ctx, ident.Namespace(n.GetName()), n.GetLabels(), r.GetUpdateMask().GetPaths())
	if err != nil {
		return nil, err
	}
	return &api.UpdateNamespaceResponse{Namespace: &api.Namespace{Name: n.GetName(), Labels: labels}}, nil
}

// Delete removes an empty namespace.
func (s *Namespaces) Delete(ctx context.Context, r *api.DeleteNamespaceRequest) (*emptypb.Empty, error) {
	if err := ident.Check(r.Name); err != nil {
		return nil, err
	}
	if err := s.store.Delete(ctx, ident.Namespace(r.Name)); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
