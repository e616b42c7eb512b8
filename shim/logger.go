// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long a logger may take to end by itself when its input has ended, and
// after SIGTERM.
const (
	loggerGrace = 2 * time.Second
	loggerKill  = 10 * time.Second
)

// loggerConfig is what a logging program learns about its container.
type loggerConfig struct {
	ns, id string
	reaper *reaper
}

// A logger is the program of a binary:// stream. It reads stdout and stderr of
// a process as its descriptors 3 and 4 and says on descriptor 5 that it is
// ready.
type logger struct {
	pid      int
	out, err *os.File   // the process's ends
	held     []*os.File // the reading ends, so that a logger's death is no SIGPIPE
	done     chan struct{}
}

// startLogger runs the program and waits until it is ready. A binary logger is
// ready when it writes a byte or closes the descriptor, one of binary-v2 only
// when it writes.
func startLogger(ctx context.Context, c loggerConfig, u *url.URL) (_ *logger, err error) {
	l := &logger{done: make(chan struct{})}
	var pipes [6]*os.File // the two ends of stdout, stderr and ready
	defer func() {
		if err != nil {
			for _, f := range pipes {
				f.Close() // a nil one only returns an error
			}
		}
	}()
	for i := 0; i < len(pipes); i += 2 {
		if pipes[i], pipes[i+1], err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	l.out, l.err, l.held = pipes[1], pipes[3], []*os.File{pipes[0], pipes[2]}
	cmd := command{
		path:  u.Path,
		args:  loggerArgs(u),
		env:   []string{"CONTAINER_ID=" + c.id, "CONTAINER_NAMESPACE=" + c.ns},
		files: []*os.File{nil, nil, nil, pipes[0], pipes[2], pipes[5]},
	}
	if l.pid, err = c.reaper.start(cmd, func(exit) { close(l.done) }); err != nil {
		return nil, err
	}
	pipes[5].Close()
	if err := l.ready(ctx, pipes[4], u); err != nil {
		unix.Kill(l.pid, unix.SIGKILL)
		return nil, err
	}
	return l, pipes[4].Close()
}

// loggerArgs are the pairs of the query, one after the other.
func loggerArgs(u *url.URL) (args []string) {
	for k, values := range u.Query() {
		args = append(append(args, k), values[:min(1, len(values))]...)
	}
	return args
}

func (l *logger) ready(ctx context.Context, r *os.File, u *url.URL) error {
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := r.Read(make([]byte, 1))
	if err == io.EOF && u.Scheme == "binary" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("logger %s is not ready: %w", u.Path, err)
	}
	return nil
}

// stop ends the program. Its input has ended: it is given the time to read
// what is left before a signal.
func (l *logger) stop() {
	for _, next := range []struct {
		wait   time.Duration
		signal unix.Signal
	}{{loggerGrace, unix.SIGTERM}, {loggerKill, unix.SIGKILL}} {
		select {
		case <-l.done:
			return
		case <-time.After(next.wait):
			unix.Kill(l.pid, next.signal)
		}
	}
	<-l.done
}
