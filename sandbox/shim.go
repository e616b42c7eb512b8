// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/ident"
	"slipway/internal/mount/mountproto"
	"slipway/meta"
	"slipway/task"
)

// service is what a shim that knows sandboxes serves.
const service = "containerd.runtime.sandbox.v1.Sandbox"

// Shims is the controller that runs each sandbox in a shim of its own. The
// tasks of the sandbox use the same shim.
type Shims struct {
	shims    *task.Shims
	timeouts task.Timeouts
}

// NewShims returns a controller whose bundles are in cfg.State and whose
// working directories are in cfg.Root.
func NewShims(cfg task.Config) (*Shims, error) {
	shims, err := task.NewShims("sandbox", cfg, func(ident.Namespace, string, task.Exit) {})
	if err != nil {
		return nil, err
	}
	return &Shims{shims, shims.Timeouts()}, nil
}

// Load finds the shims of an earlier daemon again.
func (c *Shims) Load(ctx context.Context) error {
	return c.shims.Load(ctx, c.inspect, c.shutdown)
}

// Close disconnects from the shims and leaves them running.
func (c *Shims) Close() error { return c.shims.Close() }

func (c *Shims) inspect(ctx context.Context, s *task.Shim) error {
	return s.Call(ctx, service, "SandboxStatus", c.timeouts.Load, &sandboxapi.SandboxStatusRequest{SandboxID: s.ID()}, &sandboxapi.SandboxStatusResponse{})
}

func (c *Shims) shutdown(ctx context.Context, s *task.Shim) error {
	err := s.Call(ctx, service, "ShutdownSandbox", c.timeouts.Shutdown, &sandboxapi.ShutdownSandboxRequest{SandboxID: s.ID()}, &sandboxapi.ShutdownSandboxResponse{})
	if task.IsGone(err) || errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// call makes one call to the shim of a sandbox, up to the usual deadline.
func (c *Shims) call(ctx context.Context, ns ident.Namespace, id, method string, req, resp proto.Message) error {
	s, err := c.shims.Get(ns, id)
	if err != nil {
		return err
	}
	return s.Call(ctx, service, method, c.timeouts.Call, req, resp)
}

// Create starts the shim of a sandbox. On failure nothing is left behind.
func (c *Shims) Create(ctx context.Context, ns ident.Namespace, opts CreateOpts) (err error) {
	sb := opts.Sandbox
	options := opts.Options
	if options == nil {
		options = sb.Runtime.Options
	}
	s, err := c.shims.Start(ctx, ns, sb.ID, task.StartOpts{Spec: sb.Spec, Runtime: sb.Runtime.Name, Options: options})
	if errdefs.IsAlreadyExists(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: start shim: %w", sb.ID, err)
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.timeouts.Cleanup)
			defer cancel()
			err = errors.Join(err, c.shims.Abandon(ctx, s))
		}
	}()
	err = s.Call(ctx, service, "CreateSandbox", c.timeouts.Call, &sandboxapi.CreateSandboxRequest{
		SandboxID: sb.ID, BundlePath: s.Bundle(), Rootfs: mountproto.Of(opts.Rootfs), Options: options,
		NetnsPath: opts.NetNSPath, Annotations: opts.Annotations,
	}, &sandboxapi.CreateSandboxResponse{})
	if err != nil {
		return fmt.Errorf("sandbox %s: create: %w", sb.ID, err)
	}
	return nil
}

// Start runs a sandbox that was created. One that cannot be started is gone
// afterwards.
func (c *Shims) Start(ctx context.Context, ns ident.Namespace, id string) (Instance, error) {
	s, err := c.shims.Get(ns, id)
	if err != nil {
		return Instance{}, err
	}
	var r sandboxapi.StartSandboxResponse
	err = s.Call(ctx, service, "StartSandbox", c.timeouts.Call, &sandboxapi.StartSandboxRequest{SandboxID: id}, &r)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.timeouts.Cleanup)
		defer cancel()
		return Instance{}, errors.Join(fmt.Errorf("sandbox %s: start: %w", id, err), c.shims.Abandon(ctx, s))
	}
	return Instance{Pid: r.Pid, CreatedAt: timeOf(r.CreatedAt), Endpoint: s.Endpoint(), Spec: r.Spec}, nil
}

