// SPDX-License-Identifier: Apache-2.0

// Package mounts activates mounts that the kernel cannot perform as they are:
// a snapshotter may ask for directories or file systems to be made first, for
// an image to be mounted by itself, or for a mount that names the mount points
// of others.
//
// The type of such a mount is <transform>/…/<type>. An activation is a list of
// mounts under a name: its active mounts are performed here, below the
// directory of the manager; its system mounts are left to the caller, with
// all transforms done, or a bind mount of the last active one if none is left.
// Plain mounts need no activation, and get none.
package mounts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/database"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
)

// Active is a mount that was performed. Of one found again after a restart
// only the type is known.
type Active struct {
	mount.Mount
	Point string
	At    time.Time
}

// Info describes an activation.
type Info struct {
	Name   string
	Active []Active
	System []mount.Mount
	Labels map[string]string
}

// Config is what a Manager stands on.
type Config struct {
	State string // directory of the database and the mount points
	// Roots are the directories below which transforms may make files, beside
	// the mount points.
	Roots []string
	// DB tells which of the objects that activations are tied to exist.
	DB          *meta.DB
	OpenTimeout time.Duration // how long another process may hold the database, 0 for ever
}

// Manager keeps the activations of all namespaces. Use Open.
type Manager struct {
	config Config
	bolt   *database.DB
	roots  []string

	mu   sync.Mutex
	busy map[activation]bool // being activated or deactivated
}

// maxMounts is what the indices of the database can tell apart.
const maxMounts = 256

// activation identifies one.
type activation struct {
	ns   ident.Namespace
	name string
}

// Open opens the database, and clears away what a crash left without a record
// and the records of mounts that are gone. Collections of c.DB take the
// activations whose ties are gone.
func Open(c Config) (_ *Manager, err error) {
	m := &Manager{config: c, busy: map[activation]bool{}}
	if err := os.MkdirAll(m.points(), 0o700); err != nil {
		return nil, err
	}
	m.roots = append([]string{m.points()}, c.Roots...)
	m.bolt, err = database.Open(filepath.Join(c.State, "mounts.db"), 0o600, bolt.Options{Timeout: c.OpenTimeout})
	if err != nil {
		return nil, fmt.Errorf("database of mounts in %s: %w", c.State, err)
	}
	if err := m.sync(); err != nil {
		m.bolt.Close()
		return nil, fmt.Errorf("mounts in %s: %w", c.State, err)
	}
	if c.DB != nil {
		c.DB.AfterGC(m.collect)
	}
	return m, nil
}

// Close closes the database; what is mounted stays.
func (m *Manager) Close() error { return m.bolt.Close() }

func (m *Manager) points() string { return filepath.Join(m.config.State, "t") }

func (m *Manager) dir(id uint64) string {
	return filepath.Join(m.points(), strconv.FormatUint(id, 10))
}

// claim takes a name for one change at a time.
func (m *Manager) claim(a activation) (release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy[a] {
		return nil, fmt.Errorf("mount activation %q is being changed: %w", a.name, errdefs.ErrUnavailable)
	}
	m.busy[a] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.busy, a)
	}, nil
}

// Options changes Activate; the zero value is the default.
type Options struct {
	Labels map[string]string
	// Temporary performs all mounts, plain ones too. What is left to the caller
	// is a bind mount of the last one.
	Temporary bool
}

// Activate performs what of mounts cannot be left to the caller. It is
// errdefs.ErrNotImplemented if all can be, and errdefs.ErrAlreadyExists if the
// name is taken.
func (m *Manager) Activate(ctx context.Context, scope ident.Scope, name string, mounts []mount.Mount, opts Options) (info Info, err error) {
	if err := checkActivation(scope, name, opts.Labels); err != nil {
		return Info{}, err
	}
	if len(mounts) > maxMounts {
		return Info{}, fmt.Errorf("mount activation %q of %d mounts: %w", name, len(mounts), errdefs.ErrInvalidArgument)
	}
	first, needed := firstSystem(mounts)
	if opts.Temporary {
		first, needed = len(mounts), len(mounts) > 0
	}
	if !needed {
		return Info{}, fmt.Errorf("mounts of %q need no activation: %w", name, errdefs.ErrNotImplemented)
	}
	a := activation{scope.Namespace, name}
	release, err := m.claim(a)
	if err != nil {
		return Info{}, err
	}
	defer release()
	id, err := m.begin(a, scope.Lease, opts.Labels)
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.undo(id), m.forget(a))
		}
	}()
	info = Info{Name: name, Labels: opts.Labels}
	if err := m.perform(ctx, id, mounts, first, &info); err != nil {
		return Info{}, fmt.Errorf("mount activation %q: %w", name, err)
	}
	if first == len(mounts) { // the caller gets what the last one shows
		info.System = []mount.Mount{{Type: "bind", Source: info.Active[first-1].Point, Options: []string{"rbind"}}}
	}
	return info, m.complete(a, info)
}

