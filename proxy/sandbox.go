// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	api "github.com/containerd/containerd/api/services/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/ident"
	"slipway/internal/mount/mountproto"
	"slipway/meta"
	"slipway/sandbox"
	"slipway/task"
)

// Sandboxes is a sandbox.Controller that another process serves.
type Sandboxes struct {
	name   string // of the controller, in the requests
	client api.ControllerClient
}

var _ sandbox.Controller = (*Sandboxes)(nil)

// NewSandboxes returns the controller name that conn's server has.
func NewSandboxes(conn *grpc.ClientConn, name string) *Sandboxes {
	return &Sandboxes{name: name, client: api.NewControllerClient(conn)}
}

func (s *Sandboxes) native(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("sandbox controller %s: %w", s.name, errgrpc.ToNative(err))
}

func in(ctx context.Context, ns ident.Namespace) context.Context {
	return outgoing(ident.WithScope(ctx, ident.Scope{Namespace: ns}))
}

// Create implements sandbox.Controller.
func (s *Sandboxes) Create(ctx context.Context, ns ident.Namespace, o sandbox.CreateOpts) error {
	_, err := s.client.Create(in(ctx, ns), &api.ControllerCreateRequest{
		SandboxID: o.Sandbox.ID, Rootfs: mountproto.Of(o.Rootfs), Options: o.Options, NetnsPath: o.NetNSPath,
		Annotations: o.Annotations, Sandbox: sandboxProto(o.Sandbox), Sandboxer: s.name,
	})
	return s.native(err)
}

// Start implements sandbox.Controller.
func (s *Sandboxes) Start(ctx context.Context, ns ident.Namespace, id string) (sandbox.Instance, error) {
	r, err := s.client.Start(in(ctx, ns), &api.ControllerStartRequest{SandboxID: id, Sandboxer: s.name})
	if err != nil {
		return sandbox.Instance{}, s.native(err)
	}
	return sandbox.Instance{
		Pid: r.Pid, CreatedAt: r.CreatedAt.AsTime(), Labels: r.Labels, Spec: r.Spec, Endpoint: endpointOf(r.Address, r.Version),
	}, nil
}

// Platform implements sandbox.Controller.
func (s *Sandboxes) Platform(ctx context.Context, ns ident.Namespace, id string) (*types.Platform, error) {
	r, err := s.client.Platform(in(ctx, ns), &api.ControllerPlatformRequest{SandboxID: id, Sandboxer: s.name})
	return r.GetPlatform(), s.native(err)
}

// Stop implements sandbox.Controller.
func (s *Sandboxes) Stop(ctx context.Context, ns ident.Namespace, id string, timeout time.Duration) error {
	_, err := s.client.Stop(in(ctx, ns), &api.ControllerStopRequest{
		SandboxID: id, TimeoutSecs: uint32(timeout / time.Second), Sandboxer: s.name,
	})
	return s.native(err)
}

// Wait implements sandbox.Controller.
func (s *Sandboxes) Wait(ctx context.Context, ns ident.Namespace, id string) (sandbox.Exit, error) {
	r, err := s.client.Wait(in(ctx, ns), &api.ControllerWaitRequest{SandboxID: id, Sandboxer: s.name})
	if err != nil {
		return sandbox.Exit{}, s.native(err)
	}
	return sandbox.Exit{Status: r.ExitStatus, At: r.ExitedAt.AsTime()}, nil
}

// Status implements sandbox.Controller.
func (s *Sandboxes) Status(ctx context.Context, ns ident.Namespace, id string, verbose bool) (sandbox.Status, error) {
	r, err := s.client.Status(in(ctx, ns), &api.ControllerStatusRequest{SandboxID: id, Verbose: verbose, Sandboxer: s.name})
	if err != nil {
		return sandbox.Status{}, s.native(err)
	}
	return sandbox.Status{
		Pid: r.Pid, State: r.State, Info: r.Info, CreatedAt: r.CreatedAt.AsTime(), ExitedAt: r.ExitedAt.AsTime(),
		Extra: r.Extra, Endpoint: endpointOf(r.Address, r.Version),
	}, nil
}

// Shutdown implements sandbox.Controller.
func (s *Sandboxes) Shutdown(ctx context.Context, ns ident.Namespace, id string) error {
	_, err := s.client.Shutdown(in(ctx, ns), &api.ControllerShutdownRequest{SandboxID: id, Sandboxer: s.name})
	return s.native(err)
}

// Metrics implements sandbox.Controller.
func (s *Sandboxes) Metrics(ctx context.Context, ns ident.Namespace, id string) (*types.Metric, error) {
	r, err := s.client.Metrics(in(ctx, ns), &api.ControllerMetricsRequest{SandboxID: id, Sandboxer: s.name})
	return r.GetMetrics(), s.native(err)
}

// Update implements sandbox.Controller.
func (s *Sandboxes) Update(ctx context.Context, ns ident.Namespace, sb meta.Sandbox, fields []string) error {
	_, err := s.client.Update(in(ctx, ns), &api.ControllerUpdateRequest{
		SandboxID: sb.ID, Sandboxer: s.name, Sandbox: sandboxProto(sb), Fields: fields,
	})
	return s.native(err)
}

func sandboxProto(s meta.Sandbox) *types.Sandbox {
	return &types.Sandbox{
		SandboxID: s.ID, Runtime: &types.Sandbox_Runtime{Name: s.Runtime.Name, Options: s.Runtime.Options}, Spec: s.Spec,
		Sandboxer: s.Sandboxer, Labels: s.Labels, Extensions: s.Extensions,
		CreatedAt: timestamppb.New(s.CreatedAt), UpdatedAt: timestamppb.New(s.UpdatedAt),
	}
}

// endpointOf reads an address such as ttrpc+unix:///run/x; without a protocol
// it is ttrpc.
func endpointOf(address string, version uint32) task.Endpoint {
	protocol, rest, ok := strings.Cut(address, "+")
	if !ok {
		protocol, rest = "ttrpc", address
	}
	return task.Endpoint{Version: int(version), Address: rest, Protocol: protocol}
}
