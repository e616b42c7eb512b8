// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/internal/filter"
	"slipway/internal/ident"
)

// Images keeps the images of one namespace.
type Images struct {
	db    *DB
	scope ident.Scope
}

// Images returns the store of a scope.
func (db *DB) Images(scope ident.Scope) *Images { return &Images{db, scope} }

// Get finds an image by its name.
func (s *Images) Get(_ context.Context, name string) (img Image, err error) {
	return img, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := bucket(tx, s.scope.Namespace, bucketImages, []byte(name))
		if b == nil {
			return imageNotFound(name)
		}
		img = readImage(b, name)
		return nil
	})
}

func imageNotFound(name string) error { return fmt.Errorf("image %q: %w", name, errdefs.ErrNotFound) }

// List gives the images that one of filters matches, by name.
func (s *Images) List(ctx context.Context, filters ...string) (all []Image, err error) {
	return all, s.Each(ctx, func(r ImageRecord) error {
		all = append(all, r.image())
		return nil
	}, filters...)
}

// Each calls fn for the images that one of filters matches, by name. It holds
// the database: fn waits for nothing.
func (s *Images) Each(_ context.Context, fn func(ImageRecord) error, filters ...string) error {
	match, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	return s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		return each(bucket(tx, s.scope.Namespace, bucketImages), func(b *bolt.Bucket, name []byte) error {
			if r := imageRecord(b, name); match(r.field) {
				return fn(r)
			}
			return nil
		})
	})
}

// Create adds an image. Times that are set are kept, for builds that must be
// reproducible.
func (s *Images) Create(ctx context.Context, img Image) (Image, error) {
	if err := img.check(); err != nil {
		return Image{}, err
	}
	err := s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b, err := makeBucket(tx.Tx, tx.ns, bucketImages)
		if err != nil {
			return err
		}
		if b.Bucket([]byte(img.Name)) != nil {
			return fmt.Errorf("image %q: %w", img.Name, errdefs.ErrAlreadyExists)
		}
		if b, err = b.CreateBucket([]byte(img.Name)); err != nil {
			return err
		}
		if _, expires := img.Labels[labelExpire]; expires {
			if err := addToLease(tx, s.scope.Lease, Resource{"images", img.Name}); err != nil {
				return err
			}
		}
		img.CreatedAt, img.UpdatedAt = orNow(img.CreatedAt), orNow(img.UpdatedAt)
		tx.publish("/images/create", &eventsapi.ImageCreate{Name: img.Name, Labels: img.Labels})
		return writeImage(tx, b, img)
	})
	if err != nil {
		return Image{}, err
	}
	return img, nil
}

func orNow(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now().UTC()
	}
	return t.UTC()
}

// Update changes what paths name ("target", "labels", "labels.<key>",
// "annotations", "annotations.<key>"), without paths everything but the time
// of creation.
func (s *Images) Update(ctx context.Context, img Image, paths ...string) (Image, error) {
	if img.Name == "" {
		return Image{}, fmt.Errorf("image name is required for update: %w", errdefs.ErrInvalidArgument)
	}
	var next Image
	err := s.db.update(ctx, s.scope.Namespace, func(tx *tx) error {
		b := bucket(tx.Tx, tx.ns, bucketImages, []byte(img.Name))
		if b == nil {
			return imageNotFound(img.Name)
		}
		old := readImage(b, img.Name)
		next = old
		if err := next.set(img, paths); err != nil {
			return err
		}
		if err := next.check(); err != nil {
			return err
		}
		tx.deleted = next.Target.Digest != old.Target.Digest
		next.UpdatedAt = orNow(img.UpdatedAt)
		tx.publish("/images/update", &eventsapi.ImageUpdate{Name: next.Name, Labels: next.Labels})
		return writeImage(tx, b, next)
	})
	return next, err
}

func (i *Image) set(from Image, paths []string) error {
	if len(paths) == 0 {
		i.Labels, i.Target = clean(from.Labels), from.Target
		return nil
	}
	set := fieldSetter{
		"labels":       func(string) { i.Labels = from.Labels },
		"labels.":      func(k string) { setKey(&i.Labels, from.Labels, k) },
		"annotations":  func(string) { i.Target.Annotations = from.Target.Annotations },
		"annotations.": func(k string) { setKey(&i.Target.Annotations, from.Target.Annotations, k) },
		"target":       func(string) { i.Target = from.Target },
	}
	err := set.apply("image "+i.Name, paths)
	i.Labels = clean(i.Labels)
	return err
}

// Delete removes the name. It is errdefs.ErrNotFound if target is given and
// the name stands for something else by now.
func (s *Images) Delete(ctx context.Context, name string, target *digest.Digest) error {
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		images := bucket(tx.Tx, tx.ns, bucketImages)
		if images == nil || images.Bucket([]byte(name)) == nil {
			return imageNotFound(name)
		}
		if img := readImage(images.Bucket([]byte(name)), name); target != nil && *target != img.Target.Digest {
			return fmt.Errorf("image %q has target %v, not %v: %w", name, img.Target.Digest, *target, errdefs.ErrNotFound)
		}
		return deleteImage(tx, images, name)
	})
}

func deleteImage(tx *tx, images *bolt.Bucket, name string) error {
	tx.deleted = true
	tx.publish("/images/delete", &eventsapi.ImageDelete{Name: name})
	return images.DeleteBucket([]byte(name))
}

func (i Image) check() error {
	if i.Name == "" {
		return fmt.Errorf("image name must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if !utf8.ValidString(i.Name) {
		return fmt.Errorf("image name %q is not UTF-8: %w", i.Name, errdefs.ErrInvalidArgument)
	}
	if err := ident.CheckLabels(i.Labels); err != nil {
		return fmt.Errorf("image %s: %w", i.Name, err)
	}
	if err := i.Target.Digest.Validate(); err != nil {
		return fmt.Errorf("image.Target.Digest is not valid: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if i.Target.Size <= 0 {
		return fmt.Errorf("image.Target.Size must be greater than zero: %w", errdefs.ErrInvalidArgument)
	}
	if i.Target.MediaType == "" {
		return fmt.Errorf("image.Target.MediaType must be set: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func writeImage(tx *tx, b *bolt.Bucket, img Image) error {
	tx.touch(node{kindImage, tx.ns, img.Name})
	if err := putTimes(b, img.CreatedAt, img.UpdatedAt); err != nil {
		return err
	}
	if err := putMap(b, bucketLabels, img.Labels); err != nil {
		return err
	}
	if err := putMap(b, keyAnnotations, img.Target.Annotations); err != nil {
		return err
	}
	t, err := b.CreateBucketIfNotExists(keyTarget)
	if err != nil {
		return err
	}
	if err := t.Put(keyDigest, []byte(img.Target.Digest)); err != nil {
		return err
	}
	if err := t.Put(keyMediaType, []byte(img.Target.MediaType)); err != nil {
		return err
	}
	return putSize(t, img.Target.Size)
}

func readImage(b *bolt.Bucket, name string) Image { return imageRecord(b, []byte(name)).image() }
