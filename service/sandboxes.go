// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/services/sandbox/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/event"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/sandbox"
)

// SandboxStore serves containerd.services.sandbox.v1.Store.
type SandboxStore struct {
	api.UnimplementedStoreServer
	db *meta.DB
}

// NewSandboxStore returns the service over a database.
func NewSandboxStore(db *meta.DB) *SandboxStore { return &SandboxStore{db: db} }

// Register puts the service on a server.
func (s *SandboxStore) Register(r grpc.ServiceRegistrar) { api.RegisterStoreServer(r, s) }

func (s *SandboxStore) store(ctx context.Context) (*meta.Sandboxes, error) {
	scope, err := ident.ScopeOf(ctx)
	return s.db.Sandboxes(scope), err
}

// Create adds a sandbox.
func (s *SandboxStore) Create(ctx context.Context, r *api.StoreCreateRequest) (*api.StoreCreateResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	sb, err := store.Create(ctx, sandboxOf(r.Sandbox))
	if err != nil {
		return nil, err
	}
	return &api.StoreCreateResponse{Sandbox: sandboxProto(sb)}, nil
}

// Update changes what the fields name.
func (s *SandboxStore) Update(ctx context.Context, r *api.StoreUpdateRequest) (*api.StoreUpdateResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	sb, err := store.Update(ctx, sandboxOf(r.Sandbox), r.Fields...)
	if err != nil {
		return nil, err
	}
	return &api.StoreUpdateResponse{Sandbox: sandboxProto(sb)}, nil
}

// Delete removes the record.
func (s *SandboxStore) Delete(ctx context.Context, r *api.StoreDeleteRequest) (*api.StoreDeleteResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	if err := store.Delete(ctx, r.SandboxID); err != nil {
		return nil, err
	}
	return &api.StoreDeleteResponse{}, nil
}

// List gives the sandboxes that match.
func (s *SandboxStore) List(ctx context.Context, r *api.StoreListRequest) (*api.StoreListResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	all, err := store.List(ctx, r.Filters...)
	if err != nil {
		return nil, err
	}
	return &api.StoreListResponse{List: protos(all, sandboxProto)}, nil
}

// Get finds a sandbox.
func (s *SandboxStore) Get(ctx context.Context, r *api.StoreGetRequest) (*api.StoreGetResponse, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	sb, err := store.Get(ctx, r.SandboxID)
	if err != nil {
		return nil, err
	}
	return &api.StoreGetResponse{Sandbox: sandboxProto(sb)}, nil
}

// SandboxController serves containerd.services.sandbox.v1.Controller. It has
// no Platform, and leaves the endpoint of a sandbox out of its answers, as
// upstream does.
type SandboxController struct {
	api.UnimplementedControllerServer
	sandboxes *sandbox.Manager
	events    *event.Exchange
}

// NewSandboxController returns the service of a manager.
func NewSandboxController(m *sandbox.Manager, x *event.Exchange) *SandboxController {
	return &SandboxController{sandboxes: m, events: x}
}

// Register puts the service on a server.
func (s *SandboxController) Register(r grpc.ServiceRegistrar) { api.RegisterControllerServer(r, s) }

// named finds the namespace of a request and the controller that it names.
func (s *SandboxController) named(ctx context.Context, sandboxer string) (ident.Namespace, sandbox.Controller, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return "", nil, err
	}
	c, err := s.sandboxes.Controller(sandboxer)
	return scope.Namespace, c, err
}

// Create prepares a sandbox.
func (s *SandboxController) Create(ctx context.Context, r *api.ControllerCreateRequest) (*api.ControllerCreateResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	opts := sandbox.CreateOpts{
		Sandbox: sandboxOf(r.Sandbox), Rootfs: mount.FromProto(r.Rootfs), Options: r.Options,
		NetNSPath: r.NetnsPath, Annotations: r.Annotations,
	}
	if r.Sandbox == nil {
		opts.Sandbox.ID = r.SandboxID
	}
	if err := c.Create(ctx, ns, opts); err != nil {
		return nil, err
	}
	id := opts.Sandbox.ID
	if err := s.events.Publish(ctx, ns, "/sandboxes/create", &eventsapi.SandboxCreate{SandboxID: id}); err != nil {
		return nil, err
	}
	return &api.ControllerCreateResponse{SandboxID: id}, nil
}

