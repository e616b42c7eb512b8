// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/filter"
	"slipway/internal/ident"
)

// Leases keeps the leases of one namespace.
type Leases struct {
	db *DB
	ns ident.Namespace
}

// Leases returns the store of a namespace.
func (db *DB) Leases(ns ident.Namespace) *Leases { return &Leases{db, ns} }

// Create makes a lease. An empty id is replaced by a generated one.
func (s *Leases) Create(ctx context.Context, id string, labels map[string]string) (Lease, error) {
	if id == "" {
		id = newLeaseID()
	}
	if err := ident.CheckLabels(labels); err != nil {
		return Lease{}, err
	}
	l := Lease{ID: id, CreatedAt: time.Now().UTC(), Labels: labels}
	return l, s.db.update(ctx, s.ns, func(tx *tx) error {
		b, err := makeBucket(tx.Tx, s.ns, bucketLeases)
		if err != nil {
			return err
		}
		if b.Bucket([]byte(id)) != nil {
			return fmt.Errorf("lease %q: %w", id, errdefs.ErrAlreadyExists)
		}
		if b, err = b.CreateBucket([]byte(id)); err != nil {
			return err
		}
		tx.touch(node{kindLease, s.ns, id})
		if err := putTime(b, keyCreated, l.CreatedAt); err != nil {
			return err
		}
		return putMap(b, bucketLabels, labels)
	})
}

func newLeaseID() string {
	var b [3]byte
	rand.Read(b[:])
	return fmt.Sprintf("%d-%s", time.Now().Nanosecond(), base64.RawURLEncoding.EncodeToString(b[:]))
}

// Delete ends a lease; what it kept is collected.
func (s *Leases) Delete(ctx context.Context, id string) error {
	return s.db.remove(ctx, s.ns, func(tx *tx) error {
		b := bucket(tx.Tx, s.ns, bucketLeases)
		if b == nil || b.Bucket([]byte(id)) == nil {
			return leaseNotFound(id)
		}
		tx.deleted = true
		return b.DeleteBucket([]byte(id))
	})
}

func leaseNotFound(id string) error { return fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound) }

// List gives the leases that one of filters matches, by id.
func (s *Leases) List(_ context.Context, filters ...string) (all []Lease, err error) {
	match, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	return all, s.db.view(s.ns, func(tx *bolt.Tx) error {
		b := bucket(tx, s.ns, bucketLeases)
		for _, id := range names(b) {
			sub := b.Bucket([]byte(id))
			l := Lease{ID: id, CreatedAt: getTime(sub, keyCreated), Labels: getMap(sub, bucketLabels)}
			if match(l.field) {
				all = append(all, l)
			}
		}
		return nil
	})
}

func (l Lease) field(path []string) (string, bool) {
	switch path[0] {
	case "id":
		return l.ID, len(path) == 1
	case "labels":
		return filter.Labels(l.Labels, path[1:])
	}
	return "", false
}

// AddResource puts a resource under a lease, whether it exists or not.
func (s *Leases) AddResource(ctx context.Context, id string, r Resource) error {
	return s.db.share(ctx, s.ns, func(tx *tx) error {
		if bucket(tx.Tx, s.ns, bucketLeases, []byte(id)) == nil {
			return leaseNotFound(id)
		}
		return addToLease(tx, id, r)
	})
}

// DeleteResource takes a resource from a lease.
func (s *Leases) DeleteResource(ctx context.Context, id string, r Resource) error {
	path, err := r.path()
	if err != nil {
		return err
	}
	return s.db.remove(ctx, s.ns, func(tx *tx) error {
		if bucket(tx.Tx, s.ns, bucketLeases, []byte(id)) == nil {
			return leaseNotFound(id)
		}
		tx.deleted = true
		b := bucket(tx.Tx, s.ns, append([][]byte{bucketLeases, []byte(id)}, path...)...)
		if b == nil {
			return nil
		}
		return b.Delete([]byte(r.ID))
	})
}

// ListResources gives what a lease keeps.
func (s *Leases) ListResources(_ context.Context, id string) (all []Resource, err error) {
	return all, s.db.view(s.ns, func(tx *bolt.Tx) error {
		b := bucket(tx, s.ns, bucketLeases, []byte(id))
		if b == nil {
			return leaseNotFound(id)
		}
		all = leaseResources(b)
		return nil
	})
}

func leaseResources(lease *bolt.Bucket) (all []Resource) {
	list := func(kind string, b *bolt.Bucket) {
		if b != nil {
			b.ForEach(func(k, _ []byte) error {
				all = append(all, Resource{kind, string(k)})
				return nil
			})
		}
	}
	list("content", lease.Bucket(bucketContent))
	list("images", lease.Bucket(bucketImages))
	list("ingests", lease.Bucket(bucketIngests))
	snapshotters := lease.Bucket(bucketSnapshots)
	for _, name := range names(snapshotters) {
		list("snapshots/"+name, snapshotters.Bucket([]byte(name)))
	}
	return all
}

// path is where a lease keeps resources of this type.
func (r Resource) path() ([][]byte, error) {
	if r.ID == "" {
		return nil, fmt.Errorf("lease resource of type %q: id must be set: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	kind, sub, parted := strings.Cut(r.Type, "/")
	switch {
	case kind == "snapshots" && (sub == "" || strings.Contains(sub, "/")):
		return nil, fmt.Errorf("invalid snapshot resource type %s: %w", r.Type, errdefs.ErrInvalidArgument)
	case kind == "snapshots":
		return [][]byte{bucketSnapshots, []byte(sub)}, nil
	case kind != "content" && kind != "images" && kind != "ingests":
		return nil, fmt.Errorf("resource type %s not supported yet: %w", r.Type, errdefs.ErrNotImplemented)
	case parted:
		return nil, fmt.Errorf("invalid resource type %s: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	if kind == "content" {
		if err := digest.Digest(r.ID).Validate(); err != nil {
			return nil, fmt.Errorf("invalid content resource id %s: %w: %w", r.ID, err, errdefs.ErrInvalidArgument)
		}
	}
	return [][]byte{[]byte(kind)}, nil
}

// addToLease puts a resource under the lease of a request, if it has one.
func addToLease(tx *tx, lease string, r Resource) error {
	if lease == "" {
		return nil
	}
	path, err := r.path()
	if err != nil {
		return err
	}
	b := bucket(tx.Tx, tx.ns, bucketLeases, []byte(lease))
	if b == nil {
		return fmt.Errorf("lease does not exist: %w", errdefs.ErrNotFound)
	}
	for _, p := range path {
		if b, err = b.CreateBucketIfNotExists(p); err != nil {
			return err
		}
	}
	tx.touch(node{kindLease, tx.ns, lease})
	return b.Put([]byte(r.ID), nil)
}

// dropFromLease undoes addToLease, for an object that is gone.
func dropFromLease(tx *tx, lease string, r Resource) error {
	path, err := r.path()
	if lease == "" || err != nil {
		return err
	}
	if b := bucket(tx.Tx, tx.ns, append([][]byte{bucketLeases, []byte(lease)}, path...)...); b != nil {
		return b.Delete([]byte(r.ID))
	}
	return nil
}
