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
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/filter"
	"slipway/internal/ident"
)

// Containers keeps the containers of one namespace.
type Containers struct {
	db    *DB
	scope ident.Scope
}

// Containers returns the store of a scope.
func (db *DB) Containers(scope ident.Scope) *Containers { return &Containers{db, scope} }

// Get finds a container.
func (s *Containers) Get(_ context.Context, id string) (c Container, err error) {
	return c, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := bucket(tx, s.scope.Namespace, bucketContainers, []byte(id))
		if b == nil {
			return s.notFound(id)
		}
		c, err = readContainer(b, id)
		return err
	})
}

func (s *Containers) notFound(id string) error {
	return fmt.Errorf("container %q in namespace %q: %w", id, s.scope.Namespace, errdefs.ErrNotFound)
}

// List gives the containers that one of filters matches, by id.
func (s *Containers) List(ctx context.Context, filters ...string) (all []Container, err error) {
	return all, s.Each(ctx, func(r ContainerRecord) error {
		c, err := r.container()
		all = append(all, c)
		return err
	}, filters...)
}

// Each calls fn for the containers that one of filters matches, by id. It
// holds the database: fn waits for nothing.
func (s *Containers) Each(_ context.Context, fn func(ContainerRecord) error, filters ...string) error {
	match, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	return s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		return each(bucket(tx, s.scope.Namespace, bucketContainers), func(b *bolt.Bucket, id []byte) error {
			r, err := containerRecord(b, id)
			if err != nil || !match(r.field) {
				return err
			}
			return fn(r)
		})
	})
}

// Create adds a container.
func (s *Containers) Create(ctx context.Context, c Container) (Container, error) {
	if err := c.check(); err != nil {
		return Container{}, fmt.Errorf("create container failed validation: %w", err)
	}
	err := s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b, err := makeBucket(tx.Tx, tx.ns, bucketContainers)
		if err != nil {
			return err
		}
		if b.Bucket([]byte(c.ID)) != nil {
			return fmt.Errorf("container %q: %w", c.ID, errdefs.ErrAlreadyExists)
		}
		if b, err = b.CreateBucket([]byte(c.ID)); err != nil {
			return err
		}
		c.CreatedAt = time.Now().UTC()
		c.UpdatedAt = c.CreatedAt
		tx.publish("/containers/create", &eventsapi.ContainerCreate{
			ID: c.ID, Image: c.Image, Runtime: &eventsapi.ContainerCreate_Runtime{Name: c.Runtime.Name, Options: c.Runtime.Options},
		})
		return writeContainer(tx, b, c)
	})
	if err != nil {
		return Container{}, err
	}
	return c, nil
}

// Update changes what paths name ("labels", "labels.<key>", "extensions",
// "extensions.<key>", "spec", "image", "snapshotkey"), all of these without
// paths.
func (s *Containers) Update(ctx context.Context, c Container, paths ...string) (next Container, err error) {
	if c.ID == "" {
		return next, fmt.Errorf("must specify a container id: %w", errdefs.ErrInvalidArgument)
	}
	return next, s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b := bucket(tx.Tx, tx.ns, bucketContainers, []byte(c.ID))
		if b == nil {
			return fmt.Errorf("container %q: %w", c.ID, errdefs.ErrNotFound)
		}
		if next, err = readContainer(b, c.ID); err != nil {
			return err
		}
		if err := next.set(c, paths); err != nil {
			return err
		}
		if err := next.check(); err != nil {
			return fmt.Errorf("update failed validation: %w", err)
		}
		next.UpdatedAt = time.Now().UTC()
		tx.publish("/containers/update", &eventsapi.ContainerUpdate{
			ID: next.ID, Image: next.Image, Labels: next.Labels, SnapshotKey: next.SnapshotKey,
		})
		return writeContainer(tx, b, next)
	})
}

