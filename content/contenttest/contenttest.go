// SPDX-License-Identifier: Apache-2.0

// Package contenttest is the contract of content.Store as a test suite.
package contenttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"slipway/content"
)

// Run checks the Store that open returns. Each case gets an empty one.
func Run(t *testing.T, open func(*testing.T) content.Store) {
	for _, c := range []struct {
		claim string
		check func(*testing.T, content.Store)
	}{
		{"a committed blob can be read", committed},
		{"an ingest keeps its bytes when the writer goes", resumed},
		{"truncate starts over", truncated},
		{"a wrong size or digest keeps the ingest", mismatch},
		{"a blob is stored once", once},
		{"one writer holds a ref", locked},
		{"abort drops the ingest", aborted},
		{"an absent blob is not found", absent},
		{"writers of one blob may race", race},
		{"other algorithms work", sha512},
	} {
		t.Run(c.claim, func(t *testing.T) { c.check(t, open(t)) })
	}
}

func writer(t *testing.T, s content.Store, opts content.WriterOpts) content.Writer {
	t.Helper()
	w, err := s.Writer(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func write(t *testing.T, w io.Writer, data string) {
	t.Helper()
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s content.Store, ref, data string) digest.Digest {
	t.Helper()
	w := writer(t, s, content.WriterOpts{Ref: ref})
	write(t, w, data)
	d := digest.FromString(data)
	if err := w.Commit(t.Context(), int64(len(data)), d, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t *testing.T, s content.Store, d digest.Digest) string {
	t.Helper()
	ra, err := s.ReaderAt(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	data, err := io.ReadAll(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func committed(t *testing.T, s content.Store) {
	d := put(t, s, "r", "hello")
	if got := read(t, s, d); got != "hello" {
		t.Errorf("read %q", got)
	}
	info, err := s.Info(t.Context(), d)
	if err != nil || info.Size != 5 || info.Digest != d || info.CreatedAt.IsZero() {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if _, err := s.Status(t.Context(), "r"); !errdefs.IsNotFound(err) {
		t.Errorf("the ingest is still there: %v", err)
	}
	if err := s.Delete(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("deleted blob: %v", err)
	}
}

func resumed(t *testing.T, s content.Store) {
	w := writer(t, s, content.WriterOpts{Ref: "r", Total: 10})
	write(t, w, "hello")
	before, err := w.Status()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	st, err := s.Status(t.Context(), "r")
	if err != nil || !st.UpdatedAt.Equal(before.UpdatedAt) || !st.StartedAt.Equal(before.StartedAt) {
		t.Errorf("status %+v after closing, %+v before: %v", st, before, err)
	}
	if err != nil || st.Offset != 5 || st.Total != 10 || st.Ref != "r" {
		t.Fatalf("Status = %+v, %v", st, err)
	}
	w = writer(t, s, content.WriterOpts{Ref: "r"})
	if st, _ := w.Status(); st.Offset != 5 || w.Digest() != digest.FromString("hello") {
		t.Fatalf("resumed at %d, digest %s", st.Offset, w.Digest())
	}
	write(t, w, "world")
	if err := w.Commit(t.Context(), 10, digest.FromString("helloworld"), nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, digest.FromString("helloworld")); got != "helloworld" {
		t.Errorf("read %q", got)
	}
}

func truncated(t *testing.T, s content.Store) {
	w := writer(t, s, content.WriterOpts{Ref: "r"})
	write(t, w, "garbage")
	if err := w.Truncate(0); err != nil {
		t.Fatal(err)
	}
	write(t, w, "ok")
	if err := w.Commit(t.Context(), 2, digest.FromString("ok"), nil); err != nil {
		t.Fatal(err)
	}
}

func mismatch(t *testing.T, s content.Store) {
	w := writer(t, s, content.WriterOpts{Ref: "r"})
	write(t, w, "hello")
	if err := w.Commit(t.Context(), 4, "", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("wrong size: %v", err)
	}
	w.Close()
	w = writer(t, s, content.WriterOpts{Ref: "r"})
	if err := w.Commit(t.Context(), 5, digest.FromString("other"), nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("wrong digest: %v", err)
	}
	w.Close()
	if st, err := s.Status(t.Context(), "r"); err != nil || st.Offset != 5 {
		t.Errorf("ingest after a failed commit: %+v, %v", st, err)
	}
}

func once(t *testing.T, s content.Store) {
	d := put(t, s, "a", "hello")
	if _, err := s.Writer(t.Context(), content.WriterOpts{Ref: "b", Expected: d}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("open with the digest of a blob: %v", err)
	}
	w := writer(t, s, content.WriterOpts{Ref: "c"})
	write(t, w, "hello")
	if err := w.Commit(t.Context(), 5, d, nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("commit of a blob that is there: %v", err)
	}
	if _, err := s.Status(t.Context(), "c"); !errdefs.IsNotFound(err) {
		t.Errorf("the ingest is still there: %v", err)
	}
}

func locked(t *testing.T, s content.Store) {
	w := writer(t, s, content.WriterOpts{Ref: "r"})
	if _, err := s.Writer(t.Context(), content.WriterOpts{Ref: "r"}); !errdefs.IsUnavailable(err) {
		t.Errorf("second writer: %v", err)
	}
	w.Close()
	writer(t, s, content.WriterOpts{Ref: "r"})
	if _, err := s.Writer(t.Context(), content.WriterOpts{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no ref: %v", err)
	}
}

func aborted(t *testing.T, s content.Store) {
	w := writer(t, s, content.WriterOpts{Ref: "r"})
	write(t, w, "x")
	w.Close()
	if err := s.Abort(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	if err := s.Abort(t.Context(), "r"); !errdefs.IsNotFound(err) {
		t.Errorf("second abort: %v", err)
	}
	w = writer(t, s, content.WriterOpts{Ref: "r"})
	if st, _ := w.Status(); st.Offset != 0 {
		t.Errorf("a new ingest begins at %d", st.Offset)
	}
}

func absent(t *testing.T, s content.Store) {
	d := digest.FromString("nothing")
	if _, err := s.ReaderAt(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("ReaderAt: %v", err)
	}
	if err := s.Delete(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Status(t.Context(), "r"); !errdefs.IsNotFound(err) {
		t.Errorf("Status: %v", err)
	}
}

func race(t *testing.T, s content.Store) {
	data := bytes.Repeat([]byte("0123456789"), 10000)
	d := digest.FromBytes(data)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := ingest(t.Context(), s, fmt.Sprint("r", i), data); err != nil && !errdefs.IsAlreadyExists(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := read(t, s, d); got != string(data) {
		t.Error("the blob is damaged")
	}
}

func ingest(ctx context.Context, s content.Store, ref string, data []byte) error {
	w, err := s.Writer(ctx, content.WriterOpts{Ref: ref})
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit(ctx, int64(len(data)), digest.FromBytes(data), nil)
}

func sha512(t *testing.T, s content.Store) {
	d := digest.SHA512.FromString("hello")
	w := writer(t, s, content.WriterOpts{Ref: "r"})
	write(t, w, "hello")
	if err := w.Commit(t.Context(), 5, d, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, d); got != "hello" {
		t.Errorf("read %q", got)
	}
}
