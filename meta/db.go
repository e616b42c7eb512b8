// SPDX-License-Identifier: Apache-2.0

// Package meta keeps the records of the system in one database: which names,
// labels and references the objects of each namespace have. It binds the
// content store and the snapshotters, which know nothing of namespaces, to
// the namespace of a request, and it collects what nothing refers to.
//
// A record is written after the data that it speaks of. Removing a record
// removes no data: a garbage collection does, see GC.
package meta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"slipway/content"
	"slipway/event"
	"slipway/internal/database"
	"slipway/internal/ident"
	"slipway/snapshot"
)

// schema is the version of the format, docs/formats.md.
const schema = 4

var (
	bucketRoot       = []byte("v1")
	keyVersion       = []byte("version")
	bucketLabels     = []byte("labels")
	bucketImages     = []byte("images")
	bucketContainers = []byte("containers")
	bucketContent    = []byte("content")
	bucketBlobs      = []byte("blob")
	bucketIngests    = []byte("ingests")
	bucketSnapshots  = []byte("snapshots")
	bucketSandboxes  = []byte("sandboxes")
	bucketLeases     = []byte("leases")
)

// Options changes Open; the zero value is the default.
type Options struct {
	// NoSync leaves it to the kernel when records reach the disk.
	NoSync bool
	// OpenTimeout is how long another process may hold the database; 0 waits
	// for ever.
	OpenTimeout time.Duration
	// SharingPolicy is "shared" (also empty): a namespace gets a blob that
	// another one has by naming its digest; or "isolated": it must bring the
	// bytes.
	SharingPolicy string
}

// A ContentBackend keeps the blobs and the ingests of all namespaces.
// content.Local is one, another process may be (package proxy).
type ContentBackend interface {
	content.Store
	Walk(ctx context.Context, fn func(content.Info) error) error
	// RemoveIngestsExcept drops every ingest whose ref keep refuses.
	RemoveIngestsExcept(ctx context.Context, keep func(ref string) bool) error
}

// DB is the database. Its stores are cheap values, made for each request.
type DB struct {
	bolt     *database.DB
	local    ContentBackend
	backends map[string]snapshot.Snapshotter
	events   *event.Exchange
	isolated bool

	group   group         // calls that share a transaction
	busy    busy          // backend objects between their creation and their record
	collect chan struct{} // holds one value while a collection runs

	patience time.Duration  // remotePatience
	cleaners sync.WaitGroup // of backends that other processes serve

	mu        sync.Mutex
	recording bool            // a collection is marking
	touched   map[node]bool   // written while recording
	dirty     map[string]bool // backends to sweep: "content", "snapshots/<name>"
	cleaning  map[string]bool // those of other processes that are being swept
	onChange  func(deletion bool)
	afterGC   []func(context.Context) error
	sequence  map[string]uint64 // last backend name number given out, by namespace and snapshotter
}