func checkActivation(scope ident.Scope, name string, labels map[string]string) error {
	if err := scope.Namespace.Check(); err != nil {
		return err
	}
	if name == "" || len(name) > bolt.MaxKeySize {
		return fmt.Errorf("name of a mount activation has %d bytes: %w", len(name), errdefs.ErrInvalidArgument)
	}
	return ident.CheckLabels(labels)
}

// perform mounts those before first and prepares the others for the caller.
func (m *Manager) perform(ctx context.Context, id uint64, mounts []mount.Mount, first int, info *Info) error {
	if err := os.Mkdir(m.dir(id), 0o700); err != nil {
		return err
	}
	for i, mt := range mounts {
		plain, err := m.transform(ctx, mt, info.Active)
		if err != nil {
			return err
		}
		if i >= first {
			info.System = append(info.System, plain)
			continue
		}
		point := filepath.Join(m.dir(id), strconv.Itoa(i+1))
		if err := os.Mkdir(point, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(point+"-type", []byte(plain.Type), 0o600); err != nil {
			return err
		}
		if err := mount.All([]mount.Mount{plain}, point); err != nil {
			return err
		}
		info.Active = append(info.Active, Active{Mount: plain, Point: point, At: time.Now().UTC()})
	}
	return nil
}

// undo takes off the mounts of an activation, the last first, and removes its
// directories one by one: should a mount stay, nothing in it can be deleted.
func (m *Manager) undo(id uint64) error {
	dir := m.dir(id)
	if err := mount.UnmountRecursive(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// Deactivate takes the active mounts of a name off.
func (m *Manager) Deactivate(_ context.Context, ns ident.Namespace, name string) error {
	if err := ns.Check(); err != nil {
		return err
	}
	a := activation{ns, name}
	release, err := m.claim(a)
	if err != nil {
		return err
	}
	defer release()
	id, err := m.id(a)
	if err != nil {
		return err
	}
	if err := m.undo(id); err != nil {
		return fmt.Errorf("mount activation %q: %w", name, err)
	}
	return m.forget(a)
}

// With performs mounts, whatever they need, at a temporary directory in dir
// while fn runs.
func (m *Manager) With(ctx context.Context, ns ident.Namespace, dir string, mounts []mount.Mount, fn func(root string) error) (err error) {
	if _, needed := firstSystem(mounts); !needed {
		return mount.WithTemp(ctx, dir, mounts, fn)
	}
	name := "temporary-" + rand.Text()
	info, err := m.Activate(ctx, ident.Scope{Namespace: ns}, name, mounts, Options{Temporary: true})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, m.Deactivate(context.WithoutCancel(ctx), ns, name))
	}()
	return mount.WithTemp(ctx, dir, info.System, fn)
}

// Rootfs gives the mounts of a task's root file system that are left to its
// shim, having activated the others under the id of its container. They go
// with Deactivate, or with the container. What an earlier task of the
// container has left is replaced.
func (m *Manager) Rootfs(ctx context.Context, ns ident.Namespace, id string, mounts []mount.Mount) ([]mount.Mount, error) {
	scope := ident.Scope{Namespace: ns}
	opts := Options{Labels: map[string]string{labelBackRef + "container": id}}
	info, err := m.Activate(ctx, scope, id, mounts, opts)
	if errdefs.IsAlreadyExists(err) {
		if err := m.Deactivate(ctx, ns, id); err != nil {
			return nil, err
		}
		info, err = m.Activate(ctx, scope, id, mounts, opts)
	}
	if errdefs.IsNotImplemented(err) {
		return unactivated(mounts, err)
	}
	return info.System, err
}

// unactivated passes plain mounts on; those that ask for more must not be
// taken for such.
func unactivated(mounts []mount.Mount, err error) ([]mount.Mount, error) {
	if _, needed := firstSystem(mounts); needed {
		return nil, err
	}
	return mounts, nil
}
