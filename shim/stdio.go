// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	openTimeout  = 30 * time.Second // for a reader of a FIFO to appear
	drainTimeout = 10 * time.Second // for a terminal's output after the exit
)

// stdioURIs says where the streams of a process go, in the words of the wire.
type stdioURIs struct {
	stdin, stdout, stderr string
	terminal              bool
}

// streams are the open streams of one process.
//
// Without a terminal nothing is copied: the process reads and writes the FIFO,
// file or pipe itself. The shim only keeps the other end of each FIFO open, so
// that clients may come and go: a reader of stdout and stderr, without which
// the process would get SIGPIPE, and a writer of stdin, without which it would
// see the end of the input when the first client leaves. The end comes when
// that writer is closed by CloseIO and the client's own is closed too, so
// nothing that was written before is lost.
//
// With a terminal two goroutines copy between it and the FIFOs.
type streams struct {
	give Stdio // what the process gets; with a terminal, the ends to copy to

	mu      sync.Mutex
	stdin   []*os.File // what CloseIO closes
	held    []*os.File // what is closed when the process ended
	logger  *logger
	console *os.File
	copied  chan struct{} // closed at the end of the terminal's output; nil without one
}

// openStreams opens what u names. It waits for the readers of FIFOs.
func openStreams(ctx context.Context, l loggerConfig, u stdioURIs, o Options) (_ *streams, err error) {
	s := &streams{give: Stdio{Terminal: u.terminal}}
	defer func() {
		if err != nil {
			s.given()
			s.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if u.stdin != "" {
		if err := s.openIn(u.stdin); err != nil {
			return nil, fmt.Errorf("stdin %s: %w", u.stdin, err)
		}
	}
	if u.stdout != "" {
		if err := s.openOut(ctx, l, u.stdout, o); err != nil {
			return nil, fmt.Errorf("stdout %s: %w", u.stdout, err)
		}
	}
	if u.stderr != "" && !u.terminal && s.give.Err == nil {
		if s.give.Err, err = s.openPath(ctx, u.stderr, o); err != nil {
			return nil, fmt.Errorf("stderr %s: %w", u.stderr, err)
		}
	}
	return s, nil
}

// parseURI splits a stream's name; a plain path is a FIFO.
func parseURI(name string) (*url.URL, error) {
	u, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if u.Scheme == "" {
		u.Scheme, u.Path = "fifo", name
	}
	return u, nil
}

func (s *streams) openIn(name string) error {
	u, err := parseURI(name)
	if err != nil {
		return err
	}
	if u.Scheme != "fifo" {
		return fmt.Errorf("scheme %s for input: %w", u.Scheme, errdefs.ErrNotImplemented)
	}
	r, err := openFile(u.Path, unix.O_RDONLY, s.give.Terminal)
	if err != nil {
		return err
	}
	s.give.In = r
	if info, err := r.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return err
	}
	w, err := openFile(u.Path, unix.O_WRONLY, true)
	if err != nil {
		return err
	}
	s.stdin = append(s.stdin, w)
	return nil
}

// openOut opens stdout, and stderr too where one name stands for both.
func (s *streams) openOut(ctx context.Context, l loggerConfig, name string, o Options) error {
	u, err := parseURI(name)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "binary", "binary-v2":
		s.logger, err = startLogger(ctx, l, u)
		if err == nil {
			s.give.Out, s.give.Err = s.logger.out, s.logger.err
			s.held = append(s.held, s.logger.held...)
		}
		return err
	case "file":
		if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
			return err
		}
		s.give.Out, err = os.OpenFile(u.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		s.give.Err = s.give.Out
		return err
	case "fifo":
		s.give.Out, err = s.openPath(ctx, name, o)
		return err
	}
	return fmt.Errorf("scheme %s for output: %w", u.Scheme, errdefs.ErrNotImplemented)
}

// openPath opens a FIFO for writing once somebody reads it, or appends to a
// plain file.
func (s *streams) openPath(ctx context.Context, name string, o Options) (*os.File, error) {
	u, err := parseURI(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(u.Path)
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return os.OpenFile(u.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	}
	w, err := openWriter(ctx, u.Path, s.give.Terminal)
	if err != nil {
		return nil, err
	}
	r, err := openFile(u.Path, unix.O_RDONLY, true)
	if err != nil {
		w.Close()
		return nil, err
	}
	s.held = append(s.held, r)
	if o.IOUid != 0 || o.IOGid != 0 {
		err = w.Chown(int(o.IOUid), int(o.IOGid))
	}
	return w, err
}

// openFile opens without waiting. What a process gets must block afterwards;
// what the shim reads and writes itself must not.
func openFile(path string, mode int, poll bool) (*os.File, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if !poll {
		if err := unix.SetNonblock(fd, false); err != nil {
			unix.Close(fd)
			return nil, &os.PathError{Op: "fcntl", Path: path, Err: err}
		}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openWriter asks again until there is a reader: a blocking open(2) could not
// be given up.
func openWriter(ctx context.Context, path string, poll bool) (*os.File, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		f, err := openFile(path, unix.O_WRONLY, poll)
		if e, ok := err.(*os.PathError); !ok || e.Err != unix.ENXIO {
			return f, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("no reader: %w", ctx.Err())
		}
	}
}

// given is called when the process has its own copies of the files.
func (s *streams) given() {
	if s.give.Terminal && s.console != nil {
		return
	}
	for _, f := range []*os.File{s.give.In, s.give.Out, s.give.Err} {
		if f != nil {
			f.Close()
		}
	}
}

// attach copies between a terminal and the streams, until exited and close.
func (s *streams) attach(console *os.File) {
	s.console, s.copied = console, make(chan struct{})
	if s.give.In != nil {
		go func() {
			io.Copy(onlyWriter{console}, onlyReader{s.give.In})
			s.give.In.Close()
		}()
	}
	if s.give.Err != nil && s.give.Err != s.give.Out { // a logger's; a terminal has one stream
		s.give.Err.Close()
	}
	go func() {
		defer close(s.copied)
		var out io.Writer = io.Discard
		if s.give.Out != nil {
			defer s.give.Out.Close()
			out = onlyWriter{s.give.Out}
		}
		io.Copy(out, onlyReader{console}) // EIO at the end, when no slave is open
	}()
}

// onlyReader and onlyWriter hide the methods for which io.Copy would try
// splice and sendfile, which ttys refuse.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// closeStdin lets the process see the end of its input.
func (s *streams) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	closeFiles(&s.stdin)
}

// exited is called when the process ended. The clients see the end of the
// output as soon as no other process writes to it.
func (s *streams) exited() {
	s.closeStdin()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.console == nil {
		closeFiles(&s.held)
	} else if s.give.In != nil {
		s.give.In.Close()
	}
}

// close waits for the output of a terminal and for the logger, and closes all.
func (s *streams) close() {
	s.exited()
	if s.copied != nil {
		select {
		case <-s.copied:
		case <-time.After(drainTimeout):
		}
		s.console.Close()
		if s.give.Out != nil {
			s.give.Out.Close()
		}
		<-s.copied
	}
	s.mu.Lock()
	closeFiles(&s.held)
	s.mu.Unlock()
	if s.logger != nil {
		s.logger.stop()
	}
}

func closeFiles(files *[]*os.File) {
	for _, f := range *files {
		f.Close()
	}
	*files = nil
}