// Open opens the database at path and makes it if it is missing.
func Open(path string, opts Options, local ContentBackend, backends map[string]snapshot.Snapshotter, events *event.Exchange) (*DB, error) {
	if p := opts.SharingPolicy; p != "" && p != "shared" && p != "isolated" {
		return nil, fmt.Errorf("content sharing policy %q is neither shared nor isolated: %w", p, errdefs.ErrInvalidArgument)
	}
	b, err := database.Open(path, 0o644, bolt.Options{
		Timeout: opts.OpenTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: opts.NoSync,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("database %s: another daemon holds it: %w", path, errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db := &DB{
		bolt: b, local: local, backends: backends, events: events, isolated: opts.SharingPolicy == "isolated",
		collect: make(chan struct{}, 1), touched: map[node]bool{}, dirty: map[string]bool{},
		cleaning: map[string]bool{}, patience: remotePatience, sequence: map[string]uint64{},
		onChange: func(bool) {},
	}
	db.allDirty()
	if err := db.checkSchema(); err != nil {
		b.Close()
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return db, nil
}

// Close closes the database; the stores below stay open. The contexts of
// collections have ended.
func (db *DB) Close() error {
	db.cleaners.Wait()
	return db.bolt.Close()
}

// allDirty makes the next collection look at every backend: a crash may have
// left there what has no record.
func (db *DB) allDirty() {
	db.dirty["content"] = true
	for name := range db.backends {
		db.dirty["snapshots/"+name] = true
	}
}

// checkSchema marks a new database and refuses those of old releases.
func (db *DB) checkSchema() error {
	current := false
	err := db.bolt.View(func(tx *bolt.Tx) error {
		root := tx.Bucket(bucketRoot)
		if root == nil {
			return nil
		}
		v, _ := binary.Varint(root.Get(keyVersion))
		if current = v == schema; !current && (v < schema-1 || v > schema) {
			return fmt.Errorf("schema version %d, this is version %d: %w", v, schema, errdefs.ErrNotImplemented)
		}
		return nil
	})
	if err != nil || current {
		return err
	}
	return db.bolt.Update(func(tx *bolt.Tx) error {
		root, err := tx.CreateBucketIfNotExists(bucketRoot)
		if err != nil {
			return err
		}
		return root.Put(keyVersion, binary.AppendVarint(nil, schema))
	})
}

// tx is a write transaction with what follows from it once it is committed.
type tx struct {
	*bolt.Tx
	ns      ident.Namespace
	touched []node
	dirty   []string
	deleted bool
	events  []pendingEvent
}

type pendingEvent struct {
	ns    ident.Namespace
	topic string
	msg   proto.Message
}

// touch keeps n and what it refers to from a collection that is under way.
func (t *tx) touch(n node) { t.touched = append(t.touched, n) }

// publish sends an event after the commit.
func (t *tx) publish(topic string, msg proto.Message) {
	t.events = append(t.events, pendingEvent{t.ns, topic, msg})
}

// update runs fn in a write transaction.
func (db *DB) update(ctx context.Context, ns ident.Namespace, fn func(*tx) error) error {
	return db.write(ctx, ns, db.bolt.Update, fn)
}

// remove is update for what adds nothing; it works on a full disk too.
func (db *DB) remove(ctx context.Context, ns ident.Namespace, fn func(*tx) error) error {
	return db.write(ctx, ns, db.bolt.Remove, fn)
}

func (db *DB) write(ctx context.Context, ns ident.Namespace, run func(func(*bolt.Tx) error) error, fn func(*tx) error) error {
	if err := checkNamespace(ns); err != nil {
		return err
	}
	var t *tx
	err := run(func(b *bolt.Tx) error {
		t = &tx{Tx: b, ns: ns}
		if err := fn(t); err != nil {
			return err
		}
		db.note(t)
		return nil
	})
	if err != nil {
		return badKey(err)
	}
	db.committed(ctx, t)
	return nil
}

// badKey is for names that no earlier check has refused and that the database
// cannot hold.
func badKey(err error) error {
	for _, bad := range []error{bolterrors.ErrBucketNameRequired, bolterrors.ErrKeyRequired, bolterrors.ErrKeyTooLarge, bolterrors.ErrValueTooLarge} {
		if errors.Is(err, bad) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// note records what is written while the writer's lock is still held, so that
// a collection sees it either in its view or here.
func (db *DB) note(t *tx) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.recording {
		for _, n := range t.touched {
			db.touched[n] = true
		}
	}
	for _, d := range t.dirty {
		db.dirty[d] = true
	}
}

// committed publishes the events of a transaction and wakes the scheduler. An
// event that cannot be sent has an invalid topic, which a test would show.
func (db *DB) committed(ctx context.Context, t *tx) {
	db.publishAll(ctx, t)
	db.mu.Lock()
	wake := db.onChange
	db.mu.Unlock()
	wake(t.deleted)
}

func (db *DB) publishAll(ctx context.Context, t *tx) {
	for _, e := range t.events {
		if err := db.events.Publish(context.WithoutCancel(ctx), e.ns, e.topic, e.msg); err != nil {
			panic(err)
		}
	}
}

// view runs fn in a read transaction.
func (db *DB) view(ns ident.Namespace, fn func(*bolt.Tx) error) error {
	if err := checkNamespace(ns); err != nil {
		return err
	}
	return db.bolt.View(fn)
}

// checkNamespace also refuses the one name that the format cannot hold.
func checkNamespace(ns ident.Namespace) error {
	if bytes.Equal([]byte(ns), keyVersion) {
		return fmt.Errorf("namespace %q is reserved: %w", ns, errdefs.ErrInvalidArgument)
	}
	return ns.Check()
}

// bucket finds a bucket below the namespace, nil if there is none.
func bucket(tx *bolt.Tx, ns ident.Namespace, path ...[]byte) *bolt.Bucket {
	b := tx.Bucket(bucketRoot)
	if b != nil {
		b = b.Bucket([]byte(ns))
	}
	for _, p := range path {
		if b == nil {
			return nil
		}
		b = b.Bucket(p)
	}
	return b
}

// makeBucket is bucket that makes what is missing.
func makeBucket(tx *bolt.Tx, ns ident.Namespace, path ...[]byte) (*bolt.Bucket, error) {
	b, err := tx.CreateBucketIfNotExists(bucketRoot)
	if err != nil {
		return nil, err
	}
	if b, err = b.CreateBucketIfNotExists([]byte(ns)); err != nil {
		return nil, err
	}
	for _, p := range path {
		if b, err = b.CreateBucketIfNotExists(p); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// names lists the buckets in b.
func names(b *bolt.Bucket) (list []string) {
	if b == nil {
		return nil
	}
	b.ForEachBucket(func(k []byte) error {
		list = append(list, string(k))
		return nil
	})
	return list
}
