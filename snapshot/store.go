// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"

	"slipway/internal/ident"
	"slipway/internal/mount"
)

// A driver shows the snapshots of a Store, whose files are below
// <root>/snapshots/<id>.
type driver interface {
	// fill makes the files of a new snapshot in the empty directory dir.
	// parent is the id of its parent, 0 if it has none.
	fill(ctx context.Context, dir string, info Info, parent uint64) error
	mounts(n node) []mount.Mount
	// written is the directory of what the snapshot itself holds.
	written(id uint64) string
	capabilities() []string
}

// Store is a Snapshotter that keeps its files in a directory:
//
//	metadata.db        the tree
//	snapshots/<id>     files of one snapshot
//	snapshots/new-*    one that is being made
//
// A directory whose id is not in the tree is garbage; Cleanup removes it.
type Store struct {
	root   string
	tree   *tree
	driver driver
	sync   bool // Remove waits for the files to be gone
}

func openStore(root string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(root, "snapshots"), 0o700); err != nil {
		return nil, err
	}
	t, err := openTree(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	unfinished, err := filepath.Glob(filepath.Join(root, "snapshots", "new-*"))
	if err != nil {
		t.db.Close()
		return nil, err
	}
	for _, dir := range unfinished { // a crash left them: the database is locked for one process
		if err := os.RemoveAll(dir); err != nil {
			t.db.Close()
			return nil, err
		}
	}
	return &Store{root: root, tree: t}, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.tree.db.Close() }

// Root is the directory of the store.
func (s *Store) Root() string { return s.root }

// Capabilities are what clients may ask for beyond the ordinary.
func (s *Store) Capabilities() []string { return s.driver.capabilities() }

func (s *Store) dir(id uint64) string {
	return filepath.Join(s.root, "snapshots", strconv.FormatUint(id, 10))
}

// Stat describes a snapshot.
func (s *Store) Stat(_ context.Context, key string) (Info, error) {
	n, err := s.tree.get(key)
	return n.Info, err
}

// Update changes labels.
func (s *Store) Update(_ context.Context, info Info, fields ...string) (Info, error) {
	if err := ident.CheckLabels(info.Labels); err != nil {
		return Info{}, err
	}
	n, err := s.tree.setLabels(info, fields)
	return n.Info, err
}

// Usage walks what an active snapshot holds; of a committed one it was
// stored.
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	n, err := s.tree.get(key)
	if err != nil || n.Kind == Committed {
		return n.usage, err
	}
	if n.Kind == View {
		return Usage{}, nil
	}
	return s.measure(ctx, n.id)
}

func (s *Store) measure(ctx context.Context, id uint64) (Usage, error) {
	u, err := fs.DiskUsage(ctx, s.driver.written(id))
	return Usage{Inodes: u.Inodes, Size: u.Size}, err
}

// Mounts shows an active snapshot or a view again.
func (s *Store) Mounts(_ context.Context, key string) ([]mount.Mount, error) {
	n, err := s.tree.get(key)
	if err != nil {
		return nil, err
	}
	if n.Kind == Committed {
		return nil, fmt.Errorf("snapshot %v is committed, it has no mounts: %w", key, errdefs.ErrFailedPrecondition)
	}
	return s.driver.mounts(n), nil
}

// Prepare makes an active snapshot.
func (s *Store) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, Info{Kind: Active, Name: key, Parent: parent, Labels: labels})
}

// View makes a view.
func (s *Store) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, Info{Kind: View, Name: key, Parent: parent, Labels: labels})
}

func (s *Store) create(ctx context.Context, info Info) (_ []mount.Mount, err error) {
	if info.Name == "" {
		return nil, fmt.Errorf("snapshot key must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckLabels(info.Labels); err != nil {
		return nil, err
	}
	parent, err := s.parentID(info)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, "snapshots"), "new-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := s.driver.fill(ctx, dir, info, parent); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", info.Name, err)
	}
	var placed string
	n, err := s.tree.create(info, func(n node) error {
		placed = s.dir(n.id)
		return os.Rename(dir, placed)
	})
	if err != nil && placed != "" {
		os.RemoveAll(placed)
	}
	if err != nil {
		return nil, err
	}
	return s.driver.mounts(n), nil
}

// parentID fails early for what create would refuse, before files are made.
func (s *Store) parentID(info Info) (uint64, error) {
	if _, err := s.tree.get(info.Name); err == nil {
		return 0, fmt.Errorf("snapshot %q: %w", info.Name, errdefs.ErrAlreadyExists)
	}
	if info.Parent == "" {
		return 0, nil
	}
	p, err := s.tree.get(info.Parent)
	if err != nil {
		return 0, err
	}
	if p.Kind != Committed {
		return 0, fmt.Errorf("parent %q is not committed snapshot: %w", info.Parent, errdefs.ErrInvalidArgument)
	}
	return p.id, nil
}

// Commit makes an active snapshot immutable.
func (s *Store) Commit(ctx context.Context, name, key string, opts CommitOpts) error {
	if name == "" {
		return fmt.Errorf("snapshot name must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckLabels(opts.Labels); err != nil {
		return err
	}
	n, err := s.tree.get(key)
	if err != nil {
		return err
	}
	if opts.Parent != "" && !canRebase(s.driver) {
		return fmt.Errorf("snapshot %v: commit onto another parent: %w", key, errdefs.ErrNotImplemented)
	}
	usage, err := s.measure(ctx, n.id)
	if err != nil {
		return err
	}
	return s.tree.commit(name, key, usage, opts)
}

func canRebase(d driver) bool {
	for _, c := range d.capabilities() {
		if c == "rebase" {
			return true
		}
	}
	return false
}

// Remove forgets a snapshot. Its files stay for Cleanup.
func (s *Store) Remove(_ context.Context, key string) error {
	n, err := s.tree.remove(key)
	if err != nil || !s.sync {
		return err
	}
	return os.RemoveAll(s.dir(n.id))
}

// Walk calls fn for the snapshots that match.
func (s *Store) Walk(ctx context.Context, fn func(Info) error, filters ...string) error {
	return s.tree.walk(ctx, fn, filters)
}

// Cleanup removes the files that no snapshot owns. The tree is held only
// while they are listed; an id is never used again, so what is garbage once
// stays so.
func (s *Store) Cleanup(ctx context.Context) error {
	var garbage []string
	err := s.tree.ids(func(used map[uint64]bool) error {
		entries, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
		for _, e := range entries {
			id, perr := strconv.ParseUint(e.Name(), 10, 64)
			if perr == nil && !used[id] || strings.HasPrefix(e.Name(), "rm-") {
				garbage = append(garbage, e.Name())
			}
		}
		return err
	})
	errs := []error{err}
	for _, name := range garbage {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, os.RemoveAll(filepath.Join(s.root, "snapshots", name)))
	}
	return errors.Join(errs...)
}
