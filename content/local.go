// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Local keeps blobs and ingests in a directory, in containerd's format:
//
//	blobs/<algorithm>/<hex>                 mode 0444, never written again
//	ingest/<sha256 of the ref>/ref          the ref
//	                          /data         bytes so far; the size is the offset
//	                          /startedat    time.Time as text
//	                          /updatedat    the same
//	                          /total        decimal, if known
//
// A blob appears by rename, after its bytes are on disk.
type Local struct {
	root string

	mu     sync.Mutex
	locked map[string]time.Time // refs with a writer, since when
}

// Open makes the directories of a store at root if they are missing.
func Open(root string) (*Local, error) {
	for _, dir := range []string{"", "blobs/sha256", "ingest"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	l := &Local{root: root, locked: make(map[string]time.Time)}
	return l, l.removeHalfMade()
}

// removeHalfMade clears away the ingests that a crash left without the ref by
// which anybody could find them. Nobody writes yet.
func (l *Local) removeHalfMade() error {
	dirs, err := filepath.Glob(filepath.Join(l.root, "ingest", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := readStatus(dir); !errdefs.IsNotFound(err) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (l *Local) blobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("content digest %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(l.root, "blobs", d.Algorithm().String(), d.Encoded()), nil
}

// Info describes a blob; CreatedAt and UpdatedAt are the file's mtime and
// atime.
func (l *Local) Info(_ context.Context, d digest.Digest) (Info, error) {
	path, err := l.blobPath(d)
	if err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return Info{}, blobError(d, err)
	}
	return infoOf(d, fi), nil
}

func infoOf(d digest.Digest, fi fs.FileInfo) Info {
	info := Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		info.UpdatedAt = time.Unix(st.Atim.Unix())
	}
	return info
}

func blobError(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("content %s: %w", d, errdefs.ErrNotFound)
	}
	return err
}

// ReaderAt opens a blob. It stays readable when the blob is deleted.
func (l *Local) ReaderAt(_ context.Context, d digest.Digest) (ReaderAt, error) {
	path, err := l.blobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, blobError(d, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return blob{f, fi.Size()}, nil
}

type blob struct {
	*os.File
	size int64
}

func (b blob) Size() int64 { return b.size }

// Delete unlinks a blob.
func (l *Local) Delete(_ context.Context, d digest.Digest) error {
	path, err := l.blobPath(d)
	if err != nil {
		return err
	}
	return blobError(d, os.Remove(path))
}

// Walk calls fn for every blob. Files that are not named by a digest are
// passed over.
func (l *Local) Walk(ctx context.Context, fn func(Info) error) error {
	algorithms, err := os.ReadDir(filepath.Join(l.root, "blobs"))
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		if alg := digest.Algorithm(a.Name()); a.IsDir() && alg.Available() {
			if err := l.walkAlgorithm(ctx, alg, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Local) walkAlgorithm(ctx context.Context, alg digest.Algorithm, fn func(Info) error) error {
	entries, err := os.ReadDir(filepath.Join(l.root, "blobs", alg.String()))
	if err != nil {
		return err
	}
	for _, e := range entries {
		d := digest.NewDigestFromEncoded(alg, e.Name())
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.Validate() != nil {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := fn(infoOf(d, fi)); err != nil {
			return err
		}
	}
	return nil
}

// lock takes ref for one writer or an abort.
func (l *Local) lock(ref string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since, ok := l.locked[ref]; ok {
		return fmt.Errorf("ref %s locked for %s (since %s): %w", ref, time.Since(since), since, errdefs.ErrUnavailable)
	}
	l.locked[ref] = time.Now()
	return nil
}

func (l *Local) unlock(ref string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.locked, ref)
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
