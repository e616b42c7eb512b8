// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/fault"
	"slipway/internal/filter"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/snapshot"
)

// labelTarget asks a snapshotter for a committed snapshot of that name
// instead of an empty one.
const labelTarget = "containerd.io/snapshot.ref"

// snapshots is a snapshotter for one namespace. Its keys are mapped to
// backend names <ns>/<number>/<key>.
type snapshots struct {
	db      *DB
	scope   ident.Scope
	name    string
	backend snapshot.Snapshotter
}

// Snapshotter returns the named snapshotter for a scope. An unknown name is
// errdefs.ErrInvalidArgument.
func (db *DB) Snapshotter(scope ident.Scope, name string) (snapshot.Snapshotter, error) {
	if name == "" {
		return nil, fmt.Errorf("snapshotter argument missing: %w", errdefs.ErrInvalidArgument)
	}
	b := db.backends[name]
	if b == nil {
		return nil, fmt.Errorf("snapshotter not loaded: %s: %w", name, errdefs.ErrInvalidArgument)
	}
	return &snapshots{db, scope, name, b}, nil
}

// record finds the bucket of a snapshot.
func (s *snapshots) record(tx *bolt.Tx, key string) *bolt.Bucket {
	return bucket(tx, s.scope.Namespace, bucketSnapshots, []byte(s.name), []byte(key))
}

func snapshotNotFound(key string) error {
	return fmt.Errorf("snapshot %v does not exist: %w", key, errdefs.ErrNotFound)
}

// entry is what the record of a snapshot says.
type entry struct {
	backend, parent  string
	labels           map[string]string
	created, updated time.Time
}

func readEntry(b *bolt.Bucket) entry {
	return entry{
		backend: string(b.Get(keyName)), parent: string(b.Get(keyParent)), labels: getMap(b, bucketLabels),
		created: getTime(b, keyCreated), updated: getTime(b, keyUpdated),
	}
}

func (s *snapshots) find(key string) (e entry, err error) {
	return e, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := s.record(tx, key)
		if b == nil {
			return snapshotNotFound(key)
		}
		e = readEntry(b)
		return nil
	})
}

// overlay puts what the record knows over what the backend says.
func (e entry) overlay(key string, info snapshot.Info) snapshot.Info {
	info.Name, info.Parent = key, e.parent
	info.CreatedAt, info.UpdatedAt = e.created, e.updated
	if info.Labels == nil {
		info.Labels = e.labels
	}
	for k, v := range e.labels {
		info.Labels[k] = v
	}
	return info
}

func (s *snapshots) Stat(ctx context.Context, key string) (snapshot.Info, error) {
	e, err := s.find(key)
	if err != nil {
		return snapshot.Info{}, err
	}
	info, err := s.backend.Stat(ctx, e.backend)
	if err != nil {
		return snapshot.Info{}, err
	}
	return e.overlay(key, info), nil
}

func (s *snapshots) Usage(ctx context.Context, key string) (snapshot.Usage, error) {
	e, err := s.find(key)
	if err != nil {
		return snapshot.Usage{}, err
	}
	return s.backend.Usage(ctx, e.backend)
}

func (s *snapshots) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	e, err := s.find(key)
	if err != nil {
		return nil, err
	}
	return s.backend.Mounts(ctx, e.backend)
}

func (s *snapshots) Update(ctx context.Context, info snapshot.Info, paths ...string) (snapshot.Info, error) {
	if err := ident.CheckLabels(info.Labels); err != nil {
		return snapshot.Info{}, err
	}
	if len(paths) == 0 {
		paths = []string{"labels"}
	}
	var e entry
	err := s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b := s.record(tx.Tx, info.Name)
		if b == nil {
			return snapshotNotFound(info.Name)
		}
		e = readEntry(b)
		set := fieldSetter{
			"labels":  func(string) { e.labels = info.Labels },
			"labels.": func(k string) { setKey(&e.labels, info.Labels, k) },
		}
		if err := set.apply("snapshot "+info.Name, paths); err != nil {
			return err
		}
		e.labels, e.updated = clean(e.labels), time.Now().UTC()
		tx.touch(s.node(info.Name))
		tx.deleted = true // a reference may be gone
		if err := putTime(b, keyUpdated, e.updated); err != nil {
			return err
		}
		return putMap(b, bucketLabels, e.labels)
	})
	if err != nil {
		return snapshot.Info{}, err
	}
	at, err := s.backend.Update(ctx, snapshot.Info{Name: e.backend, Labels: inherited(e.labels)})
	if err != nil {
		return snapshot.Info{}, err
	}
	return e.overlay(info.Name, at), nil
}

func (s *snapshots) node(key string) node {
	return node{kindSnapshot, s.scope.Namespace, s.name + "/" + key}
}

