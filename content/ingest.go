// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func (l *Local) ingestDir(ref string) string {
	return filepath.Join(l.root, "ingest", digest.FromString(ref).Encoded())
}

// Status describes an ingest.
func (l *Local) Status(_ context.Context, ref string) (Status, error) {
	return readStatus(l.ingestDir(ref))
}

// ListStatuses describes every ingest. Directories that a crash left half
// made, without their ref, are passed over.
func (l *Local) ListStatuses(ctx context.Context) ([]Status, error) {
	entries, err := os.ReadDir(filepath.Join(l.root, "ingest"))
	if err != nil {
		return nil, err
	}
	var all []Status
	for _, e := range entries {
		st, err := readStatus(filepath.Join(l.root, "ingest", e.Name()))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, ctx.Err()
}

// Abort drops an ingest. One that is being written cannot be committed any
// more, and its ref stays locked until the writer is closed.
func (l *Local) Abort(_ context.Context, ref string) error {
	dir := l.ingestDir(ref)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ingest ref %q: %w", ref, errdefs.ErrNotFound)
	}
	return os.RemoveAll(dir)
}

// abortIdle drops an ingest unless it is being written.
func (l *Local) abortIdle(ctx context.Context, ref string) error {
	if err := l.lock(ref); err != nil {
		return err
	}
	defer l.unlock(ref)
	return l.Abort(ctx, ref)
}

// RemoveIngestsExcept drops every ingest whose ref keep refuses. Ingests with
// a writer stay, as do directories without a ref, which may be in the making.
func (l *Local) RemoveIngestsExcept(ctx context.Context, keep func(ref string) bool) error {
	entries, err := os.ReadDir(filepath.Join(l.root, "ingest"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ref, err := os.ReadFile(filepath.Join(l.root, "ingest", e.Name(), "ref"))
		if err != nil || keep(string(ref)) {
			continue
		}
		if err := l.abortIdle(ctx, string(ref)); err != nil && !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readStatus describes the ingest in dir. One whose ref a power cut kept from
// the disk, which leaves an empty file, is none.
func readStatus(dir string) (Status, error) {
	ref, err := os.ReadFile(filepath.Join(dir, "ref"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && digest.FromBytes(ref).Encoded() != filepath.Base(dir) {
		return Status{}, fmt.Errorf("ingest %s: %w", filepath.Base(dir), errdefs.ErrNotFound)
	}
	if err != nil {
		return Status{}, err
	}
	fi, err := os.Stat(filepath.Join(dir, "data"))
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, fmt.Errorf("ingest %s: %w", ref, errdefs.ErrNotFound)
	}
	if err != nil {
		return Status{}, err
	}
	st := Status{Ref: string(ref), Offset: fi.Size(), StartedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}
	st.StartedAt.UnmarshalText(readOr(dir, "startedat", st.StartedAt))
	// The file is written when a writer closes: then it is exact, and the time of
	// the data, by the kernel's coarser clock, lies before it.
	var closed time.Time
	closed.UnmarshalText(readOr(dir, "updatedat", st.UpdatedAt))
	if closed.After(st.UpdatedAt) {
		st.UpdatedAt = closed
	}
	if total, err := os.ReadFile(filepath.Join(dir, "total")); err == nil {
		st.Total, _ = strconv.ParseInt(strings.TrimSpace(string(total)), 10, 64)
	}
	return st, nil
}

// readOr is the text of a time file, or that of def.
func readOr(dir, name string, def time.Time) []byte {
	if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil && new(time.Time).UnmarshalText(text) == nil {
		return text
	}
	text, _ := def.MarshalText()
	return text
}
