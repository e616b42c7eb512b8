// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"strings"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/ident"
)

// Namespaces keeps the namespaces themselves. One comes into being when
// something is first written in it.
type Namespaces struct{ db *DB }

// Namespaces returns the store.
func (db *DB) Namespaces() *Namespaces { return &Namespaces{db} }

// List names all namespaces in order.
func (s *Namespaces) List(context.Context) (all []ident.Namespace, err error) {
	return all, s.db.bolt.View(func(tx *bolt.Tx) error {
		for _, name := range names(tx.Bucket(bucketRoot)) {
			all = append(all, ident.Namespace(name))
		}
		return nil
	})
}

// Labels gives those of ns, none if it does not exist.
func (s *Namespaces) Labels(_ context.Context, ns ident.Namespace) (labels map[string]string, err error) {
	return labels, s.db.bolt.View(func(tx *bolt.Tx) error {
		if b := bucket(tx, ns); b != nil {
			labels = getMap(b, bucketLabels)
		}
		return nil
	})
}

// Create makes an empty namespace.
func (s *Namespaces) Create(ctx context.Context, ns ident.Namespace, labels map[string]string) error {
	if err := ident.CheckLabels(labels); err != nil {
		return err
	}
	return s.db.update(ctx, ns, func(tx *tx) error {
		if bucket(tx.Tx, ns) != nil {
			return fmt.Errorf("namespace %q: %w", ns, errdefs.ErrAlreadyExists)
		}
		b, err := makeBucket(tx.Tx, ns)
		if err != nil {
			return err
		}
		tx.publish("/namespaces/create", &eventsapi.NamespaceCreate{Name: string(ns), Labels: labels})
		return putMap(b, bucketLabels, labels)
	})
}

// Update replaces labels: those that paths name, all without paths.
func (s *Namespaces) Update(ctx context.Context, ns ident.Namespace, labels map[string]string, paths []string) (map[string]string, error) {
	if err := ident.CheckLabels(labels); err != nil {
		return nil, err
	}
	merged := labels
	err := s.db.update(ctx, ns, func(tx *tx) error {
		b, err := makeBucket(tx.Tx, ns)
		if err != nil {
			return err
		}
		if len(paths) > 0 {
			merged = getMap(b, bucketLabels)
			set := fieldSetter{"labels.": func(k string) { setKey(&merged, labels, k) }}
			if err := set.apply("namespace "+string(ns), paths); err != nil {
				return err
			}
		}
		merged = clean(merged)
		tx.publish("/namespaces/update", &eventsapi.NamespaceUpdate{Name: string(ns), Labels: labels})
		return putMap(b, bucketLabels, merged)
	})
	return merged, err
}

// Delete removes a namespace that holds nothing but leases and sandboxes.
func (s *Namespaces) Delete(ctx context.Context, ns ident.Namespace) error {
	return s.db.remove(ctx, ns, func(tx *tx) error {
		b := bucket(tx.Tx, ns)
		if b == nil {
			return fmt.Errorf("namespace %q: %w", ns, errdefs.ErrNotFound)
		}
		if left := contents(b); len(left) > 0 {
			return fmt.Errorf("namespace %q must be empty, but it still has %s: %w", ns, strings.Join(left, ", "), errdefs.ErrFailedPrecondition)
		}
		tx.deleted = true
		tx.publish("/namespaces/delete", &eventsapi.NamespaceDelete{Name: string(ns)})
		return tx.Bucket(bucketRoot).DeleteBucket([]byte(ns))
	})
}

// contents names the kinds of objects that are in a namespace.
func contents(b *bolt.Bucket) (left []string) {
	for _, kind := range []struct {
		name string
		path [][]byte
	}{
		{"images", [][]byte{bucketImages}},
		{"blobs", [][]byte{bucketContent, bucketBlobs}},
		{"containers", [][]byte{bucketContainers}},
	} {
		sub := b
		for _, p := range kind.path {
			if sub != nil {
				sub = sub.Bucket(p)
			}
		}
		if len(names(sub)) > 0 {
			left = append(left, kind.name)
		}
	}
	snapshotters := b.Bucket(bucketSnapshots)
	for _, name := range names(snapshotters) {
		if len(names(snapshotters.Bucket([]byte(name)))) > 0 {
			left = append(left, fmt.Sprintf("snapshots on %q snapshotter", name))
		}
	}
	return left
}