// Platform is what the containers of the sandbox run on.
func (c *Shims) Platform(ctx context.Context, ns ident.Namespace, id string) (*types.Platform, error) {
	var r sandboxapi.PlatformResponse
	err := c.call(ctx, ns, id, "Platform", &sandboxapi.PlatformRequest{SandboxID: id}, &r)
	return r.Platform, err
}

// Stop ends the processes of a sandbox, which may take until timeout. One
// that is not there is stopped.
func (c *Shims) Stop(ctx context.Context, ns ident.Namespace, id string, timeout time.Duration) error {
	s, err := c.shims.Get(ns, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	req := &sandboxapi.StopSandboxRequest{SandboxID: id, TimeoutSecs: uint32(timeout / time.Second)}
	err = s.Call(ctx, service, "StopSandbox", c.timeouts.Call+timeout, req, &sandboxapi.StopSandboxResponse{})
	if task.IsGone(err) || errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Wait returns when a sandbox has ended, also by the death of its shim.
func (c *Shims) Wait(ctx context.Context, ns ident.Namespace, id string) (Exit, error) {
	s, err := c.shims.Get(ns, id)
	if err != nil {
		return Exit{}, err
	}
	var r sandboxapi.WaitSandboxResponse
	err = s.Call(ctx, service, "WaitSandbox", 0, &sandboxapi.WaitSandboxRequest{SandboxID: id}, &r)
	if task.IsGone(err) {
		e, err := c.shims.AwaitBurial(ctx, s)
		return Exit{e.Status, e.At}, err
	}
	return Exit{r.ExitStatus, timeOf(r.ExitedAt)}, err
}

// Status describes a sandbox. One that is not there has ended: that is no
// error.
func (c *Shims) Status(ctx context.Context, ns ident.Namespace, id string, verbose bool) (Status, error) {
	s, err := c.shims.Get(ns, id)
	if errdefs.IsNotFound(err) {
		return Status{ExitedAt: time.Now().UTC()}, nil
	}
	if err != nil {
		return Status{}, err
	}
	var r sandboxapi.SandboxStatusResponse
	err = s.Call(ctx, service, "SandboxStatus", c.timeouts.Call, &sandboxapi.SandboxStatusRequest{SandboxID: id, Verbose: verbose}, &r)
	if task.IsGone(err) {
		return Status{ExitedAt: time.Now().UTC()}, nil
	}
	if err != nil {
		return Status{}, err
	}
	return Status{
		Pid: r.Pid, State: r.State, Info: r.Info, Extra: r.Extra, Endpoint: s.Endpoint(),
		CreatedAt: timeOf(r.CreatedAt), ExitedAt: timeOf(r.ExitedAt),
	}, nil
}

// timeOf converts a time from the wire, where none is nil.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Shutdown ends the shim of a sandbox and removes its bundle. One that is not
// there is shut down.
func (c *Shims) Shutdown(ctx context.Context, ns ident.Namespace, id string) error {
	s, err := c.shims.Get(ns, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeouts.Call)
	defer cancel()
	if err := c.shims.Retire(ctx, s, c.shutdown); err != nil {
		return fmt.Errorf("sandbox %s: shutdown: %w", id, err)
	}
	return nil
}

// Metrics returns the counters of a sandbox.
func (c *Shims) Metrics(ctx context.Context, ns ident.Namespace, id string) (*types.Metric, error) {
	s, err := c.shims.Get(ns, id)
	if err != nil {
		return nil, err
	}
	var r sandboxapi.SandboxMetricsResponse
	err = s.Call(ctx, service, "SandboxMetrics", c.timeouts.Stats, &sandboxapi.SandboxMetricsRequest{SandboxID: id}, &r)
	return r.Metrics, err
}

// Update does nothing: a shim has no call for it.
func (c *Shims) Update(context.Context, ident.Namespace, meta.Sandbox, []string) error { return nil }
