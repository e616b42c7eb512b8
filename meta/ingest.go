// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"slipway/content"
	"slipway/internal/fault"
	"slipway/internal/ident"
)

// ingestLife is how long an ingest without a lease is kept.
const ingestLife = 24 * time.Hour

// Writer opens an ingest. If the blob opts.Expected is in the backend, and
// the sharing policy lets this namespace have it, the writer is complete
// already and Commit links the blob.
func (s *Content) Writer(ctx context.Context, opts content.WriterOpts) (content.Writer, error) {
	if opts.Ref == "" {
		return nil, fmt.Errorf("ref must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if opts.Expected != "" {
		if err := opts.Expected.Validate(); err != nil {
			return nil, fmt.Errorf("expected digest %q: %w: %w", opts.Expected, err, errdefs.ErrInvalidArgument)
		}
		if w, err := s.present(ctx, opts); w != nil || err != nil {
			return w, err
		}
	}
	w, err := s.ingestAs(ctx, opts, s.wanted(opts.Expected))
	if errdefs.IsAlreadyExists(err) { // came from elsewhere meanwhile
		return s.Writer(ctx, opts)
	}
	return w, err
}

// ingestAs opens an ingest of which the backend expects that digest.
func (s *Content) ingestAs(ctx context.Context, opts content.WriterOpts, expected digest.Digest) (content.Writer, error) {
	backend, err := s.register(ctx, opts)
	if err != nil {
		return nil, err
	}
	fault.Point("meta.ingest.registered")
	w, err := s.db.local.Writer(ctx, content.WriterOpts{Ref: backend, Total: opts.Total, Expected: expected})
	if errdefs.IsUnavailable(err) {
		return nil, lockedAs(err, backend, opts.Ref)
	}
	if err != nil {
		return nil, err
	}
	return &ingestWriter{Writer: w, store: s, ref: opts.Ref, expected: opts.Expected}, nil
}

// wanted is the digest to tell the backend: with isolation it must not answer
// that it has the blob, since this namespace has to bring the bytes.
func (s *Content) wanted(d digest.Digest) digest.Digest {
	if s.db.isolated {
		return ""
	}
	return d
}

// present answers for a blob that is there: errdefs.ErrAlreadyExists if it is
// linked here, a writer without work if it may be linked, nil otherwise.
func (s *Content) present(ctx context.Context, opts content.WriterOpts) (content.Writer, error) {
	linked, shareable := false, !s.db.isolated
	err := s.db.view(s.scope.Namespace, func(tx *bolt.Tx) error {
		linked = s.blob(tx, opts.Expected) != nil
		shareable = shareable || sharedElsewhere(tx, opts.Expected)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if linked {
		err := s.db.share(ctx, s.scope.Namespace, func(tx *tx) error {
			if linked = s.blob(tx.Tx, opts.Expected) != nil; !linked {
				return nil // collected meanwhile
			}
			return addToLease(tx, s.scope.Lease, Resource{"content", opts.Expected.String()})
		})
		if err != nil {
			return nil, err
		}
	}
	if linked {
		return nil, fmt.Errorf("content %v: %w", opts.Expected, errdefs.ErrAlreadyExists)
	}
	if !shareable {
		return nil, nil
	}
	// Held until the writer is closed: what is here now is not collected
	// before it is linked.
	release := s.db.busy.hold(opts.Expected.String())
	info, err := s.db.local.Info(ctx, opts.Expected)
	if err != nil {
		release()
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	return &presentWriter{&linkWriter{store: s, ref: opts.Ref, info: info, began: time.Now(), release: sync.OnceFunc(release)}}, nil
}

// sharedElsewhere reports whether a namespace that shares its blobs has d.
func sharedElsewhere(tx *bolt.Tx, d digest.Digest) bool {
	for _, name := range names(tx.Bucket(bucketRoot)) {
		ns := ident.Namespace(name)
		labels := getMap(bucket(tx, ns), bucketLabels)
		if labels["containerd.io/namespace.shareable"] == "true" && bucket(tx, ns, bucketContent, bucketBlobs, []byte(d)) != nil {
			return true
		}
	}
	return false
}

// register records the ingest before its data exist, and gives its backend
// ref.
func (s *Content) register(ctx context.Context, opts content.WriterOpts) (backend string, err error) {
	return backend, s.db.share(ctx, s.scope.Namespace, func(tx *tx) error {
		all, err := makeBucket(tx.Tx, tx.ns, bucketContent, bucketIngests)
		if err != nil {
			return err
		}
		if err := addToLease(tx, s.scope.Lease, Resource{"ingests", opts.Ref}); err != nil {
			return err
		}
		b := all.Bucket([]byte(opts.Ref))
		if b == nil {
			if b, err = all.CreateBucket([]byte(opts.Ref)); err != nil {
				return err
			}
			seq, err := all.NextSequence()
			if err != nil {
				return err
			}
			if err := b.Put(keyRef, []byte(backendName(tx.ns, seq, opts.Ref))); err != nil {
				return err
			}
		}
		tx.touch(node{kindIngest, tx.ns, opts.Ref})
		backend = string(b.Get(keyRef))
		if opts.Expected != "" {
			if err := b.Put(keyExpected, []byte(opts.Expected)); err != nil {
				return err
			}
		}
		if s.scope.Lease != "" {
			return b.Delete(keyExpireAt)
		}
		return putTime(b, keyExpireAt, time.Now().Add(ingestLife))
	})
}

// backendName is the name of a namespace's object in a backend.
func backendName(ns ident.Namespace, seq uint64, key string) string {
	return strings.Join([]string{string(ns), strconv.FormatUint(seq, 10), key}, "/")
}

// ingestWriter is a backend's writer that links what it commits.
type ingestWriter struct {
	content.Writer
	store    *Content
	ref      string
	expected digest.Digest
}

func (w *ingestWriter) Status() (content.Status, error) {
	st, err := w.Writer.Status()
	st.Ref, st.Expected = w.ref, w.expected
	return st, err
}

// Tail opens the data for reading, if the backend can.
func (w *ingestWriter) Tail() (content.Tail, error) {
	if t, ok := w.Writer.(content.Tailer); ok {
		return t.Tail()
	}
	return nil, fmt.Errorf("ref %s: reading while writing: %w", w.ref, errdefs.ErrNotImplemented)
}

// Commit moves the blob to its place, then records it.
func (w *ingestWriter) Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error {
	if err := ident.CheckLabels(labels); err != nil {
		return err
	}
	if expected == "" {
		expected = w.expected
	}
	final := expected
	if final == "" {
		final = w.Digest()
	}
	defer w.store.db.busy.hold(final.String())()
	st, err := w.Writer.Status()
	if err != nil {
		return err
	}
	err = w.Writer.Commit(ctx, size, expected, nil)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return renamed{err, st.Ref, w.ref}
	}
	fault.Point("meta.content.committed")
	return w.store.link(context.WithoutCancel(ctx), w.ref, content.Info{Digest: final, Size: st.Offset, Labels: labels})
}

// link records a blob that is in the backend and ends its ingest.
func (s *Content) link(ctx context.Context, ref string, info content.Info) error {
	exists := false
	err := s.db.share(ctx, s.scope.Namespace, func(tx *tx) error {
		if err := s.dropIngest(tx, ref); err != nil {
			return err
		}
		if err := addToLease(tx, s.scope.Lease, Resource{"content", info.Digest.String()}); err != nil {
			return err
		}
		blobs, err := makeBucket(tx.Tx, tx.ns, bucketContent, bucketBlobs)
		if err != nil {
			return err
		}
		tx.touch(node{kindContent, tx.ns, info.Digest.String()})
		if exists = blobs.Bucket([]byte(info.Digest)) != nil; exists {
			return nil // the lease has it all the same
		}
		b, err := blobs.CreateBucket([]byte(info.Digest))
		if err != nil {
			return err
		}
		now := time.Now().UTC()
		if err := putTimes(b, now, now); err != nil {
			return err
		}
		if err := putSize(b, info.Size); err != nil {
			return err
		}
		tx.publish("/content/create", &eventsapi.ContentCreate{Digest: info.Digest.String(), Size: info.Size})
		return putMap(b, bucketLabels, info.Labels)
	})
	if err == nil && exists {
		return fmt.Errorf("content %v: %w", info.Digest, errdefs.ErrAlreadyExists)
	}
	return err
}

// presentWriter begins as a linkWriter. It becomes an ingest for a client that
// sends the bytes all the same, or that goes on writing after them.
type presentWriter struct{ content.Writer }

func (w *presentWriter) Write(p []byte) (int, error) {
	if link, ok := w.Writer.(*linkWriter); ok {
		if len(p) == 0 {
			return 0, nil
		}
		if err := w.ingest(link, content.WriterOpts{Ref: link.ref}, link.copyTo); err != nil {
			return 0, err
		}
	}
	return w.Writer.Write(p)
}

func (w *presentWriter) Truncate(size int64) error {
	link, ok := w.Writer.(*linkWriter)
	if !ok || size != 0 {
		return w.Writer.Truncate(size)
	}
	opts := content.WriterOpts{Ref: link.ref, Total: link.info.Size, Expected: link.info.Digest}
	return w.ingest(link, opts, func(io.Writer) error { return nil })
}

// ingest replaces the link by an ingest that begins with what fill writes. It
// has no context: neither the record of the ingest nor its files wait for
// anything.
func (w *presentWriter) ingest(link *linkWriter, opts content.WriterOpts, fill func(io.Writer) error) error {
	ctx := context.Background()
	next, err := link.store.ingestAs(ctx, opts, "")
	if err != nil {
		return err
	}
	err = next.Truncate(0) // what an earlier writer left
	if err == nil {
		err = fill(next)
	}
	if err != nil {
		next.Close()
		return errors.Join(err, link.store.Abort(ctx, link.ref))
	}
	link.release()
	w.Writer = next
	return nil
}

// linkWriter stands for an ingest whose bytes are all there.
type linkWriter struct {
	store *Content
	ref   string
	info  content.Info
	began time.Time
	// release lets the blob be collected, unless it was linked.
	release func()
}

// copyTo writes the bytes of the blob, which is held.
func (w *linkWriter) copyTo(to io.Writer) error {
	blob, err := w.store.db.local.ReaderAt(context.Background(), w.info.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	_, err = io.Copy(to, io.NewSectionReader(blob, 0, blob.Size()))
	return err
}

func (w *linkWriter) Write([]byte) (int, error) {
	return 0, fmt.Errorf("ref %s: the blob %v is complete: %w", w.ref, w.info.Digest, errdefs.ErrFailedPrecondition)
}

func (w *linkWriter) Close() error {
	w.release()
	return nil
}

func (w *linkWriter) Digest() digest.Digest { return w.info.Digest }

func (w *linkWriter) Status() (content.Status, error) {
	return content.Status{
		Ref: w.ref, Offset: w.info.Size, Total: w.info.Size, Expected: w.info.Digest, StartedAt: w.began, UpdatedAt: w.began,
	}, nil
}

func (w *linkWriter) Truncate(size int64) error {
	if size == w.info.Size {
		return nil
	}
	return fmt.Errorf("ref %s: truncate to %d bytes: the blob %v is complete: %w", w.ref, size, w.info.Digest, errdefs.ErrFailedPrecondition)
}

func (w *linkWriter) Commit(ctx context.Context, size int64, expected digest.Digest, labels map[string]string) error {
	if err := ident.CheckLabels(labels); err != nil {
		return err
	}
	if size != 0 && size != w.info.Size {
		return fmt.Errorf("%q failed size validation: %d != %d: %w", w.ref, w.info.Size, size, errdefs.ErrFailedPrecondition)
	}
	if expected != "" && expected != w.info.Digest {
		return fmt.Errorf("unexpected commit digest %s, expected %s: %w", w.info.Digest, expected, errdefs.ErrFailedPrecondition)
	}
	info := w.info
	info.Labels = labels
	return w.store.link(ctx, w.ref, info)
}
