// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"

	"slipway/internal/ident"
)

// FIFODir is where NewIO makes directories if it is told no other place.
const FIFODir = "/run/containerd/fifo"

// quiet is how long output may pause before a process that has exited is
// taken to have left the writing end to a child that will not.
const quiet = 3 * time.Second

// IO is the standard streams of a process: FIFOs, which the shim opens too,
// with a pump for each that copies between it and this process; or the URI of
// a logger, or nothing. The order of a process's life is
//
//	NewIO → NewTask or Exec → Start → exit → Delete: Wait, Close
//
// and Close alone undoes NewIO when there is no process.
type IO struct {
	Stdin, Stdout, Stderr string // paths or URIs, empty for none
	Terminal              bool

	cancel  context.CancelFunc // gives up FIFOs that nobody has opened yet
	ctx     context.Context
	in      io.Closer
	pumps   []*pump    // of stdout and stderr
	held    []*os.File // ends that are only kept open
	done    chan struct{}
	fed     chan struct{} // closed when stdin has ended; nil without a pump
	closing sync.Once
}

// NullIO returns streams that read nothing and keep nothing.
func NullIO() *IO { return emptyIO() }

func emptyIO() *IO {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	close(done)
	return &IO{ctx: ctx, cancel: cancel, done: done}
}

// LogIO returns streams whose output goes to a logger: file:///path,
// binary:///path?key=value, or binary-v2; a path alone is a FIFO or a file.
func LogIO(uri string, terminal bool) (*IO, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("log uri %q: %w: %w", uri, err, errdefs.ErrInvalidArgument)
	}
	if !slices.Contains([]string{"", "fifo", "file", "binary", "binary-v2"}, u.Scheme) || !filepath.IsAbs(u.Path) {
		return nil, fmt.Errorf("log uri %q: not file:///…, binary:///… or binary-v2:///…: %w", uri, errdefs.ErrInvalidArgument)
	}
	s := emptyIO()
	s.Stdout, s.Stderr, s.Terminal = uri, uri, terminal
	if terminal {
		s.Stderr = "" // a terminal has one output
	}
	return s, nil
}

// NewIO makes FIFOs for the process id in a new directory below root (FIFODir
// if empty) and starts to pump. A nil reader or writer gets no FIFO, nor does
// stderr with a terminal. The end of stdin closes its FIFO.
func NewIO(root, id string, terminal bool, stdin io.Reader, stdout, stderr io.Writer) (*IO, error) {
	s, err := makeFIFOs(root, id, terminal, stdin != nil, stdout != nil, stderr != nil)
	if err != nil {
		return nil, err
	}
	return s, s.attach(stdin, stdout, stderr)
}

