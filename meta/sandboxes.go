// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/filter"
	"slipway/internal/ident"
)

// Sandboxes keeps the sandboxes of one namespace.
type Sandboxes struct {
	db    *DB
	scope ident.Scope
}

// Sandboxes returns the store of a scope.
func (db *DB) Sandboxes(scope ident.Scope) *Sandboxes { return &Sandboxes{db, scope} }

// Get finds a sandbox.
func (s *Sandboxes) Get(_ context.Context, id string) (sb Sandbox, err error) {
	return sb, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := bucket(tx, s.scope.Namespace, bucketSandboxes, []byte(id))
		if b == nil {
			return sandboxNotFound(id)
		}
		sb, err = readSandbox(b, id)
		return err
	})
}

func sandboxNotFound(id string) error { return fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound) }

// List gives the sandboxes that one of filters matches, by id.
func (s *Sandboxes) List(_ context.Context, filters ...string) (all []Sandbox, err error) {
	match, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	return all, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := bucket(tx, s.scope.Namespace, bucketSandboxes)
		for _, id := range names(b) {
			sb, err := readSandbox(b.Bucket([]byte(id)), id)
			if err != nil {
				return err
			}
			if match(sb.field) {
				all = append(all, sb)
			}
		}
		return nil
	})
}

// Create adds a sandbox.
func (s *Sandboxes) Create(ctx context.Context, sb Sandbox) (Sandbox, error) {
	if err := sb.check(); err != nil {
		return Sandbox{}, err
	}
	err := s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b, err := makeBucket(tx.Tx, tx.ns, bucketSandboxes)
		if err != nil {
			return err
		}
		if b.Bucket([]byte(sb.ID)) != nil {
			return fmt.Errorf("sandbox %q: %w", sb.ID, errdefs.ErrAlreadyExists)
		}
		if b, err = b.CreateBucket([]byte(sb.ID)); err != nil {
			return err
		}
		sb.CreatedAt = time.Now().UTC()
		sb.UpdatedAt = sb.CreatedAt
		return writeSandbox(tx, b, sb)
	})
	if err != nil {
		return Sandbox{}, err
	}
	return sb, nil
}

// Update changes what paths name ("labels", "extensions", each also with
// ".<key>", "spec", "runtime"), all of these without paths.
func (s *Sandboxes) Update(ctx context.Context, sb Sandbox, paths ...string) (next Sandbox, err error) {
	return next, s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b := bucket(tx.Tx, tx.ns, bucketSandboxes, []byte(sb.ID))
		if b == nil {
			return sandboxNotFound(sb.ID)
		}
		if next, err = readSandbox(b, sb.ID); err != nil {
			return err
		}
		if err := next.set(sb, paths); err != nil {
			return err
		}
		if err := next.check(); err != nil {
			return err
		}
		next.UpdatedAt = time.Now().UTC()
		return writeSandbox(tx, b, next)
	})
}

func (sb *Sandbox) set(from Sandbox, paths []string) error {
	name := sb.Runtime.Name
	if len(paths) == 0 {
		paths = []string{"labels", "extensions", "spec", "runtime"}
	}
	set := fieldSetter{
		"labels":      func(string) { sb.Labels = from.Labels },
		"labels.":     func(k string) { setKey(&sb.Labels, from.Labels, k) },
		"extensions":  func(string) { sb.Extensions = from.Extensions },
		"extensions.": func(k string) { setKey(&sb.Extensions, from.Extensions, k) },
		"spec":        func(string) { sb.Spec = from.Spec },
		"runtime":     func(string) { sb.Runtime = from.Runtime },
	}
	if err := set.apply("sandbox "+sb.ID, paths); err != nil {
		return err
	}
	if sb.Runtime.Name != name {
		return fmt.Errorf("sandbox.Runtime.Name field is immutable: %w", errdefs.ErrInvalidArgument)
	}
	sb.Labels = clean(sb.Labels)
	return nil
}

// Delete removes the record.
func (s *Sandboxes) Delete(ctx context.Context, id string) error {
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		b := bucket(tx.Tx, tx.ns, bucketSandboxes)
		if b == nil || b.Bucket([]byte(id)) == nil {
			return sandboxNotFound(id)
		}
		tx.deleted = true
		return b.DeleteBucket([]byte(id))
	})
}

func (sb Sandbox) check() error {
	if err := ident.Check(sb.ID); err != nil {
		return fmt.Errorf("sandbox.ID: %w", err)
	}
	if sb.Runtime.Name == "" {
		return fmt.Errorf("sandbox.Runtime.Name must be set: %w", errdefs.ErrInvalidArgument)
	}
	return ident.CheckLabels(sb.Labels)
}

func writeSandbox(tx *tx, b *bolt.Bucket, sb Sandbox) error {
	tx.touch(node{kindSandbox, tx.ns, sb.ID})
	if err := putTimes(b, sb.CreatedAt, sb.UpdatedAt); err != nil {
		return err
	}
	if err := b.Put(keySandboxer, []byte(sb.Sandboxer)); err != nil {
		return err
	}
	return putBody(b, sb.Spec, sb.Runtime, sb.Extensions, sb.Labels)
}

func readSandbox(b *bolt.Bucket, id string) (sb Sandbox, err error) {
	sb = Sandbox{
		ID: id, Sandboxer: string(b.Get(keySandboxer)), Labels: getMap(b, bucketLabels),
		CreatedAt: getTime(b, keyCreated), UpdatedAt: getTime(b, keyUpdated),
	}
	if sb.Spec, err = getAny(b, keySpec); err != nil {
		return sb, fmt.Errorf("sandbox %s: %w", id, err)
	}
	if sb.Runtime, err = getRuntime(b); err != nil {
		return sb, fmt.Errorf("sandbox %s: %w", id, err)
	}
	sb.Extensions, err = getAnys(b, keyExtensions)
	return sb, err
}

func (sb Sandbox) field(path []string) (string, bool) {
	switch path[0] {
	case "id":
		return sb.ID, len(path) == 1
	case "labels":
		return filter.Labels(sb.Labels, path[1:])
	}
	return "", false
}
