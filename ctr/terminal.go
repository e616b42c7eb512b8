// SPDX-License-Identifier: Apache-2.0

package ctr

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"slipway/client"
)

// A terminal is ours in raw mode: what is typed goes to a process as it is.
// A nil one is none.
type terminal struct {
	fd  int
	old *term.State
}

// terminal puts ours into raw mode, if want.
func (s *session) terminal(want bool) (*terminal, error) {
	if !want {
		return nil, nil
	}
	fd := int(s.in.Fd())
	if !term.IsTerminal(fd) {
		return nil, errors.New("provided file is not a console")
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, os.NewSyscallError("tcsetattr", err)
	}
	return &terminal{fd, old}, nil
}

func (t *terminal) restore() {
	if t != nil {
		term.Restore(t.fd, t.old)
	}
}

// streams are the standard streams of a process: ours, unless the flags say
// otherwise. A detached process gets FIFOs that nobody pumps but the ends of
// which stay there.
func (s *session) streams(id string, f *taskFlags, tty bool) (*client.IO, error) {
	switch {
	case f.nullIO:
		return client.NullIO(), nil
	case f.logURI != "":
		return client.LogIO(f.logURI, tty)
	case f.detach:
		return client.DetachedIO(f.fifoDir, id, tty)
	case tty:
		return client.NewIO(f.fifoDir, id, true, s.in, s.out, nil)
	}
	return client.NewIO(f.fifoDir, id, false, s.in, s.out, s.err)
}

// signals are those for a process that is about to start. Without a terminal
// an interrupt is one of them and is ours no longer: the process may get it as
// soon as it runs, which is before we hear that it does.
func (s *session) signals(tty *terminal) chan os.Signal {
	signals := make(chan os.Signal, 128)
	if tty != nil {
		signal.Notify(signals, unix.SIGWINCH)
		return signals
	}
	signal.Notify(signals)
	s.release()
	return signals
}

// attend passes the size of the terminal on to a process that runs, or signals
// if it has none, until stop.
func (s *session) attend(p *client.Process, tty *terminal, signals chan os.Signal) (stop func()) {
	ctx := context.WithoutCancel(s.ctx)
	s.resize(ctx, p, tty)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for got := range signals {
			if tty != nil {
				s.resize(ctx, p, tty)
				continue
			}
			if !s.forward(ctx, p, got.(unix.Signal)) {
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// ended waits for a process. With a terminal, an interrupt is ours and ends the
// wait; without one it has been passed on.
func (s *session) ended(exit <-chan client.Exit, tty *terminal) client.Exit {
	if tty == nil {
		return <-exit
	}
	select {
	case e := <-exit:
		return e
	case <-s.ctx.Done():
		return client.Exit{Err: s.ctx.Err()}
	}
}

// size is what a process is to find. It is nil without a terminal.
func (t *terminal) size() *specs.Box {
	if t == nil {
		return nil
	}
	width, height, err := term.GetSize(t.fd)
	if err != nil {
		return nil
	}
	return &specs.Box{Height: uint(height), Width: uint(width)}
}

// resize tells a process the size of the terminal, if there is one.
func (s *session) resize(ctx context.Context, p *client.Process, t *terminal) {
	size := t.size()
	if size == nil {
		return
	}
	if err := p.Resize(ctx, uint32(size.Width), uint32(size.Height)); err != nil {
		s.log().Debug("resize", "error", err)
	}
}

// forward sends a signal on. It is false when there is no process any more.
func (s *session) forward(ctx context.Context, p *client.Process, sig unix.Signal) bool {
	switch sig {
	case unix.SIGURG, unix.SIGCHLD, unix.SIGPIPE: // the Go runtime's, our children's, our output's
		return true
	}
	err := p.Kill(ctx, sig, false)
	if errdefs.IsNotFound(err) {
		return false
	}
	if err != nil {
		s.log().Error("forward signal "+sig.String(), "error", err)
	}
	return true
}
