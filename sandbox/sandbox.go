// SPDX-License-Identifier: Apache-2.0

// Package sandbox runs sandboxes: environments that several containers share,
// such as a pod or a virtual machine. A controller knows how to run them; the
// records are in package meta.
package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/task"
)

// CreateOpts describes a sandbox to create.
type CreateOpts struct {
	Sandbox     meta.Sandbox
	Rootfs      []mount.Mount
	Options     *anypb.Any // runtime options, nil for those of the sandbox
	NetNSPath   string
	Annotations map[string]string
}

// Instance is a sandbox that was started.
type Instance struct {
	Pid       uint32
	CreatedAt time.Time
	Labels    map[string]string
	Endpoint  task.Endpoint // of its task service
	Spec      *anypb.Any
}

// Status describes a sandbox as its controller sees it.
type Status struct {
	Pid       uint32
	State     string
	Info      map[string]string // filled for verbose requests
	CreatedAt time.Time
	ExitedAt  time.Time
	Extra     *anypb.Any
	Endpoint  task.Endpoint
}

// Exit is how a sandbox ended.
type Exit struct {
	Status uint32
	At     time.Time
}

// A Controller runs the sandboxes of one kind.
type Controller interface {
	Create(ctx context.Context, ns ident.Namespace, opts CreateOpts) error
	Start(ctx context.Context, ns ident.Namespace, id string) (Instance, error)
	Platform(ctx context.Context, ns ident.Namespace, id string) (*types.Platform, error)
	Stop(ctx context.Context, ns ident.Namespace, id string, timeout time.Duration) error
	Wait(ctx context.Context, ns ident.Namespace, id string) (Exit, error)
	Status(ctx context.Context, ns ident.Namespace, id string, verbose bool) (Status, error)
	Shutdown(ctx context.Context, ns ident.Namespace, id string) error
	Metrics(ctx context.Context, ns ident.Namespace, id string) (*types.Metric, error)
	Update(ctx context.Context, ns ident.Namespace, sb meta.Sandbox, fields []string) error
}

// A Manager hands each request to the controller that the client names.
type Manager struct {
	controllers map[string]Controller
}

// NewManager returns a Manager of controllers by name, such as "shim".
func NewManager(controllers map[string]Controller) *Manager { return &Manager{controllers} }

// Controller finds a controller. No name is errdefs.ErrInvalidArgument, an
// unknown one errdefs.ErrNotFound.
func (m *Manager) Controller(name string) (Controller, error) {
	if name == "" {
		return nil, fmt.Errorf("sandbox controller must be named: %w", errdefs.ErrInvalidArgument)
	}
	c, ok := m.controllers[name]
	if !ok {
		return nil, fmt.Errorf("sandbox controller %q: %w", name, errdefs.ErrNotFound)
	}
	return c, nil
}

// Endpoints finds the task services of the sandboxes that a database knows. It
// is the task.Sandboxes of a daemon.
type Endpoints struct {
	DB      *meta.DB
	Manager *Manager
}

// Endpoint implements task.Sandboxes. There is no address if the sandbox's
// controller has none to give.
func (e Endpoints) Endpoint(ctx context.Context, ns ident.Namespace, id string) (task.Endpoint, error) {
	sb, err := e.DB.Sandboxes(ident.Scope{Namespace: ns}).Get(ctx, id)
	if err != nil {
		return task.Endpoint{}, err
	}
	c, err := e.Manager.Controller(sb.Sandboxer)
	if err != nil {
		return task.Endpoint{}, err
	}
	st, err := c.Status(ctx, ns, id, false)
	if err == nil && st.Endpoint.Address == "" && !st.ExitedAt.IsZero() {
		err = fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	return st.Endpoint, err
}
