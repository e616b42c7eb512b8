// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	diskfs "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/internal/mount"
)

// A driver keeps the files of the snapshots of a Store. Those of one snapshot
// are a directory, a file or a subvolume, at <home>/<id>.
type driver interface {
	// home is where the snapshots of a kind are, below the root.
	home(kind Kind) string
	// fill makes the files of a new snapshot at path, which is beside their
	// place and does not exist; nothing if the snapshot has none of its own.
	// parent is the id of its parent, 0 if it has none.
	fill(ctx context.Context, path string, info Info, parent uint64) error
	mounts(n node) ([]mount.Mount, error)
	usage(ctx context.Context, n node) (Usage, error)
	// seal prepares the commit of an active snapshot and measures it. What is
	// to be moved to <to> with the commit is made at stage, if anything is.
	seal(ctx context.Context, n node, stage string) (to string, usage Usage, err error)
	// settle removes what a snapshot that was committed does not need any more.
	// What it leaves goes with the snapshot, or by Cleanup.
	settle(n node)
	// discard removes the files of a snapshot, wherever they were moved to.
	discard(path string) error
	capabilities() []string
}

// Store is a Snapshotter that keeps its files in a directory:
//
//	metadata.db        the tree
//	snapshots/<id>     files of one snapshot
//	snapshots/new-*    what is being made
//	snapshots/rm-*     what is being removed
//
// Files are moved to their place, and out of it, in the transaction that
// records it; everything slow happens before or after. What is in a place that
// is not in the tree was left by a crash; Cleanup removes it.
type Store struct {
	root       string
	tree       *tree
	driver     driver
	sync       bool                // Remove waits for the files to be gone
	cumulative bool                // a stored usage includes that of the parents
	decorate   func(*Info, uint64) // adds what is not stored, nil for nothing
}

// An UnsupportedError says what the host or the configuration lacks for a
// snapshotter.
type UnsupportedError struct{ Reason string }

func (e *UnsupportedError) Error() string { return e.Reason }

// openStore opens the tree of a store that start completes.
func openStore(root string) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	t, err := openTree(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	return &Store{root: root, tree: t}, nil
}

