// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"slipway/internal/fault"
)

// Writer opens or resumes an ingest. What a resumed one holds is hashed again.
func (l *Local) Writer(ctx context.Context, opts WriterOpts) (_ Writer, err error) {
	if opts.Ref == "" {
		return nil, fmt.Errorf("ref must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	if opts.Expected != "" {
		if _, err := l.Info(ctx, opts.Expected); err == nil {
			return nil, fmt.Errorf("content %v: %w", opts.Expected, errdefs.ErrAlreadyExists)
		} else if !errdefs.IsNotFound(err) {
			return nil, err
		}
	}
	if err := l.lock(opts.Ref); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.unlock(opts.Ref)
		}
	}()
	return l.openWriter(opts)
}

func (l *Local) openWriter(opts WriterOpts) (*writer, error) {
	alg := digest.Canonical
	if opts.Expected != "" {
		alg = opts.Expected.Algorithm()
	}
	w := &writer{local: l, dir: l.ingestDir(opts.Ref), algorithm: alg, hash: newHash(alg)}
	st, err := readStatus(w.dir)
	switch {
	case errdefs.IsNotFound(err):
		w.status = Status{Ref: opts.Ref, Total: opts.Total, Expected: opts.Expected, StartedAt: time.Now()}
		return w, w.create()
	case err != nil:
		return nil, err
	case opts.Total > 0 && st.Total > 0 && opts.Total != st.Total:
		return nil, fmt.Errorf("ref %s was begun with a total of %d bytes, not %d: %w", opts.Ref, st.Total, opts.Total, errdefs.ErrFailedPrecondition)
	}
	st.Total, st.Expected = max(st.Total, opts.Total), opts.Expected
	w.status = st
	return w, w.resume()
}

// newHash names the hashes of package digest, so that they are linked in.
func newHash(alg digest.Algorithm) hash.Hash {
	switch alg {
	case digest.SHA384:
		return sha512.New384()
	case digest.SHA512:
		return sha512.New()
	}
	return sha256.New()
}

// writer is the one writer of an ingest.
type writer struct {
	local     *Local
	dir       string
	algorithm digest.Algorithm
	status    Status
	hash      hash.Hash
	file      *os.File // nil after Close
	flushed   int64    // bytes on their way to the disk
}

func (w *writer) create() (err error) {
	os.RemoveAll(w.dir) // what a crash left without a ref or data
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(w.dir)
		}
	}()
	fault.Point("content.ingest.made")
	started, err := w.status.StartedAt.MarshalText()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ref": []byte(w.status.Ref), "startedat": started, "updatedat": started}
	if w.status.Total > 0 {
		files["total"] = strconv.AppendInt(nil, w.status.Total, 10)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o666); err != nil {
			return err
		}
	}
	w.status.UpdatedAt = w.status.StartedAt
	w.file, err = os.OpenFile(filepath.Join(w.dir, "data"), os.O_CREATE|os.O_RDWR, 0o666)
	return err
}

