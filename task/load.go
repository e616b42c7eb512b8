// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"slipway/internal/ident"
)

// loadLimit bounds how many shims are asked at once: enough that those which
// do not answer hold up nobody.
const loadLimit = 64

// A verdict says what to do with a shim that was found.
type verdict int

const (
	keep   verdict = iota // it runs, or does not answer now
	leaked                // it runs, and has nothing to do
	dead                  // it is gone
)

// Load finds the shims of an earlier daemon again and cleans up after those
// that are gone. inspect asks a shim for its object: an error that is
// errdefs.ErrNotFound says that the shim has none; dismiss then ends the shim.
func (x *Shims) Load(ctx context.Context, inspect, dismiss func(context.Context, *Shim) error) error {
	spaces, err := os.ReadDir(x.cfg.State)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(loadLimit)
	for _, space := range spaces {
		ns := ident.Namespace(space.Name())
		if !space.IsDir() || ns.Check() != nil {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(x.cfg.State, space.Name()))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			b := x.bundle(ns, e.Name())
			g.Go(func() error {
				x.loadLogged(ctx, b, inspect, dismiss)
				return nil
			})
		}
	}
	g.Wait()
	return x.sweep(ctx)
}

// loadLogged loads one bundle; a bad one must not keep the daemon from
// starting.
func (x *Shims) loadLogged(ctx context.Context, b bundle, inspect, dismiss func(context.Context, *Shim) error) {
	if err := x.load(ctx, b, inspect, dismiss); err != nil {
		x.log.Error(x.kind+": load", "namespace", b.ns, "id", b.id, "error", err)
	}
}

func (x *Shims) load(ctx context.Context, b bundle, inspect, dismiss func(context.Context, *Shim) error) (err error) {
	if strings.HasPrefix(b.id, ".") {
		return discardHidden(b.path)
	}
	if err := os.Remove(b.path); err == nil { // it was empty
		return nil
	}
	if err := x.reserve(b); err != nil {
		return err
	}
	s, v, err := x.reconnect(ctx, b, inspect)
	if err != nil {
		x.log.Warn(x.kind+": load", "namespace", b.ns, "id", b.id, "error", err)
	}
	switch v {
	case keep:
		s.remember()
		return x.put(s)
	case leaked:
		err = dismiss(ctx, s)
		s.close()
	case dead:
		err = nil
		exit := x.clean(ctx, b, process{})
		defer x.lost(b.ns, b.id, exit)
	}
	defer x.free(b)
	return errors.Join(err, b.remove())
}

// reconnect connects to the shim of a bundle and judges it. The error says
// why it is not simply kept.
func (x *Shims) reconnect(ctx context.Context, b bundle, inspect func(context.Context, *Shim) error) (*Shim, verdict, error) {
	e, err := b.endpoint()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, dead, errors.New("the daemon ended before the shim had started")
	}
	if err != nil {
		return nil, dead, err
	}
	s, err := x.connect(ctx, b, e)
	if err != nil {
		return nil, dead, err
	}
	if !s.attached {
		if s.log, err = b.openLog(x.cfg.Stderr); err != nil {
			x.log.Warn(x.kind+": what the shim logs is lost", "namespace", b.ns, "id", b.id, "error", err)
		}
	}
	switch err := inspect(ctx, s); {
	case errdefs.IsNotFound(err):
		return s, leaked, err
	case errors.Is(err, errGone):
		s.close()
		return nil, dead, err
	default: // also one that does not answer: its container may be well
		return s, keep, err
	}
}

// sweep removes working directories without a bundle.
func (x *Shims) sweep(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(x.cfg.Root, "*", "*"))
	if err != nil {
		return err
	}
	hidden, err := filepath.Glob(filepath.Join(x.cfg.Root, "*", ".*"))
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, hidden...) {
		ns, id := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
		b := x.bundle(ident.Namespace(ns), id)
		if _, err := os.Lstat(b.path); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := x.sweepOne(b); err != nil {
			return fmt.Errorf("working directory %s: %w", dir, err)
		}
	}
	return ctx.Err()
}

func (x *Shims) sweepOne(b bundle) error {
	if strings.HasPrefix(b.id, ".") {
		return os.RemoveAll(b.work)
	}
	if x.reserve(b) != nil { // a task is being created
		return nil
	}
	defer x.free(b)
	return discard(b.work)
}