// DetachedIO makes FIFOs as NewIO does, but no pumps: whoever attaches later
// reads and writes them. Until Start or Close it keeps the output open, since a
// shim waits for a reader before it lets a process start.
func DetachedIO(root, id string, terminal bool) (*IO, error) {
	s, err := makeFIFOs(root, id, terminal, true, true, true)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{s.Stdout, s.Stderr} {
		if path == "" {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.held = append(s.held, f)
	}
	return s, nil
}

func (s *IO) release() {
	for _, f := range s.held {
		f.Close()
	}
}

func makeFIFOs(root, id string, terminal, stdin, stdout, stderr bool) (_ *IO, err error) {
	if err := ident.Check(id); err != nil {
		return nil, err
	}
	if root == "" {
		root = FIFODir
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, "")
	if err != nil {
		return nil, err
	}
	s := emptyIO()
	s.Terminal = terminal
	defer func() {
		if err != nil {
			s.Close()
			os.Remove(dir)
		}
	}()
	for _, f := range []struct {
		want bool
		path *string
		name string
	}{{stdin, &s.Stdin, "stdin"}, {stdout, &s.Stdout, "stdout"}, {stderr && !terminal, &s.Stderr, "stderr"}} {
		if !f.want {
			continue
		}
		path := filepath.Join(dir, id+"-"+f.name)
		if err := unix.Mkfifo(path, 0o700); err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		*f.path = path
	}
	return s, nil
}

// OpenIO is the streams of a process that exists. nil readers and writers are
// not attached.
func OpenIO(stdin, stdout, stderr string, terminal bool, in io.Reader, out, errs io.Writer) (*IO, error) {
	s := emptyIO()
	s.Stdin, s.Stdout, s.Stderr, s.Terminal = stdin, stdout, stderr, terminal
	if fifoPath(stdin) == "" {
		in = nil
	}
	if fifoPath(stdout) == "" {
		out = nil
	}
	if fifoPath(stderr) == "" || terminal {
		errs = nil
	}
	return s, s.attach(in, out, errs)
}

// fifoPath is the file of a stream, "" if it is none.
func fifoPath(uri string) string {
	path := strings.TrimPrefix(uri, "fifo://")
	if !filepath.IsAbs(path) {
		return ""
	}
	return path
}

// attach opens the FIFOs that have a reader or writer and starts the pumps.
// Opening waits, in the background, for the other end.
func (s *IO) attach(stdin io.Reader, stdout, stderr io.Writer) (err error) {
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, o := range []struct {
		w   io.Writer
		uri string
	}{{stdout, s.Stdout}, {stderr, s.Stderr}} {
		if o.w == nil || o.uri == "" {
			continue
		}
		f, err := fifo.OpenFifo(s.ctx, fifoPath(o.uri), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		s.pumps = append(s.pumps, &pump{from: f, to: o.w})
	}
	s.run()
	if stdin == nil || s.Stdin == "" {
		return nil
	}
	f, err := fifo.OpenFifo(s.ctx, fifoPath(s.Stdin), unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.in, s.fed = f, make(chan struct{})
	go func() { // ends with stdin, or at the first write after Close
		io.Copy(f, stdin)
		f.Close()
		close(s.fed)
	}()
	return nil
}

func (s *IO) run() {
	var running sync.WaitGroup
	for _, p := range s.pumps {
		running.Go(p.run)
	}
	s.done = make(chan struct{})
	go func() {
		running.Wait()
		close(s.done)
	}()
}

// Wait returns when all output has been copied: the shim has closed its ends.
func (s *IO) Wait() { <-s.done }

// Fed is closed when stdin has ended and all of it is in the FIFO. It is nil
// if there is no stdin to pump.
func (s *IO) Fed() <-chan struct{} { return s.fed }

// Cancel gives up FIFOs whose other end nobody has opened. Those that are
// open go on.
func (s *IO) Cancel() { s.cancel() }

// Close ends the pumps and removes the FIFOs.
func (s *IO) Close() error {
	var err error
	s.closing.Do(func() { err = s.close() })
	return err
}

func (s *IO) close() error {
	s.cancel()
	var errs []error
	if s.in != nil {
		s.in.Close()
	}
	for _, p := range s.pumps {
		p.from.Close()
	}
	s.release()
	select {
	case <-s.done:
	case <-time.After(cleanupTimeout): // a writer of ours is stuck
	}
	for _, uri := range []string{s.Stdin, s.Stdout, s.Stderr} {
		path := fifoPath(uri)
		if path == "" {
			continue
		}
		if ok, err := fifo.IsFifo(path); err != nil || !ok {
			continue // gone, or not ours to remove
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		unix.Rmdir(filepath.Dir(path)) // if this was the last
	}
	return errors.Join(errs...)
}

// drain waits for the output of a process that has exited, and returns early
// if somebody else keeps it open.
func (s *IO) drain(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for {
		select {
		case <-s.done:
			return
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.Sub(start) > quiet && !slices.ContainsFunc(s.pumps, func(p *pump) bool { return p.active(now) }) {
				return
			}
		}
	}
}

// pump copies the output of a process.
type pump struct {
	from    io.ReadCloser
	to      io.Writer
	last    atomic.Int64 // when it was last at work, in ns
	writing atomic.Bool
}

func (p *pump) run() {
	defer p.from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := p.from.Read(buf)
		if n > 0 {
			p.writing.Store(true)
			p.to.Write(buf[:n]) // a reader that has gone must not stop the process
			p.last.Store(time.Now().UnixNano())
			p.writing.Store(false)
		}
		if err != nil {
			return
		}
	}
}

// active tells whether p may have more to copy: its writer is slow, or it was
// at work a moment ago.
func (p *pump) active(now time.Time) bool {
	return p.writing.Load() || now.Sub(time.Unix(0, p.last.Load())) < quiet
}