func (c *Container) set(from Container, paths []string) error {
	if len(paths) == 0 {
		if from.Snapshotter != c.Snapshotter {
			return fmt.Errorf("container.Snapshotter field is immutable: %w", errdefs.ErrInvalidArgument)
		}
		if from.Runtime.Name != c.Runtime.Name {
			return fmt.Errorf("container.Runtime.Name field is immutable: %w", errdefs.ErrInvalidArgument)
		}
		paths = []string{"labels", "spec", "extensions", "image", "snapshotkey"}
	}
	set := fieldSetter{
		"labels":      func(string) { c.Labels = from.Labels },
		"labels.":     func(k string) { setKey(&c.Labels, from.Labels, k) },
		"extensions":  func(string) { c.Extensions = from.Extensions },
		"extensions.": func(k string) { setKey(&c.Extensions, from.Extensions, k) },
		"spec":        func(string) { c.Spec = from.Spec },
		"image":       func(string) { c.Image = from.Image },
		"snapshotkey": func(string) { c.SnapshotKey = from.SnapshotKey },
	}
	err := set.apply("container "+c.ID, paths)
	c.Labels = clean(c.Labels)
	return err
}

// Delete removes the record, whatever runs under its id.
func (s *Containers) Delete(ctx context.Context, id string) error {
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		b := bucket(tx.Tx, tx.ns, bucketContainers)
		if b == nil || b.Bucket([]byte(id)) == nil {
			return s.notFound(id)
		}
		tx.deleted = true
		tx.publish("/containers/delete", &eventsapi.ContainerDelete{ID: id})
		return b.DeleteBucket([]byte(id))
	})
}

func (c Container) check() error {
	if err := ident.Check(c.ID); err != nil {
		return fmt.Errorf("container.ID: %w", err)
	}
	for k := range c.Extensions {
		if k == "" {
			return fmt.Errorf("container.Extension keys must not be zero-length: %w", errdefs.ErrInvalidArgument)
		}
	}
	if c.Image != "" && strings.ContainsRune(c.Image, 0) {
		return fmt.Errorf("container.Image %q: %w", c.Image, errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckLabels(c.Labels); err != nil {
		return fmt.Errorf("containers.Labels: %w", err)
	}
	if c.Runtime.Name == "" {
		return fmt.Errorf("container.Runtime.Name must be set: %w", errdefs.ErrInvalidArgument)
	}
	if c.Spec == nil {
		return fmt.Errorf("container.Spec must be set: %w", errdefs.ErrInvalidArgument)
	}
	if c.SnapshotKey != "" && c.Snapshotter == "" {
		return fmt.Errorf("container.Snapshotter must be set if container.SnapshotKey is set: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func writeContainer(tx *tx, b *bolt.Bucket, c Container) error {
	tx.touch(node{kindContainer, tx.ns, c.ID})
	if err := putTimes(b, c.CreatedAt, c.UpdatedAt); err != nil {
		return err
	}
	for key, v := range map[*[]byte]string{
		&keyImage: c.Image, &keySnapshotter: c.Snapshotter, &keySnapshotKey: c.SnapshotKey, &keySandboxID: c.Sandbox,
	} {
		if err := b.Put(*key, []byte(v)); err != nil {
			return err
		}
	}
	return putBody(b, c.Spec, c.Runtime, c.Extensions, c.Labels)
}

// putBody writes what containers and sandboxes have in common.
func putBody(b *bolt.Bucket, spec *anypb.Any, r Runtime, ext map[string]*anypb.Any, labels map[string]string) error {
	if err := putAny(b, keySpec, spec); err != nil {
		return err
	}
	if err := putRuntime(b, r); err != nil {
		return err
	}
	if err := putAnys(b, keyExtensions, ext); err != nil {
		return err
	}
	return putMap(b, bucketLabels, labels)
}

func readContainer(b *bolt.Bucket, id string) (Container, error) {
	r, err := containerRecord(b, []byte(id))
	if err != nil {
		return Container{}, err
	}
	return r.container()
}