// Start runs a sandbox.
func (s *SandboxController) Start(ctx context.Context, r *api.ControllerStartRequest) (*api.ControllerStartResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	i, err := c.Start(ctx, ns, r.SandboxID)
	if err != nil {
		return nil, err
	}
	if err := s.events.Publish(ctx, ns, "/sandboxes/start", &eventsapi.SandboxStart{SandboxID: r.SandboxID}); err != nil {
		return nil, err
	}
	return &api.ControllerStartResponse{
		SandboxID: r.SandboxID, Pid: i.Pid, CreatedAt: timestamppb.New(i.CreatedAt), Labels: i.Labels,
	}, nil
}

// Stop ends what runs in a sandbox.
func (s *SandboxController) Stop(ctx context.Context, r *api.ControllerStopRequest) (*api.ControllerStopResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	if err := c.Stop(ctx, ns, r.SandboxID, time.Duration(r.TimeoutSecs)*time.Second); err != nil {
		return nil, err
	}
	return &api.ControllerStopResponse{}, nil
}

// Wait answers when a sandbox has ended, and tells everybody else then.
func (s *SandboxController) Wait(ctx context.Context, r *api.ControllerWaitRequest) (*api.ControllerWaitResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	exit, err := c.Wait(ctx, ns, r.SandboxID)
	if err != nil {
		return nil, err
	}
	at := timestamppb.New(exit.At)
	msg := &eventsapi.SandboxExit{SandboxID: r.SandboxID, ExitStatus: exit.Status, ExitedAt: at}
	if err := s.events.Publish(ctx, ns, "/sandboxes/exit", msg); err != nil {
		return nil, err
	}
	return &api.ControllerWaitResponse{ExitStatus: exit.Status, ExitedAt: at}, nil
}

// Status describes a sandbox as its controller sees it.
func (s *SandboxController) Status(ctx context.Context, r *api.ControllerStatusRequest) (*api.ControllerStatusResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx, ns, r.SandboxID, r.Verbose)
	if err != nil {
		return nil, err
	}
	return &api.ControllerStatusResponse{
		SandboxID: r.SandboxID, Pid: st.Pid, State: st.State, Info: st.Info, Extra: st.Extra,
		CreatedAt: timestamppb.New(st.CreatedAt), ExitedAt: timestamppb.New(st.ExitedAt),
	}, nil
}

// Shutdown removes a sandbox.
func (s *SandboxController) Shutdown(ctx context.Context, r *api.ControllerShutdownRequest) (*api.ControllerShutdownResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	if err := c.Shutdown(ctx, ns, r.SandboxID); err != nil {
		return nil, err
	}
	return &api.ControllerShutdownResponse{}, nil
}

// Metrics gives the counters of a sandbox.
func (s *SandboxController) Metrics(ctx context.Context, r *api.ControllerMetricsRequest) (*api.ControllerMetricsResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	m, err := c.Metrics(ctx, ns, r.SandboxID)
	if err != nil {
		return nil, err
	}
	return &api.ControllerMetricsResponse{Metrics: m}, nil
}

// Update tells a sandbox what has changed in its record.
func (s *SandboxController) Update(ctx context.Context, r *api.ControllerUpdateRequest) (*api.ControllerUpdateResponse, error) {
	ns, c, err := s.named(ctx, r.Sandboxer)
	if err != nil {
		return nil, err
	}
	sb := sandboxOf(r.Sandbox)
	if sb.ID == "" {
		sb.ID = r.SandboxID
	}
	if err := c.Update(ctx, ns, sb, r.Fields); err != nil {
		return nil, err
	}
	return &api.ControllerUpdateResponse{}, nil
}
