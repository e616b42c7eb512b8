// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/containerd/errdefs"

	"slipway/internal/ident"
)

type shimKey struct {
	ns ident.Namespace
	id string
}

// Shims starts shims whose bundles are below one directory, finds them again
// after a restart, and cleans up after those that died.
//
// A name is in one of three states, and only who reserves it touches its
// bundle:
//
//	free ──Start, Load──▶ reserved ──▶ running ──Remove, loss──▶ reserved ──▶ free
type Shims struct {
	kind string
	cfg  Config
	log  *slog.Logger
	find finder
	// lost is told when a shim died and its remains are gone.
	lost func(ns ident.Namespace, id string, exit Exit)

	work sync.WaitGroup // a goroutine for each connection
	done chan struct{}  // closed by Close

	mu     sync.Mutex
	closed bool
	all    map[shimKey]*Shim // nil while reserved
}

// NewShims makes the directories. kind, such as "task", is for messages; lost
// is called when a shim died and nothing of it is left.
func NewShims(kind string, cfg Config, lost func(ns ident.Namespace, id string, exit Exit)) (*Shims, error) {
	cfg.Timeouts = cfg.Timeouts.orDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Stderr == nil {
		cfg.Stderr = os.Stderr
	}
	for _, dir := range []string{cfg.State, cfg.Root} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("%s shims: %w", kind, err)
		}
	}
	return &Shims{
		kind: kind, cfg: cfg, log: cfg.Log, lost: lost, done: make(chan struct{}),
		find: finder{daemon: cfg.Binary, found: map[string]string{}}, all: map[shimKey]*Shim{},
	}, nil
}

// Timeouts are those of the configuration with the defaults filled in.
func (x *Shims) Timeouts() Timeouts { return x.cfg.Timeouts }

// Close disconnects from the shims, which go on.
func (x *Shims) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	close(x.done)
	all := x.all
	x.all = map[shimKey]*Shim{}
	x.mu.Unlock()
	for _, s := range all {
		if s != nil {
			s.close()
		}
	}
	x.work.Wait()
	return nil
}

// Get finds a running shim. The error is errdefs.ErrNotFound.
func (x *Shims) Get(ns ident.Namespace, id string) (*Shim, error) {
	if err := ns.Check(); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.all[shimKey{ns, id}]; s != nil {
		return s, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s %s not found", x.kind, id))
}

// list returns the running shims of a namespace.
func (x *Shims) list(ns ident.Namespace) (list []*Shim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, s := range x.all {
		if k.ns == ns && s != nil {
			list = append(list, s)
		}
	}
	return list
}

// shared reports whether another one uses the shim's process.
func (x *Shims) shared(b bundle, address string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for k, s := range x.all {
		if s != nil && k != (shimKey{b.ns, b.id}) && s.endpoint.Address == address {
			return true
		}
	}
	return false
}

func (x *Shims) reserve(b bundle) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return fmt.Errorf("%s %s: the daemon stops: %w", x.kind, b.id, errdefs.ErrUnavailable)
	}
	k := shimKey{b.ns, b.id}
	if _, taken := x.all[k]; taken {
		return fmt.Errorf("%s %s: %w", x.kind, b.id, errdefs.ErrAlreadyExists)
	}
	x.all[k] = nil
	return nil
}

// put makes a shim with a reserved name known and watches its connection.
func (x *Shims) put(s *Shim) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return fmt.Errorf("%s %s: the daemon stops: %w", x.kind, s.b.id, errdefs.ErrUnavailable)
	}
	x.all[shimKey{s.b.ns, s.b.id}] = s
	x.work.Go(func() {
		<-s.gone
		x.bury(s)
	})
	return nil
}

// take reserves the name of a running shim for its removal. It reports false
// if somebody else does that already.
func (x *Shims) take(s *Shim) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	k := shimKey{s.b.ns, s.b.id}
	if x.all[k] != s {
		return false
	}
	x.all[k] = nil
	return true
}

func (x *Shims) free(b bundle) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.all, shimKey{b.ns, b.id})
}
