// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

// An exit is how and when a process ended. The status is that of a shell: 128
// and the signal for a process that a signal killed.
type exit struct {
	status int
	at     time.Time
}

// A reaper waits for every child of this process: those that it started and
// those that became its children because it is a subreaper (prctl(2)). It is
// the only caller of wait4.
//
// A process may end before the one who started it knows its pid. Between hold
// and release, therefore, the exits of unknown processes are kept, and watch
// finds them.
type reaper struct {
	mu      sync.Mutex
	watched map[int]func(exit)
	holds   int
	early   map[int]exit
}

func newReaper() *reaper {
	return &reaper{watched: map[int]func(exit){}, early: map[int]exit{}}
}

// serve reaps until ctx ends.
func (r *reaper) serve(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	for {
		r.reap()
		select {
		case <-children:
		case <-ctx.Done():
			return
		}
	}
}

// reap takes every zombie there is: signals coalesce.
func (r *reaper) reap() {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.deliver(pid, exit{status: statusOf(ws), at: time.Now().UTC()})
	}
}

func statusOf(ws unix.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func (r *reaper) deliver(pid int, e exit) {
	r.mu.Lock()
	fn, ok := r.watched[pid]
	delete(r.watched, pid)
	if !ok && r.holds > 0 {
		r.early[pid] = e
	}
	r.mu.Unlock()
	if ok {
		fn(e)
	}
}

// hold keeps the exits of unknown processes until the matching release.
func (r *reaper) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holds++
}

func (r *reaper) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holds--; r.holds == 0 {
		r.early = map[int]exit{}
	}
}

// watch calls fn once when the process ends; fn must not block. The process
// was started after the caller's hold.
func (r *reaper) watch(pid int, fn func(exit)) {
	r.mu.Lock()
	e, gone := r.early[pid]
	delete(r.early, pid)
	if !gone {
		r.watched[pid] = fn
	}
	r.mu.Unlock()
	if gone {
		fn(e)
	}
}

// A command is a program to run as a child of the shim. The exec package is of
// no use for that: its Wait would compete with the reaper.
type command struct {
	path  string
	args  []string // without the name
	env   []string
	dir   string
	files []*os.File // descriptors 0, 1, …; nil is /dev/null
	// bound has the kernel kill the process if the shim is killed, so that it
	// does not go on to make what `delete` has looked for already.
	bound bool
}

// start forks, and calls done when the process ends.
func (r *reaper) start(c command, done func(exit)) (pid int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	attr := &syscall.ProcAttr{Dir: c.dir, Env: c.env, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if c.bound {
		attr.Sys.Pdeathsig = unix.SIGKILL
	}
	for _, f := range c.files {
		if f == nil {
			f = null
		}
		attr.Files = append(attr.Files, f.Fd())
	}
	r.hold()
	defer r.release()
	err = linux.OwnTimers(func() (err error) {
		pid, err = syscall.ForkExec(c.path, append([]string{c.path}, c.args...), attr)
		return err
	})
	if err != nil {
		return 0, &os.PathError{Op: "fork/exec", Path: c.path, Err: err}
	}
	r.watch(pid, done)
	return pid, nil
}

// run starts c and waits for its end. If ctx ends first, the process is killed.
func (r *reaper) run(ctx context.Context, c command) error {
	done := make(chan exit, 1)
	pid, err := r.start(c, func(e exit) { done <- e })
	if err != nil {
		return err
	}
	select {
	case e := <-done:
		return e.err()
	case <-ctx.Done():
		unix.Kill(pid, unix.SIGKILL)
		<-done
		return ctx.Err()
	}
}

// wait waits for a command that was started by the exec package, during a
// hold. Whoever of the two is first gets to know how it ended.
func (r *reaper) wait(cmd *exec.Cmd) error {
	pid, done := cmd.Process.Pid, make(chan exit, 1)
	r.watch(pid, func(e exit) { done <- e })
	err := cmd.Wait()
	if errors.Is(err, unix.ECHILD) {
		return (<-done).err()
	}
	r.mu.Lock()
	delete(r.watched, pid)
	r.mu.Unlock()
	return err
}

// err is nil for a success.
func (e exit) err() error {
	if e.status == 0 {
		return nil
	}
	return fmt.Errorf("exit status %d", e.status)
}