func (w *writer) resume() (err error) {
	w.file, err = os.OpenFile(filepath.Join(w.dir, "data"), os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	w.status.Offset, err = io.Copy(w.hash, w.file) // leaves the file at its end
	if err != nil {
		w.file.Close()
	}
	return err
}

func (w *writer) Write(p []byte) (int, error) {
	if w.file == nil {
		return 0, fmt.Errorf("ref %s: write to a closed writer: %w", w.status.Ref, errdefs.ErrFailedPrecondition)
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.status.Offset += int64(n)
	w.writeBack()
	w.status.UpdatedAt = time.Now()
	return n, err
}

// Tail opens the data for reading.
func (w *writer) Tail() (Tail, error) { return os.Open(filepath.Join(w.dir, "data")) }

// writeBackEvery is how many bytes are left to the page cache at most.
const writeBackEvery = 16 << 20

// writeBack starts writing to the disk what has come together, so that the
// commit has less to wait for. Nothing depends on it.
func (w *writer) writeBack() {
	if n := w.status.Offset - w.flushed; n >= writeBackEvery {
		unix.SyncFileRange(int(w.file.Fd()), w.flushed, n, unix.SYNC_FILE_RANGE_WRITE)
		w.flushed = w.status.Offset
	}
}

func (w *writer) Digest() digest.Digest {
	return digest.NewDigest(w.algorithm, w.hash)
}

func (w *writer) Status() (Status, error) { return w.status, nil }

func (w *writer) Truncate(size int64) error {
	if size == w.status.Offset {
		return nil
	}
	if size != 0 {
		return fmt.Errorf("ref %s: truncate to %d bytes: only 0 is possible: %w", w.status.Ref, size, errdefs.ErrNotImplemented)
	}
	if w.file == nil {
		return fmt.Errorf("ref %s: truncate a closed writer: %w", w.status.Ref, errdefs.ErrFailedPrecondition)
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.hash.Reset()
	w.status.Offset, w.flushed = 0, 0
	return w.file.Truncate(0)
}

// Close ends writing and keeps the ingest. It may be called after Commit.
func (w *writer) Close() error {
	if w.file == nil {
		return nil
	}
	defer w.local.unlock(w.status.Ref)
	err := w.file.Close()
	w.file = nil
	if text, terr := w.status.UpdatedAt.MarshalText(); terr == nil {
		tmp := filepath.Join(w.dir, "updatedat.tmp")
		if os.WriteFile(tmp, text, 0o666) == nil {
			os.Rename(tmp, filepath.Join(w.dir, "updatedat"))
		}
	}
	return err
}

func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, _ map[string]string) error {
	if w.file == nil {
		return fmt.Errorf("ref %s: commit of a closed writer: %w", w.status.Ref, errdefs.ErrFailedPrecondition)
	}
	dgst, err := w.check(size, expected)
	if err != nil {
		return err
	}
	path, err := w.local.blobPath(dgst)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		w.drop()
		return fmt.Errorf("content %v: %w", dgst, errdefs.ErrAlreadyExists)
	}
	err = w.publish(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("commit %s: ref %s was aborted: %w: %w", dgst, w.status.Ref, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", dgst, err)
	}
	w.drop()
	return nil
}

// check compares what was written with what was announced.
func (w *writer) check(size int64, expected digest.Digest) (digest.Digest, error) {
	if size > 0 && size != w.status.Offset {
		return "", fmt.Errorf("%q failed size validation: %d != %d: %w", w.status.Ref, w.status.Offset, size, errdefs.ErrFailedPrecondition)
	}
	if expected == "" {
		expected = w.status.Expected
	}
	dgst := w.Digest()
	if expected != "" && expected.Algorithm() != w.algorithm {
		if err := w.rehash(expected.Algorithm()); err != nil {
			return "", err
		}
		dgst = w.Digest()
	}
	if expected != "" && expected != dgst {
		return "", fmt.Errorf("unexpected commit digest %s, expected %s: %w", dgst, expected, errdefs.ErrFailedPrecondition)
	}
	return dgst, nil
}

// rehash is for a digest that was announced only at commit, in another
// algorithm.
func (w *writer) rehash(alg digest.Algorithm) error {
	if !alg.Available() {
		return fmt.Errorf("ref %s: digest algorithm %s: %w", w.status.Ref, alg, errdefs.ErrInvalidArgument)
	}
	w.algorithm, w.hash = alg, newHash(alg)
	_, err := io.Copy(w.hash, io.NewSectionReader(w.file, 0, w.status.Offset))
	return err
}

// publish makes the bytes durable, and then the name.
func (w *writer) publish(path string) error {
	if err := w.file.Sync(); err != nil {
		return err
	}
	if err := w.file.Chmod(0o444); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fault.Point("content.commit.synced")
	if err := os.Rename(filepath.Join(w.dir, "data"), path); err != nil {
		return err
	}
	fault.Point("content.commit.renamed")
	return syncDir(dir)
}

// drop ends the ingest.
func (w *writer) drop() {
	w.file.Close()
	w.file = nil
	// Without data it is no ingest any more: should the removal fail, the next
	// writer of this ref clears it away.
	os.RemoveAll(w.dir)
	w.local.unlock(w.status.Ref)
}
