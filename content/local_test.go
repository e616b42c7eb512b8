// SPDX-License-Identifier: Apache-2.0

package content_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"slipway/content"
	"slipway/content/contenttest"
	"slipway/internal/fault"
)

func open(t *testing.T, dir string) *content.Local {
	t.Helper()
	l, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLocal(t *testing.T) {
	contenttest.Run(t, func(t *testing.T) content.Store { return open(t, t.TempDir()) })
}

func TestFilesAreContainerds(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	w, err := l.Writer(t.Context(), content.WriterOpts{Ref: "default/1/r", Total: 9})
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("hello"))
	ingest := filepath.Join(dir, "ingest", digest.FromString("default/1/r").Encoded())
	for name, want := range map[string]string{"ref": "default/1/r", "data": "hello", "total": "9"} {
		if got, err := os.ReadFile(filepath.Join(ingest, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
	if err := w.Commit(t.Context(), 5, "", nil); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "blobs/sha256", digest.FromString("hello").Encoded()))
	if err != nil || fi.Mode() != 0o444 {
		t.Errorf("blob: %v, %v", fi.Mode(), err)
	}
	if _, err := os.Stat(ingest); !os.IsNotExist(err) {
		t.Errorf("ingest directory: %v", err)
	}
}

func TestAnIngestThatAPowerCutEmptiedBeginsAgain(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	begin := func() content.Writer {
		w, err := l.Writer(t.Context(), content.WriterOpts{Ref: "default/1/r"})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := begin()
	w.Write([]byte("lost"))
	w.Close()
	ref := filepath.Join(dir, "ingest", digest.FromString("default/1/r").Encoded(), "ref")
	if err := os.Truncate(ref, 0); err != nil {
		t.Fatal(err)
	}
	if all, err := l.ListStatuses(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("ingests: %v, %v", all, err)
	}
	w = begin()
	w.Write([]byte("hello"))
	if err := w.Commit(t.Context(), 5, digest.FromString("hello"), nil); err != nil {
		t.Error(err)
	}
}

func TestDigestCannotLeaveTheStore(t *testing.T) {
	l := open(t, t.TempDir())
	for _, d := range []digest.Digest{"sha256:../../x", "sha256:", "x", "", "../../etc:passwd"} {
		if _, err := l.Info(t.Context(), d); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Info(%q) = %v, want an invalid argument", d, err)
		}
	}
}

func TestRemoveIngestsExcept(t *testing.T) {
	l := open(t, t.TempDir())
	for _, ref := range []string{"keep", "drop", "busy"} {
		w, err := l.Writer(t.Context(), content.WriterOpts{Ref: ref})
		if err != nil {
			t.Fatal(err)
		}
		if ref != "busy" {
			w.Close()
		}
	}
	if err := l.RemoveIngestsExcept(t.Context(), func(ref string) bool { return ref == "keep" }); err != nil {
		t.Fatal(err)
	}
	var left []string
	all, err := l.ListStatuses(t.Context())
	for _, st := range all {
		left = append(left, st.Ref)
	}
	if err != nil || len(left) != 2 || strings.Contains(strings.Join(left, " "), "drop") {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestOpenRemovesHalfMadeIngests(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	w, err := l.Writer(t.Context(), content.WriterOpts{Ref: "whole"})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	for _, name := range []string{"empty", "noref"} {
		os.Mkdir(filepath.Join(dir, "ingest", name), 0o755)
	}
	os.WriteFile(filepath.Join(dir, "ingest/noref/data"), []byte("x"), 0o600)
	open(t, dir)
	if left, _ := os.ReadDir(filepath.Join(dir, "ingest")); len(left) != 1 || left[0].Name() != digest.FromString("whole").Encoded() {
		t.Errorf("left: %v", left)
	}
}

// TestKilledAtEveryStep kills a process that stores a blob at each of its
// durable steps. Afterwards the blob is whole or absent, and can be stored.
func TestKilledAtEveryStep(t *testing.T) {
	const data = "the blob"
	if dir := os.Getenv("CONTENT_TEST_DIR"); dir != "" {
		l := open(t, dir)
		w, err := l.Writer(t.Context(), content.WriterOpts{Ref: "r"})
		if err != nil {
			t.Fatal(err)
		}
		w.Truncate(0)
		w.Write([]byte(data))
		if err := w.Commit(t.Context(), int64(len(data)), "", nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	run := func(dir, point string) error {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledAtEveryStep$")
		cmd.Env = append(os.Environ(), "CONTENT_TEST_DIR="+dir, fault.Env+"="+point)
		return cmd.Run()
	}
	for _, point := range []string{"content.ingest.made", "content.commit.synced", "content.commit.renamed"} {
		dir := t.TempDir()
		if err := run(dir, point); err == nil {
			t.Errorf("%s: the process lived", point)
		}
		l := open(t, dir)
		if info, err := l.Info(t.Context(), digest.FromString(data)); err == nil && info.Size != int64(len(data)) {
			t.Errorf("%s: blob of %d bytes", point, info.Size)
		} else if err == nil {
			continue
		}
		if err := run(dir, ""); err != nil {
			t.Errorf("%s: second attempt: %v", point, err)
		}
	}
}