// start gives the store its driver and removes what a crash left unfinished:
// the database is locked for one process.
func (s *Store) start(d driver) (_ *Store, err error) {
	defer func() {
		if err != nil {
			s.tree.db.Close()
		}
	}()
	s.driver = d
	for _, home := range s.homes() {
		if err := os.MkdirAll(home, 0o700); err != nil {
			return nil, err
		}
		unfinished, err := filepath.Glob(filepath.Join(home, stagePrefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, path := range unfinished {
			if err := d.discard(path); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// plain is what most drivers have in common: one directory of snapshots, which
// are removed file by file.
type plain struct{ store *Store }

func (plain) home(Kind) string { return "snapshots" }

func (plain) settle(node) {}

func (plain) discard(path string) error { return os.RemoveAll(path) }

func (plain) capabilities() []string { return nil }

// dir is the place of a snapshot of any kind.
func (p plain) dir(id uint64) string { return p.store.at(Committed, id) }

// homes are the directories of snapshots, each once.
func (s *Store) homes() []string {
	var all []string
	for _, k := range []Kind{Active, View, Committed} {
		all = append(all, filepath.Join(s.root, s.driver.home(k)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// stagePrefix names what is being made, trashPrefix what is to be removed.
const (
	stagePrefix = "new-"
	trashPrefix = "rm-"
)

// stage is a new name beside the files of snapshots of a kind.
func (s *Store) stage(kind Kind) string {
	return filepath.Join(s.root, s.driver.home(kind), stagePrefix+rand.Text())
}

// place moves new files to where their id says. A directory that is there was
// put by a process that died before the id was recorded: it is garbage. No file
// at stage means that there is nothing to move.
func place(stage, at string) error {
	if _, err := os.Lstat(stage); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := os.Rename(stage, at)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := trash(at); err != nil {
		return err
	}
	return os.Rename(stage, at)
}

// trash moves files out of their place.
func trash(at string) (moved string, err error) {
	moved = filepath.Join(filepath.Dir(at), trashPrefix+filepath.Base(at)+"-"+rand.Text())
	return moved, os.Rename(at, moved)
}

// Close closes the database.
func (s *Store) Close() error { return s.tree.db.Close() }

// Root is the directory of the store.
func (s *Store) Root() string { return s.root }

// Capabilities are what clients may ask for beyond the ordinary.
func (s *Store) Capabilities() []string { return s.driver.capabilities() }

// at is the place of a snapshot's files.
func (s *Store) at(kind Kind, id uint64) string {
	return filepath.Join(s.root, s.driver.home(kind), strconv.FormatUint(id, 10))
}

func (s *Store) info(n node, err error) (Info, error) {
	if err == nil && s.decorate != nil {
		s.decorate(&n.Info, n.id)
	}
	return n.Info, err
}

// Stat describes a snapshot.
func (s *Store) Stat(_ context.Context, key string) (Info, error) {
	return s.info(s.tree.get(key))
}

// Update changes labels.
func (s *Store) Update(_ context.Context, info Info, fields ...string) (Info, error) {
	if err := ident.CheckLabels(info.Labels); err != nil {
		return Info{}, err
	}
	return s.info(s.tree.setLabels(info, fields))
}

// Usage measures what an active snapshot holds; of a committed one it was
// stored.
func (s *Store) Usage(ctx context.Context, key string) (Usage, error) {
	n, err := s.tree.get(key)
	if err != nil || n.Kind == View {
		return Usage{}, err
	}
	u := n.usage
	if n.Kind == Active {
		if u, err = s.driver.usage(ctx, n); err != nil {
			return Usage{}, fmt.Errorf("snapshot %v: usage: %w", key, err)
		}
	}
	if s.cumulative && n.Parent != "" {
		p, err := s.tree.get(n.Parent)
		if err != nil {
			return Usage{}, err
		}
		u.Size -= p.usage.Size
	}
	return u, nil
}

// diskUsage measures what is at path.
func diskUsage(ctx context.Context, path string) (Usage, error) {
	u, err := diskfs.DiskUsage(ctx, path)
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
	return s.driver.mounts(n)
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
	stage := s.stage(info.Kind)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.driver.discard(stage))
		}
	}()
	if err := s.driver.fill(ctx, stage, info, parent); err != nil {
		return nil, fmt.Errorf("snapshot %q: %w", info.Name, err)
	}
	fault.Point("snapshot.create.filled")
	n, err := s.tree.create(info, func(n node) error {
		err := place(stage, s.at(n.Kind, n.id))
		fault.Point("snapshot.create.placed")
		return err
	})
	if err != nil {
		return nil, err // what was placed gives way to the next with that id
	}
	fault.Point("snapshot.create.recorded")
	return s.driver.mounts(n)
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
	if opts.Parent != "" && !slices.Contains(s.driver.capabilities(), "rebase") {
		return fmt.Errorf("snapshot %v: commit onto another parent: %w", key, errdefs.ErrNotImplemented)
	}
	if n.Kind != Active {
		return notActive(key)
	}
	if _, err := s.tree.get(name); err == nil {
		return nameTaken(name) // before the work; the transaction decides
	}
	return s.commit(ctx, name, n, opts)
}

// commit does what is slow before and after the transaction.
func (s *Store) commit(ctx context.Context, name string, n node, opts CommitOpts) (err error) {
	stage := s.stage(Committed)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.driver.discard(stage))
		}
	}()
	to, usage, err := s.driver.seal(ctx, n, stage)
	if err != nil {
		return fmt.Errorf("snapshot %v: %w", n.Name, err)
	}
	fault.Point("snapshot.commit.sealed")
	err = s.tree.commit(name, n, usage, opts, func() error {
		if to == "" {
			return nil
		}
		err := place(stage, to)
		fault.Point("snapshot.commit.placed")
		return err
	})
	if err != nil {
		return err
	}
	fault.Point("snapshot.commit.recorded")
	s.driver.settle(n)
	return nil
}

// Remove forgets a snapshot. Its files stay for Cleanup.
func (s *Store) Remove(_ context.Context, key string) error {
	n, err := s.tree.remove(key)
	if err != nil {
		return err
	}
	fault.Point("snapshot.remove.recorded")
	if !s.sync {
		return nil
	}
	return s.driver.discard(s.at(n.Kind, n.id))
}

// Walk calls fn for the snapshots that match.
func (s *Store) Walk(ctx context.Context, fn func(Info) error, filters ...string) error {
	return s.tree.walk(ctx, fn, s.decorate, filters)
}

// Cleanup removes the files that no snapshot owns. The tree is held only while
// they are found and moved out of their places, which new snapshots may get.
func (s *Store) Cleanup(ctx context.Context) error {
	var garbage []string
	err := s.tree.nodes(func(all []node) (err error) {
		garbage, err = s.sweep(all)
		return err
	})
	fault.Point("snapshot.cleanup.moved")
	errs := []error{err}
	for _, path := range garbage {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, s.driver.discard(path))
	}
	return errors.Join(errs...)
}

// sweep moves out of the way what is in the place of none of the snapshots and
// returns the paths of all that is to be removed.
func (s *Store) sweep(all []node) (garbage []string, err error) {
	used := make(map[string]bool)
	for _, n := range all {
		used[s.at(n.Kind, n.id)] = true
	}
	for _, home := range s.homes() {
		entries, err := os.ReadDir(home)
		if err != nil {
			return garbage, err
		}
		for _, e := range entries {
			path := filepath.Join(home, e.Name())
			if strings.HasPrefix(e.Name(), trashPrefix) {
				garbage = append(garbage, path)
				continue
			}
			if _, err := strconv.ParseUint(e.Name(), 10, 64); err != nil || used[path] {
				continue
			}
			moved, err := trash(path)
			switch {
			case err == nil:
				garbage = append(garbage, moved)
			case errors.Is(err, unix.ENOSPC): // a longer name may need a block
				if err := s.driver.discard(path); err != nil {
					return garbage, err
				}
			default:
				return garbage, err
			}
		}
	}
	return garbage, nil
}
