// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/runtime"
)

// A stdio connects a process's standard streams with this program's. A process
// that is left alone gets them as they are, or a terminal whose master goes to
// a socket. One that is waited for gets a terminal that this program copies
// from and to, or the streams: by pipes if one of them is a terminal, since a
// process could type into it (TIOCSTI, ioctl_tty(2)).
type stdio struct {
	stdin, stdout, stderr, socket *os.File // for the process

	signals chan os.Signal
	copies  sync.WaitGroup // of output
	ours    []*os.File     // this end of pipes, the master
	theirs  []*os.File     // to close when the process has them
	master  *os.File
	host    *os.File // the terminal that this program runs at
	restore *unix.Termios
}

// forwarded are the signals that go to the process. They are not all there
// are: Go takes two switches of threads to ask for each, which adds up to a
// part of the time that a container takes to start.
var forwarded = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGPIPE,
	unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGIO, unix.SIGPWR,
	unix.Signal(37), unix.Signal(38), // SIGRTMIN+3 and +4: systemd's halt and poweroff
}

// connect prepares the streams of a process.
func (a *app) connect(l *launch, p *specs.Process) (*stdio, error) {
	switch {
	case l.detach && p.Terminal && l.consoleSocket == "":
		return nil, errors.New("cannot allocate tty if runc will detach without setting console socket")
	case (!l.detach || !p.Terminal) && l.consoleSocket != "":
		return nil, errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	s := &stdio{}
	if !l.detach {
		// Before the process starts, lest its end be missed.
		s.signals = make(chan os.Signal, 2048)
		signal.Notify(s.signals, forwarded...)
		if p.Terminal {
			signal.Notify(s.signals, unix.SIGWINCH)
		}
	}
	var err error
	switch {
	case l.consoleSocket != "":
		s.socket, err = dialUnix(l.consoleSocket)
	case p.Terminal:
		err = s.findHost()
	case l.detach || !isTerminal(os.Stdin) && !isTerminal(os.Stdout) && !isTerminal(os.Stderr):
		s.stdin, s.stdout, s.stderr = os.Stdin, os.Stdout, os.Stderr
	default:
		err = s.pipes()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func dialUnix(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("console socket %s: %w", path, os.NewSyscallError("connect", err))
	}
	return os.NewFile(uintptr(fd), path), nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// findHost finds this program's terminal: one of the streams may be
// redirected.
func (s *stdio) findHost() error {
	for _, f := range []*os.File{os.Stderr, os.Stdout, os.Stdin} {
		if isTerminal(f) {
			s.host = f
			return nil
		}
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.host = tty
	return nil
}

func (s *stdio) pipes() error {
	for i, end := range []struct {
		theirs **os.File
		stream *os.File
	}{{&s.stdin, os.Stdin}, {&s.stdout, os.Stdout}, {&s.stderr, os.Stderr}} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if i == 0 {
			*end.theirs = r
			s.theirs, s.ours = append(s.theirs, r), append(s.ours, w)
			go func() { // ends with this program, at the latest
				io.Copy(w, os.Stdin)
				w.Close()
			}()
			continue
		}
		*end.theirs = w
		s.theirs, s.ours = append(s.theirs, w), append(s.ours, r)
		s.copies.Go(func() { io.Copy(end.stream, r) })
	}
	return nil
}

// started takes over the terminal of a process that has been started.
func (s *stdio) started(p *runtime.Process) error {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
	if s.host == nil || p == nil || p.Console == nil {
		return nil
	}
	s.master = p.Console
	s.ours = append(s.ours, p.Console)
	s.resize()
	if err := s.raw(); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	go io.Copy(s.master, os.Stdin) // ends with this program
	s.copies.Go(func() { io.Copy(os.Stdout, s.master) })
	return nil
}

// raw has the process's terminal interpret what is typed, not this one
// (termios(3), "Raw mode"). What is printed this one interprets: it may be
// redirected, and is plain text then (PlainOutput).
func (s *stdio) raw() error {
	old, err := unix.IoctlGetTermios(int(s.host.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	s.restore = old
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(int(s.host.Fd()), unix.TCSETS, &t)
}

// resize gives the process's terminal the size of this one, if both are there.
func (s *stdio) resize() {
	if s.host == nil || s.master == nil {
		return
	}
	if size, err := unix.IoctlGetWinsize(int(s.host.Fd()), unix.TIOCGWINSZ); err == nil {
		_ = unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, size)
	}
}

// wait hands signals on to the process until it ends, and returns its status
// as a shell would: 128 and the number of the signal that ended it.
func (s *stdio) wait(p *runtime.Process) (int, error) {
	var alive sync.Mutex // held to reap the process, or to use its number before that
	ended := false
	go func() { // until close
		for sig := range s.signals {
			switch sig {
			case unix.SIGURG: // the Go scheduler's
			case unix.SIGWINCH:
				s.resize()
			default:
				alive.Lock()
				if !ended {
					_ = unix.Kill(p.Pid, sig.(unix.Signal))
				}
				alive.Unlock()
			}
		}
	}()
	for {
		awaitEnd()
		alive.Lock()
		status, over, err := reap(p.Pid)
		ended = over
		alive.Unlock()
		if err != nil {
			return 0, err
		}
		if over {
			s.copies.Wait()
			return status, nil
		}
	}
}

// awaitEnd waits until a child has ended, and leaves it to be reaped. That
// there are no children is for reap to find.
func awaitEnd() {
	for unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// reap waits for all children that have ended, and says if pid is one.
func reap(pid int) (status int, ended bool, err error) {
	for {
		var ws unix.WaitStatus
		child, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD && !ended:
			return 0, false, fmt.Errorf("process %d is not a child: %w", pid, os.NewSyscallError("wait4", err))
		case err != nil || child == 0:
			return status, ended, nil
		case child != pid:
			continue
		}
		ended, status = true, ws.ExitStatus()
		if ws.Signaled() {
			status = 128 + int(ws.Signal())
		}
	}
}

// close gives the terminal back as it was.
func (s *stdio) close() {
	if s.signals != nil {
		signal.Stop(s.signals)
		close(s.signals)
	}
	if s.restore != nil {
		_ = unix.IoctlSetTermios(int(s.host.Fd()), unix.TCSETS, s.restore)
	}
	for _, f := range append(s.theirs, s.ours...) {
		f.Close()
	}
	if s.socket != nil {
		s.socket.Close()
	}
}
