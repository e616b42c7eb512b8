// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"io"
	"log/slog"
	"time"

	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
)

// Config is what a Manager stands on.
type Config struct {
	State string // directory of the bundles, <state>/io.containerd.runtime.v2.task
	Root  string // directory of their working directories, <root>/io.containerd.runtime.v2.task

	DB     *meta.DB
	Events *event.Exchange

	Address      string   // the daemon's gRPC socket, for shims
	TTRPCAddress string   // the daemon's ttrpc socket, for shims
	SocketDir    string   // where shims put their sockets, empty for their own default
	Env          []string // added to the environment of shims
	Binary       string   // the daemon's executable

	DefaultRuntime string // for containers without one, io.containerd.runc.v2 if empty
	LogLevel       slog.Level
	Log            *slog.Logger // nil for the default logger
	Stderr         io.Writer    // gets what shims log, nil for the process's own

	Timeouts  Timeouts
	Sandboxes Sandboxes // nil if there are none
	Mounts    Mounts    // nil if all mounts are left to shims
	// Admit says whether a task may be made of a container of that image, empty
	// if it has none. Nil admits all.
	Admit func(ctx context.Context, ns ident.Namespace, image string) error
}

// Timeouts bounds the waiting for shims. A zero field stands for the default.
type Timeouts struct {
	State    time.Duration // io.containerd.timeout.task.state, 2 s
	Stats    time.Duration // io.containerd.timeout.metrics.shimstats, 2 s
	Load     time.Duration // io.containerd.timeout.shim.load, 5 s
	Shutdown time.Duration // io.containerd.timeout.shim.shutdown, 3 s
	Cleanup  time.Duration // io.containerd.timeout.shim.cleanup, 5 s
	Kill     time.Duration // how long a shim may take to pass a signal on, 10 s
	Call     time.Duration // any other call, 2 min
}

// Sandboxes finds the task service of a sandbox. The error of an unknown
// sandbox is errdefs.ErrNotFound.
type Sandboxes interface {
	Endpoint(ctx context.Context, ns ident.Namespace, id string) (Endpoint, error)
}

// orDefaults fills in what the configuration leaves out.
func (t Timeouts) orDefaults() Timeouts {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.State, 2 * time.Second},
		{&t.Stats, 2 * time.Second},
		{&t.Load, 5 * time.Second},
		{&t.Shutdown, 3 * time.Second},
		{&t.Cleanup, 5 * time.Second},
		{&t.Kill, 10 * time.Second},
		{&t.Call, 2 * time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return t
}
