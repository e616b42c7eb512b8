// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/fault"
	"slipway/internal/ident"
)

// A Shim is a connection to the process that is the parent of a task, or that
// runs a sandbox.
type Shim struct {
	kind     string // "task" or "sandbox", for messages
	b        bundle
	endpoint Endpoint
	attached bool // to the shim of a sandbox, which other tasks use too
	conn     conn
	log      *logPipe      // nil if attached
	gone     chan struct{} // closed when the connection has ended
	removed  chan struct{} // closed after all of it is gone and its name is free
	exit     *Exit         // of the container of a shim that died, set before that

	mu      sync.Mutex
	first   process // of the container, zero if it is not known
	streams Stdio   // of that, empty if they are not known
}

// Bundle is the directory of the shim.
func (s *Shim) Bundle() string { return s.b.path }

// ID is the id of the task or sandbox.
func (s *Shim) ID() string { return s.b.id }

// Endpoint is where the shim serves.
func (s *Shim) Endpoint() Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoint
}

// downgrade makes the calls that follow those of an older API.
func (s *Shim) downgrade(version int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoint.Version = version
}

// remember notes which process is the container's first, while the shim
// vouches for it.
func (s *Shim) remember() {
	p, err := s.b.firstProcess()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = p
}

func (s *Shim) firstProcess() process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

func (s *Shim) close() {
	s.conn.Close()
	if s.log != nil {
		s.log.close()
	}
}

// StartOpts says which shim to start.
type StartOpts struct {
	Spec        *anypb.Any
	Runtime     string // such as io.containerd.runc.v2
	RuntimePath string // absolute path of the shim, overrides Runtime
	Options     *anypb.Any
	// Endpoint, if it has an address, is the shim of the sandbox Sandbox,
	// which is used instead of starting one.
	Endpoint Endpoint
	Sandbox  string
}

// Start makes a bundle, starts the shim in it and connects. On failure
// nothing is left behind.
func (x *Shims) Start(ctx context.Context, ns ident.Namespace, id string, opts StartOpts) (s *Shim, err error) {
	b := x.bundle(ns, id)
	if err := x.reserve(b); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.free(b)
		}
	}()
	if err := b.make(opts.Spec.GetValue()); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	if opts.Endpoint.Address != "" {
		s, err = x.attach(ctx, b, opts)
	} else {
		s, err = x.launch(ctx, b, opts)
	}
	if err != nil {
		return nil, err
	}
	if err := x.put(s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// attach connects to the running shim of a sandbox.
func (x *Shims) attach(ctx context.Context, b bundle, opts StartOpts) (*Shim, error) {
	if err := os.WriteFile(b.file(fileSandbox), []byte(opts.Sandbox), 0o600); err != nil {
		return nil, err
	}
	if err := b.record(opts.Endpoint); err != nil {
		return nil, err
	}
	fault.Point("task.shim.recorded")
	return x.connect(ctx, b, opts.Endpoint)
}

func (x *Shims) launch(ctx context.Context, b bundle, opts StartOpts) (s *Shim, err error) {
	bin, err := x.find.binary(opts.Runtime, opts.RuntimePath)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(b.file(fileBinary), []byte(bin), 0o600); err != nil {
		return nil, err
	}
	log, err := b.openLog(x.cfg.Stderr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			x.clean(context.WithoutCancel(ctx), b, process{})
			log.close()
		}
	}()
	e, err := x.start(ctx, bin, b, opts.Options)
	if err != nil {
		return nil, err
	}
	fault.Point("task.shim.started")
	if err := b.record(e); err != nil {
		return nil, err
	}
	fault.Point("task.shim.recorded")
	if s, err = x.connect(ctx, b, e); err != nil {
		return nil, err
	}
	s.log = log
	return s, nil
}

func (x *Shims) connect(ctx context.Context, b bundle, e Endpoint) (*Shim, error) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.Timeouts.Load)
	defer cancel()
	s := &Shim{
		kind: x.kind, b: b, endpoint: e, attached: b.read(fileSandbox) != "",
		gone: make(chan struct{}), removed: make(chan struct{}),
	}
	c, err := dial(ctx, e, sync.OnceFunc(func() { close(s.gone) }))
	if err != nil {
		return nil, fmt.Errorf("connect to shim: %w", err)
	}
	s.conn = c
	fault.Point("task.shim.connected")
	return s, nil
}
