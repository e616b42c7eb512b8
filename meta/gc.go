// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/content"
	"slipway/internal/fault"
	"slipway/internal/ident"
	"slipway/snapshot"
)

// GCStats is what a collection did.
type GCStats struct {
	Marked  int           // objects that live
	Removed int           // records removed
	Took    time.Duration // without what Late is about
	// Late says which snapshotters that other processes serve have not removed
	// what has no record. They fail no request: a later collection asks again.
	Late error
}

// GC removes the records of what nothing refers to, and then the data that
// has no record:
//
//	mark     reads one consistent view; writers go on and note what they touch
//	sweep    one short write transaction removes what is neither marked nor
//	         reachable from what was touched
//	backends each object without a record is removed, one at a time
//
// One collection runs at a time.
func (db *DB) GC(ctx context.Context) (GCStats, error) {
	select {
	case db.collect <- struct{}{}:
	case <-ctx.Done():
		return GCStats{}, ctx.Err()
	}
	defer func() { <-db.collect }()
	start := time.Now()
	m, err := db.mark(ctx)
	if err == nil {
		err = db.sweep(ctx, m)
	}
	db.stopRecording()
	stats := GCStats{Marked: len(m.live), Removed: len(m.doomed)}
	if err == nil {
		fault.Point("meta.gc.swept")
		err = errors.Join(db.runAfterGC(ctx), db.cleanBackends(ctx))
	}
	stats.Took = time.Since(start)
	if err == nil {
		stats.Late = db.cleanRemotes(ctx)
	}
	return stats, err
}

// AfterGC makes every collection call fn when records are removed: for what
// is kept elsewhere and lives as long as records do.
func (db *DB) AfterGC(fn func(context.Context) error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.afterGC = append(db.afterGC, fn)
}

func (db *DB) runAfterGC(ctx context.Context) error {
	db.mu.Lock()
	fns := db.afterGC
	db.mu.Unlock()
	var errs []error
	for _, fn := range fns {
		errs = append(errs, fn(ctx))
	}
	return errors.Join(errs...)
}

// marks is the outcome of marking.
type marks struct {
	live   map[node]bool // true: with what it refers to
	back   map[node][]node
	cond   map[node][]condition
	now    time.Time
	doomed []node
}

// mark sorts all objects into the living and the doomed.
func (db *DB) mark(ctx context.Context) (*marks, error) {
	m := &marks{live: map[node]bool{}, back: map[node][]node{}, cond: map[node][]condition{}, now: time.Now()}
	view, err := db.beginRecording()
	if err != nil {
		return m, err
	}
	defer view.Rollback()
	var roots, removable []node
	eachNode(view, func(n node, b *bolt.Bucket) {
		root, rem := n.root(b, m.now)
		if root {
			roots = append(roots, n)
		}
		if rem {
			removable = append(removable, n)
		}
		eachLabel(b, func(k, v string) {
			if to, ok := backRefOf(k, v, n.ns); ok {
				m.back[to] = append(m.back[to], n)
			}
			if to, c, ok := condRefOf(n, k, v); ok {
				m.cond[to] = append(m.cond[to], c)
			}
		})
	})
	for _, n := range roots {
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		m.visit(view, n)
	}
	for _, n := range removable {
		if _, ok := m.live[n]; !ok {
			m.doomed = append(m.doomed, n)
		}
	}
	return m, nil
}

// beginRecording opens a view such that every later write is noted. Holding
// the writer's lock for a moment leaves no write in between.
func (db *DB) beginRecording() (*bolt.Tx, error) {
	w, err := db.bolt.Begin(true)
	if err != nil {
		return nil, err
	}
	defer w.Rollback()
	db.mu.Lock()
	db.recording = true
	db.mu.Unlock()
	return db.bolt.Begin(false)
}

func (db *DB) stopRecording() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.recording = false
	clear(db.touched)
}

// eachNode calls fn for every object of every namespace.
func eachNode(tx *bolt.Tx, fn func(node, *bolt.Bucket)) {
	for _, name := range names(tx.Bucket(bucketRoot)) {
		ns := ident.Namespace(name)
		each := func(k kind, prefix string, path ...[]byte) {
			b := bucket(tx, ns, path...)
			for _, key := range names(b) {
				fn(node{k, ns, prefix + key}, b.Bucket([]byte(key)))
			}
		}
		each(kindContent, "", bucketContent, bucketBlobs)
		each(kindIngest, "", bucketContent, bucketIngests)
		each(kindContainer, "", bucketContainers)
		each(kindImage, "", bucketImages)
		each(kindLease, "", bucketLeases)
		each(kindSandbox, "", bucketSandboxes)
		for _, sn := range names(bucket(tx, ns, bucketSnapshots)) {
			each(kindSnapshot, sn+"/", bucketSnapshots, []byte(sn))
		}
	}
}