// inherited are the labels that concern a backend.
func inherited(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if k == labelTarget || strings.HasPrefix(k, "containerd.io/snapshot/") {
			out[k] = v
		}
	}
	return out
}

func (s *snapshots) Prepare(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, snapshot.Active, key, parent, labels)
}

func (s *snapshots) View(ctx context.Context, key, parent string, labels map[string]string) ([]mount.Mount, error) {
	return s.create(ctx, snapshot.View, key, parent, labels)
}

// create makes the snapshot in the backend and then records it.
func (s *snapshots) create(ctx context.Context, kind snapshot.Kind, key, parent string, labels map[string]string) (_ []mount.Mount, err error) {
	if err := ident.CheckLabels(labels); err != nil {
		return nil, err
	}
	if key == "" {
		return nil, fmt.Errorf("snapshot key must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	backend, backendParent, seq, err := s.reserve(key, parent)
	if err != nil {
		return nil, err
	}
	defer s.db.busy.hold(s.name + "/" + backend)()
	act := s.backend.Prepare
	if kind == snapshot.View {
		act = s.backend.View
	}
	mounts, err := act(ctx, backend, backendParent, inherited(labels))
	if errdefs.IsAlreadyExists(err) && labels[labelTarget] == "" {
		// A crash left it without a record; the next number is free.
		return s.create(ctx, kind, key, parent, labels)
	}
	if err != nil {
		return nil, err
	}
	fault.Point("meta.snapshot.prepared")
	now := time.Now().UTC()
	e := entry{backend: backend, parent: parent, labels: labels, created: now, updated: now}
	err = s.db.share(ctx, s.scope.Namespace, func(tx *tx) error {
		if s.record(tx.Tx, key) != nil {
			return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrAlreadyExists)
		}
		if err := s.add(tx, key, e, seq); err != nil {
			return err
		}
		if kind == snapshot.Active {
			tx.publish("/snapshot/prepare", &eventsapi.SnapshotPrepare{Key: key, Parent: parent, Snapshotter: s.name})
		}
		return nil
	})
	if err != nil {
		s.undo(ctx, backend)
		return nil, err
	}
	return mounts, nil
}

// undo removes a snapshot of the backend that got no record. If it cannot,
// the next collection does.
func (s *snapshots) undo(ctx context.Context, backend string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	s.backend.Remove(ctx, backend)
	s.db.mu.Lock()
	s.db.dirty["snapshots/"+s.name] = true
	s.db.mu.Unlock()
}

// reserve checks that key is free and gives it a backend name, which nothing
// else gets: numbers are stored with the record, and those given out since
// the start are remembered.
func (s *snapshots) reserve(key, parent string) (backend, backendParent string, seq uint64, err error) {
	err = s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		if s.record(tx, key) != nil {
			return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrAlreadyExists)
		}
		if parent != "" {
			p := s.record(tx, parent)
			if p == nil {
				return fmt.Errorf("parent snapshot %v does not exist: %w", parent, errdefs.ErrNotFound)
			}
			backendParent = string(p.Get(keyName))
		}
		if s.scope.Lease != "" && bucket(tx, s.scope.Namespace, bucketLeases, []byte(s.scope.Lease)) == nil {
			return fmt.Errorf("lease does not exist: %w", errdefs.ErrNotFound)
		}
		if all := bucket(tx, s.scope.Namespace, bucketSnapshots, []byte(s.name)); all != nil {
			seq = all.Sequence()
		}
		return nil
	})
	if err != nil {
		return "", "", 0, err
	}
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	counter := string(s.scope.Namespace) + "/" + s.name
	seq = max(seq, s.db.sequence[counter]) + 1
	s.db.sequence[counter] = seq
	return backendName(s.scope.Namespace, seq, key), backendParent, seq, nil
}

// add writes a record and what points to it.
func (s *snapshots) add(tx *tx, key string, e entry, seq uint64) error {
	if err := addToLease(tx, s.scope.Lease, Resource{"snapshots/" + s.name, key}); err != nil {
		return err
	}
	all, err := makeBucket(tx.Tx, tx.ns, bucketSnapshots, []byte(s.name))
	if err != nil {
		return err
	}
	if seq > all.Sequence() {
		if err := all.SetSequence(seq); err != nil {
			return err
		}
	}
	b, err := all.CreateBucket([]byte(key))
	if err != nil {
		return err
	}
	tx.touch(s.node(key))
	if err := putTimes(b, e.created, e.updated); err != nil {
		return err
	}
	if err := b.Put(keyName, []byte(e.backend)); err != nil {
		return err
	}
	if err := putMap(b, bucketLabels, e.labels); err != nil || e.parent == "" {
		return err
	}
	if err := b.Put(keyParent, []byte(e.parent)); err != nil {
		return err
	}
	return adopt(all, e.parent, key)
}

