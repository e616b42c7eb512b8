// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"fmt"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/content"
	"slipway/internal/filter"
	"slipway/internal/ident"
)

// Content is the content store of one namespace: the blobs that are linked
// there, with their labels. It implements content.Store.
type Content struct {
	db    *DB
	scope ident.Scope
}

var _ content.Store = (*Content)(nil)

// Content returns the store of a scope.
func (db *DB) Content(scope ident.Scope) *Content { return &Content{db, scope} }

// blob finds a linked blob.
func (s *Content) blob(tx *bolt.Tx, d digest.Digest) *bolt.Bucket {
	return bucket(tx, s.scope.Namespace, bucketContent, bucketBlobs, []byte(d))
}

func blobNotFound(d digest.Digest) error {
	return fmt.Errorf("content digest %v: %w", d, errdefs.ErrNotFound)
}

func readBlob(b *bolt.Bucket, d digest.Digest) content.Info {
	return content.Info{
		Digest: d, Size: getSize(b), Labels: getMap(b, bucketLabels),
		CreatedAt: getTime(b, keyCreated), UpdatedAt: getTime(b, keyUpdated),
	}
}

// Info describes a blob.
func (s *Content) Info(_ context.Context, d digest.Digest) (info content.Info, err error) {
	return info, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := s.blob(tx, d)
		if b == nil {
			return blobNotFound(d)
		}
		info = readBlob(b, d)
		return nil
	})
}

// ReaderAt opens a blob.
func (s *Content) ReaderAt(ctx context.Context, d digest.Digest) (content.ReaderAt, error) {
	if _, err := s.Info(ctx, d); err != nil {
		return nil, err
	}
	return s.db.local.ReaderAt(ctx, d)
}

// Update replaces the labels that paths name ("labels", "labels.<key>"), all
// of them without paths.
func (s *Content) Update(ctx context.Context, info content.Info, paths ...string) (next content.Info, err error) {
	if err := ident.CheckLabels(info.Labels); err != nil {
		return next, err
	}
	return next, s.db.share(ctx, s.scope.Namespace, func(tx *tx) error {
		b := s.blob(tx.Tx, info.Digest)
		if b == nil {
			return blobNotFound(info.Digest)
		}
		next = readBlob(b, info.Digest)
		if len(paths) == 0 {
			paths = []string{"labels"}
		}
		set := fieldSetter{
			"labels":  func(string) { next.Labels = info.Labels },
			"labels.": func(k string) { setKey(&next.Labels, info.Labels, k) },
		}
		if err := set.apply("content info "+info.Digest.String(), paths); err != nil {
			return err
		}
		next.Labels, next.UpdatedAt = clean(next.Labels), time.Now().UTC()
		old := getMap(b, bucketLabels)
		tx.touch(node{kindContent, tx.ns, info.Digest.String()})
		tx.deleted = losesReference(old, next.Labels)
		if err := putTime(b, keyUpdated, next.UpdatedAt); err != nil {
			return err
		}
		return putMap(b, bucketLabels, next.Labels)
	})
}

// Walk calls fn for every blob that one of filters matches, by digest,
// outside of any transaction.
func (s *Content) Walk(ctx context.Context, fn func(content.Info) error, filters ...string) error {
	match, err := filter.Parse(filters...)
	if err != nil {
		return err
	}
	var all []content.Info
	err = s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := bucket(tx, s.scope.Namespace, bucketContent, bucketBlobs)
		for _, name := range names(b) {
			if info := readBlob(b.Bucket([]byte(name)), digest.Digest(name)); match(blobField(info)) {
				all = append(all, info)
			}
		}
		return nil
	})
	for _, info := range all {
		if err != nil || ctx.Err() != nil {
			break
		}
		err = fn(info)
	}
	if err != nil {
		return err
	}
	return ctx.Err()
}

// losesReference reports whether a change of labels may leave something to a
// collection.
func losesReference(from, to map[string]string) bool {
	for k, v := range from {
		if strings.HasPrefix(k, "containerd.io/gc.") && to[k] != v {
			return true
		}
	}
	return false
}