// visit marks n and everything reachable from it.
func (m *marks) visit(tx *bolt.Tx, from node) {
	stack := []node{from}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if m.live[n] {
			continue
		}
		b := n.find(tx)
		if b == nil {
			continue
		}
		m.live[n] = true
		flat := n.kind == kindLease && getMap(b, bucketLabels)[labelFlat] != ""
		n.refs(b, func(to node) {
			if !flat {
				stack = append(stack, to)
			} else if _, ok := m.live[to]; !ok {
				m.live[to] = false // kept itself, without what it refers to
			}
		})
		stack = append(stack, m.back[n]...)
		for _, c := range m.cond[n] {
			if c.met(b, m.now) {
				stack = append(stack, c.from)
			}
		}
	}
}

// sweep removes the records of the doomed, except for those that came to life
// while marking.
func (db *DB) sweep(ctx context.Context, m *marks) error {
	if len(m.doomed) == 0 {
		return nil
	}
	t := &tx{}
	err := db.bolt.Remove(func(b *bolt.Tx) error {
		*t = tx{Tx: b}
		saved := &marks{live: map[node]bool{}, back: m.back, cond: m.cond, now: m.now}
		db.mu.Lock()
		touched := make([]node, 0, len(db.touched))
		for n := range db.touched {
			touched = append(touched, n)
		}
		db.mu.Unlock()
		for _, n := range touched {
			saved.visit(b, n)
		}
		doomed := m.doomed[:0]
		for _, n := range m.doomed {
			if _, ok := saved.live[n]; ok || n.find(b) == nil {
				continue
			}
			doomed = append(doomed, n)
		}
		m.doomed = doomed
		for _, n := range doomed {
			if err := t.remove(n); err != nil {
				return err
			}
		}
		db.note(t)
		return nil
	})
	if err != nil {
		return err
	}
	t.deleted = false // a collection does not ask for another one
	db.publishAll(ctx, t)
	return nil
}

// remove deletes one record that nothing refers to.
func (t *tx) remove(n node) error {
	t.ns = n.ns
	key := []byte(n.key)
	switch n.kind {
	case kindContent:
		t.dirty = append(t.dirty, "content")
		return bucket(t.Tx, n.ns, bucketContent, bucketBlobs).DeleteBucket(key)
	case kindIngest:
		t.dirty = append(t.dirty, "content")
		return bucket(t.Tx, n.ns, bucketContent, bucketIngests).DeleteBucket(key)
	case kindImage:
		return deleteImage(t, bucket(t.Tx, n.ns, bucketImages), n.key)
	case kindLease:
		return bucket(t.Tx, n.ns, bucketLeases).DeleteBucket(key)
	}
	sn, k, _ := strings.Cut(n.key, "/")
	t.dirty = append(t.dirty, "snapshots/"+sn)
	t.publish("/snapshot/remove", &eventsapi.SnapshotRemove{Key: k, Snapshotter: sn})
	return dropSnapshot(bucket(t.Tx, n.ns, bucketSnapshots, []byte(sn)), k)
}

// cleanBackends removes the data without records from the backends that have
// changed. One that fails stays dirty.
func (db *DB) cleanBackends(ctx context.Context) error {
	var errs []error
	for _, what := range db.takeDirty(false) {
		errs = append(errs, db.clean(ctx, what))
	}
	return errors.Join(errs...)
}

// remotePatience is how long a collection waits for the snapshotters that other
// processes serve. They go on by themselves, and no later collection waits for
// them: one that is stuck holds up nobody who does not use it.
const remotePatience = 5 * time.Second

// cleanRemotes is cleanBackends for those.
func (db *DB) cleanRemotes(ctx context.Context) error {
	names := db.takeDirty(true)
	done := make(chan error, len(names))
	for _, what := range names {
		db.cleaners.Go(func() {
			err := db.clean(ctx, what)
			db.mu.Lock()
			delete(db.cleaning, what)
			db.mu.Unlock()
			done <- err
		})
	}
	late := time.After(db.patience)
	var errs []error
	for range names {
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-late:
			return errors.Join(append(errs, fmt.Errorf("one of %s still removes after %s", strings.Join(names, ", "), db.patience))...)
		}
	}
	return errors.Join(errs...)
}

// takeDirty takes the backends that have changed, of those that other
// processes serve or of the others. One that is still being cleaned stays.
func (db *DB) takeDirty(remote bool) (names []string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for what := range db.dirty {
		if db.remote(what) != remote || db.cleaning[what] {
			continue
		}
		delete(db.dirty, what)
		if remote {
			db.cleaning[what] = true
		}
		names = append(names, what)
	}
	return names
}

// remote reports whether another process serves a backend.
func (db *DB) remote(what string) bool {
	s, ok := db.backends[strings.TrimPrefix(what, "snapshots/")].(interface{ Remote() bool })
	return ok && s.Remote()
}

