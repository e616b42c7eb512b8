// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// within fails the test if fn does not return in time.
func within(t *testing.T, claim string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Fatalf("%s: blocked", claim)
	}
}

// lockedBuffer is written by a pump and read by a test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if dirs, derr := os.ReadDir(dir); err != nil || derr != nil || len(left)+len(dirs) != 0 {
		t.Errorf("left behind: %v, %v", left, dirs)
	}
}

// openBoth opens a FIFO as the shim does, which holds both ends.
func openBoth(t *testing.T, path string) (r, w *os.File) {
	t.Helper()
	// Read-write first: it does not wait for the other end.
	rw, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Close()
	if r, err = os.OpenFile(path, os.O_RDONLY, 0); err != nil {
		t.Fatal(err)
	}
	if w, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestPumpsCopyAllAndEnd(t *testing.T) {
	root := t.TempDir()
	input := strings.Repeat("0123456789", 50_000) // more than a FIFO holds
	var out, errs lockedBuffer
	s, err := NewIO(root, "c1", false, strings.NewReader(input), &out, &errs)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.HasSuffix(s.Stdin, "/c1-stdin") || !strings.HasSuffix(s.Stderr, "/c1-stderr") {
		t.Errorf("names %q %q", s.Stdin, s.Stderr)
	}
	if info, err := os.Stat(filepath.Dir(s.Stdin)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	within(t, "the shim's side", func() {
		in, err := os.Open(s.Stdin)
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		toOut, err := os.OpenFile(s.Stdout, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer toOut.Close()
		toErr, err := os.OpenFile(s.Stderr, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer toErr.Close()
		io.WriteString(toErr, "oops")
		if n, err := io.Copy(toOut, in); err != nil || n != int64(len(input)) {
			t.Errorf("stdin had %d bytes, %v", n, err)
		}
	})
	within(t, "Wait", s.Wait)
	if out.String() != input || errs.String() != "oops" {
		t.Errorf("%d bytes of stdout, stderr %q", len(out.String()), errs.String())
	}
	select {
	case <-s.Fed():
	default:
		t.Error("stdin has not ended")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	empty(t, root)
}

func TestCloseWithoutAShim(t *testing.T) {
	root := t.TempDir()
	in, feed := io.Pipe()
	defer feed.Close()
	s, err := NewIO(root, "c1", false, in, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Cancel and Wait", func() { s.Cancel(); s.Wait() })
	within(t, "Close", func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	empty(t, root)
}

func TestTerminalHasNoStderr(t *testing.T) {
	s, err := NewIO(t.TempDir(), "c1", true, nil, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Stderr != "" || s.Stdin != "" || s.Stdout == "" || !s.Terminal || s.Fed() != nil {
		t.Errorf("%+v", s)
	}
}

func TestIDsCannotLeaveTheDirectory(t *testing.T) {
	for _, id := range []string{"", "../x", "a/b", ".."} {
		if _, err := NewIO(t.TempDir(), id, false, nil, io.Discard, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestAReaderThatFailsDoesNotStopTheProcess(t *testing.T) {
	s, err := NewIO(t.TempDir(), "c1", false, nil, brokenWriter{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	within(t, "writing more than a FIFO holds", func() {
		w, err := os.OpenFile(s.Stdout, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Error(err)
		}
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("gone") }

// A child of the process keeps its stdout open for ever.
func TestDrainGivesUpOnAQuietStream(t *testing.T) {
	var out lockedBuffer
	s, err := NewIO(t.TempDir(), "c1", false, nil, &out, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, w := openBoth(t, s.Stdout)
	if _, err := w.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	within(t, "drain", func() { s.drain(t.Context()) })
	if out.String() != "last words" {
		t.Errorf("%q", out.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	if s.drain(ctx); time.Since(begin) > quiet/2 {
		t.Error("drain outlives its context")
	}
}

func TestCloseLeavesOtherFilesAlone(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "log"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenIO(file, pipe, "file://"+file, false, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(pipe); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO is there: %v", err)
	}
}

func TestLogURI(t *testing.T) {
	for uri, ok := range map[string]bool{
		"file:///var/log/x": true, "binary:///bin/logger?a=b": true, "binary-v2:///bin/logger": true, "/var/log/x": true,
		"http://x/y": false, "file://relative": false, "": false, "%zz": false,
	} {
		s, err := LogIO(uri, false)
		if ok && (err != nil || s.Stdout != uri || s.Stderr != uri) || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", uri, s, err)
		}
	}
}