// adopt enters key among the children of parent.
func adopt(all *bolt.Bucket, parent, key string) error {
	p := all.Bucket([]byte(parent))
	if p == nil {
		return fmt.Errorf("parent snapshot %v does not exist: %w", parent, errdefs.ErrNotFound)
	}
	children, err := p.CreateBucketIfNotExists(keyChildren)
	if err != nil {
		return err
	}
	return children.Put([]byte(key), nil)
}

// Commit makes an active snapshot immutable under a name. The backend's part
// comes first: a snapshot that is committed there and not here is found by
// the next collection.
func (s *snapshots) Commit(ctx context.Context, name, key string, opts snapshot.CommitOpts) error {
	if err := ident.CheckLabels(opts.Labels); err != nil {
		return err
	}
	if name == "" {
		return fmt.Errorf("snapshot name must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	backend, backendParent, seq, err := s.reserve(name, opts.Parent)
	if err != nil {
		return err
	}
	e, err := s.find(key)
	if err != nil {
		return err
	}
	defer s.db.busy.hold(s.name + "/" + backend)()
	backendOpts := snapshot.CommitOpts{Labels: inherited(opts.Labels), Parent: backendParent}
	if err := s.backend.Commit(ctx, backend, e.backend, backendOpts); err != nil {
		return err
	}
	fault.Point("meta.snapshot.committed")
	return s.db.share(context.WithoutCancel(ctx), s.scope.Namespace, func(tx *tx) error {
		if s.record(tx.Tx, name) != nil {
			return fmt.Errorf("committed snapshot %v: %w", name, errdefs.ErrAlreadyExists)
		}
		if s.record(tx.Tx, key) == nil {
			return snapshotNotFound(key)
		}
		if err := s.drop(tx, key); err != nil {
			return err
		}
		if opts.Parent == "" {
			opts.Parent = e.parent
		}
		now := time.Now().UTC()
		tx.publish("/snapshot/commit", &eventsapi.SnapshotCommit{Key: key, Name: name, Snapshotter: s.name})
		return s.add(tx, name, entry{backend: backend, parent: opts.Parent, labels: opts.Labels, created: now, updated: now}, seq)
	})
}

// drop deletes a record and what points to it.
func (s *snapshots) drop(tx *tx, key string) error {
	if err := dropFromLease(tx, s.scope.Lease, Resource{"snapshots/" + s.name, key}); err != nil {
		return err
	}
	all := bucket(tx.Tx, tx.ns, bucketSnapshots, []byte(s.name))
	return dropSnapshot(all, key)
}

func dropSnapshot(all *bolt.Bucket, key string) error {
	if parent := all.Bucket([]byte(key)).Get(keyParent); parent != nil {
		if p := all.Bucket(parent); p != nil && p.Bucket(keyChildren) != nil {
			if err := p.Bucket(keyChildren).Delete([]byte(key)); err != nil {
				return err
			}
		}
	}
	return all.DeleteBucket([]byte(key))
}

// Remove deletes the record; a collection removes the files.
func (s *snapshots) Remove(ctx context.Context, key string) error {
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		b := s.record(tx.Tx, key)
		if b == nil {
			return snapshotNotFound(key)
		}
		if c := b.Bucket(keyChildren); c != nil {
			if k, _ := c.Cursor().First(); k != nil {
				return fmt.Errorf("cannot remove snapshot with child: %w", errdefs.ErrFailedPrecondition)
			}
		}
		tx.deleted, tx.dirty = true, append(tx.dirty, "snapshots/"+s.name)
		tx.publish("/snapshot/remove", &eventsapi.SnapshotRemove{Key: key, Snapshotter: s.name})
		return s.drop(tx, key)
	})
}

// Walk calls fn outside of any transaction.
func (s *snapshots) Walk(ctx context.Context, fn func(snapshot.Info) error, filters ...string) error {
	match, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	var keys []string
	if err := s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		keys = names(bucket(tx, s.scope.Namespace, bucketSnapshots, []byte(s.name)))
		return nil
	}); err != nil {
		return err
	}
	for _, key := range keys {
		info, err := s.Stat(ctx, key)
		if errdefs.IsNotFound(err) { // gone by now
			continue
		}
		if err != nil {
			return err
		}
		if !match(info.Field) {
			continue
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Cleanup removes the files of removed snapshots, in all namespaces.
func (s *snapshots) Cleanup(ctx context.Context) error { return s.backend.Cleanup(ctx) }

// Close does nothing: the backend is not of this namespace.
func (s *snapshots) Close() error { return nil }