// clean removes the data without records from one backend.
func (db *DB) clean(ctx context.Context, what string) (err error) {
	if sn, ok := strings.CutPrefix(what, "snapshots/"); ok {
		err = db.cleanSnapshots(ctx, sn)
	} else {
		err = db.cleanContent(ctx)
	}
	if err != nil {
		db.mu.Lock()
		db.dirty[what] = true
		db.mu.Unlock()
	}
	return err
}

// cleanContent removes the blobs and ingests that no namespace has.
func (db *DB) cleanContent(ctx context.Context) error {
	var found []digest.Digest
	if err := db.local.Walk(ctx, func(i content.Info) error {
		found = append(found, i.Digest)
		return nil
	}); err != nil {
		return err
	}
	linked := db.linkedBlobs()
	for _, d := range found {
		if linked[d.String()] {
			continue
		}
		release, ok := db.busy.try(d.String())
		if !ok {
			continue // on its way into a record
		}
		var err error
		if !db.isLinked(d) {
			err = db.local.Delete(ctx, d)
		}
		release()
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return db.local.RemoveIngestsExcept(ctx, db.knowsIngest)
}

func (db *DB) linkedBlobs() map[string]bool {
	linked := map[string]bool{}
	db.bolt.View(func(tx *bolt.Tx) error {
		for _, ns := range names(tx.Bucket(bucketRoot)) {
			for _, d := range names(bucket(tx, ident.Namespace(ns), bucketContent, bucketBlobs)) {
				linked[d] = true
			}
		}
		return nil
	})
	return linked
}

func (db *DB) isLinked(d digest.Digest) (yes bool) {
	db.bolt.View(func(tx *bolt.Tx) error {
		for _, ns := range names(tx.Bucket(bucketRoot)) {
			yes = yes || bucket(tx, ident.Namespace(ns), bucketContent, bucketBlobs, []byte(d)) != nil
		}
		return nil
	})
	return yes
}

// knowsIngest reports whether a backend ref, <ns>/<number>/<ref>, has a
// record.
func (db *DB) knowsIngest(backend string) (yes bool) {
	ns, rest, _ := strings.Cut(backend, "/")
	_, ref, _ := strings.Cut(rest, "/")
	db.bolt.View(func(tx *bolt.Tx) error {
		b := bucket(tx, ident.Namespace(ns), bucketContent, bucketIngests, []byte(ref))
		yes = b != nil && bytes.Equal(b.Get(keyRef), []byte(backend))
		return nil
	})
	return yes
}

// cleanSnapshots removes the snapshots of a backend that have no record,
// children first.
func (db *DB) cleanSnapshots(ctx context.Context, name string) error {
	backend := db.backends[name]
	if backend == nil { // of a snapshotter that is not configured any more
		return nil
	}
	orphans, err := db.orphans(ctx, name, backend)
	if err != nil {
		return err
	}
	for len(orphans) > 0 {
		left := orphans[:0]
		for _, key := range orphans {
			removed, err := db.removeOrphan(ctx, name, backend, key)
			if err != nil {
				return err
			}
			if !removed {
				left = append(left, key)
			}
		}
		if len(left) == len(orphans) {
			break // their children are on the way into records
		}
		orphans = left
	}
	return backend.Cleanup(ctx)
}

func (db *DB) orphans(ctx context.Context, name string, backend snapshot.Snapshotter) (list []string, err error) {
	known := map[string]bool{}
	var found []string
	if err := backend.Walk(ctx, func(i snapshot.Info) error {
		found = append(found, i.Name)
		return nil
	}); err != nil {
		return nil, err
	}
	db.bolt.View(func(tx *bolt.Tx) error {
		for _, ns := range names(tx.Bucket(bucketRoot)) {
			b := bucket(tx, ident.Namespace(ns), bucketSnapshots, []byte(name))
			for _, key := range names(b) {
				known[string(b.Bucket([]byte(key)).Get(keyName))] = true
			}
		}
		return nil
	})
	for _, f := range found {
		if !known[f] {
			list = append(list, f)
		}
	}
	return list, nil
}

// removeOrphan removes one snapshot unless it is on its way into a record or
// has children.
func (db *DB) removeOrphan(ctx context.Context, name string, backend snapshot.Snapshotter, key string) (bool, error) {
	release, ok := db.busy.try(name + "/" + key)
	if !ok {
		return false, nil
	}
	defer release()
	if db.knowsSnapshot(name, key) {
		return true, nil
	}
	err := backend.Remove(ctx, key)
	if errdefs.IsFailedPrecondition(err) {
		return false, nil
	}
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return err == nil, err
}

func (db *DB) knowsSnapshot(snapshotter, backend string) (yes bool) {
	ns, rest, _ := strings.Cut(backend, "/")
	_, key, _ := strings.Cut(rest, "/")
	db.bolt.View(func(tx *bolt.Tx) error {
		b := bucket(tx, ident.Namespace(ns), bucketSnapshots, []byte(snapshotter), []byte(key))
		yes = b != nil && bytes.Equal(b.Get(keyName), []byte(backend))
		return nil
	})
	return yes
}