func blobField(info content.Info) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "digest":
			return info.Digest.String(), len(path) == 1
		case "labels":
			return filter.Labels(info.Labels, path[1:])
		}
		return "", false
	}
}

// Delete unlinks a blob; a collection removes the file.
func (s *Content) Delete(ctx context.Context, d digest.Digest) error {
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		if s.blob(tx.Tx, d) == nil {
			return blobNotFound(d)
		}
		if err := dropFromLease(tx, s.scope.Lease, Resource{"content", d.String()}); err != nil {
			return err
		}
		tx.deleted, tx.dirty = true, append(tx.dirty, "content")
		tx.publish("/content/delete", &eventsapi.ContentDelete{Digest: d.String()})
		return bucket(tx.Tx, tx.ns, bucketContent, bucketBlobs).DeleteBucket([]byte(d))
	})
}

// ingest finds the record of an ingest.
func (s *Content) ingest(tx *bolt.Tx, ref string) *bolt.Bucket {
	return bucket(tx, s.scope.Namespace, bucketContent, bucketIngests, []byte(ref))
}

func (s *Content) ingestNotFound(ref string) error {
	return fmt.Errorf("reference %v: %w", ref, errdefs.ErrNotFound)
}

// backendRef is the ref under which the backend has an ingest.
func (s *Content) backendRef(ref string) (backend string, expected digest.Digest, err error) {
	return backend, expected, s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		b := s.ingest(tx, ref)
		if b == nil {
			return s.ingestNotFound(ref)
		}
		backend, expected = string(b.Get(keyRef)), digest.Digest(b.Get(keyExpected))
		return nil
	})
}

// Status describes an ingest.
func (s *Content) Status(ctx context.Context, ref string) (content.Status, error) {
	backend, expected, err := s.backendRef(ref)
	if err != nil {
		return content.Status{}, err
	}
	st, err := s.db.local.Status(ctx, backend)
	if err != nil {
		return st, err
	}
	st.Ref, st.Expected = ref, expected
	return st, nil
}

// ListStatuses describes the ingests that one of filters matches.
func (s *Content) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	match, err := filter.Parse(filters...)
	if err != nil {
		return nil, err
	}
	var refs []string
	if err := s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		refs = names(bucket(tx, s.scope.Namespace, bucketContent, bucketIngests))
		return nil
	}); err != nil {
		return nil, err
	}
	var all []content.Status
	for _, ref := range refs {
		st, err := s.Status(ctx, ref)
		if errdefs.IsNotFound(err) { // over by now
			continue
		}
		if err != nil {
			return nil, err
		}
		if match(func(path []string) (string, bool) { return ref, len(path) == 1 && path[0] == "ref" }) {
			all = append(all, st)
		}
	}
	return all, nil
}

// Abort drops an ingest.
func (s *Content) Abort(ctx context.Context, ref string) error {
	backend, _, err := s.backendRef(ref)
	if err != nil {
		return err
	}
	if err := s.db.local.Abort(ctx, backend); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return s.db.remove(ctx, s.scope.Namespace, func(tx *tx) error {
		return s.dropIngest(tx, ref)
	})
}

// renamed is an error of a backend that speaks of its ref as the client does.
type renamed struct {
	error
	backend, ref string
}

func (r renamed) Error() string { return strings.ReplaceAll(r.error.Error(), r.backend, r.ref) }
func (r renamed) Unwrap() error { return r.error }

// lockedAs gives a backend's complaint about a lock the client's ref.
func lockedAs(err error, backend, ref string) error {
	text := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrUnavailable.Error())
	return fmt.Errorf("%s: %w", strings.ReplaceAll(text, backend, ref), errdefs.ErrUnavailable)
}

func (s *Content) dropIngest(tx *tx, ref string) error {
	if err := dropFromLease(tx, s.scope.Lease, Resource{"ingests", ref}); err != nil {
		return err
	}
	b := bucket(tx.Tx, tx.ns, bucketContent, bucketIngests)
	if b == nil || b.Bucket([]byte(ref)) == nil {
		return nil
	}
	return b.DeleteBucket([]byte(ref))
}
