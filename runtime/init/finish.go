// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/protocol"
)

// finish waits until the process is to start and executes program. It returns
// only if that fails.
//
// The filter is the last thing before the exec, so that it need not allow
// what this program does; but a process that may gain privileges can load one
// with CAP_SYS_ADMIN only, and so before its final capabilities. A filter with
// a listener is loaded while the runtime is there to take it. Hooks run as the
// process will: they are as little trusted, and need a filter that lets them.
func (c *container) finish(program string) error {
	p := c.Spec.Process
	load := c.loadSeccomp
	ready := c.ready
	if c.Seccomp == nil {
		load = func() error { return nil }
	} else if c.Seccomp.Listen {
		load, ready = func() error { return nil }, c.loadListener
	}
	if err := ready(); err != nil {
		return err
	}
	if !c.Join {
		if err := c.wait(); err != nil {
			return err
		}
	}
	steps := []func() error{c.passFiles, c.limits, load, c.capabilities}
	if p.NoNewPrivileges {
		steps = []func() error{c.passFiles, c.limits, c.capabilities, load}
	}
	if !c.Join && c.Spec.Hooks != nil && len(c.Spec.Hooks.StartContainer) > 0 {
		hooks := func() error { return c.hooks("startContainer", specs.StateCreated) }
		steps = append(steps[2:len(steps):len(steps)], hooks, c.passFiles, c.limits) // the files are not theirs
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return linux.Exec(program, p.Args, p.Env)
}

// wait opens the FIFO, which blocks until start opens its other end, and
// writes the byte that tells start so.
func (c *container) wait() error {
	fifo := c.files[protocol.FileFifo]
	if fifo == nil {
		return nil
	}
	c.conn.Close()
	w, err := linux.OpenAt(c.proc, "self/fd/"+strconv.Itoa(int(fifo.Fd())), unix.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open exec fifo: %w", err)
	}
	defer w.Close()
	if _, err := w.WriteString("0"); err != nil {
		return fmt.Errorf("write exec fifo: %w", err)
	}
	return nil
}

// limits sets the resource limits, whose hard parts the runtime has raised.
func (c *container) limits() error {
	for _, r := range c.Spec.Process.Rlimits {
		if err := linux.SetRlimit(linux.Rlimits[r.Type], r.Soft, r.Hard); err != nil {
			return fmt.Errorf("set %s: %w", r.Type, err)
		}
	}
	return nil
}

// passFiles puts the extra files at 3 and up, where they survive the exec.
func (c *container) passFiles() error {
	extra := c.numbered(protocol.FileExtra)
	if len(extra) == 0 {
		return nil
	}
	if c.Join { // else the conversation is over
		if err := c.conn.Above(3 + len(extra)); err != nil {
			return err
		}
	}
	high := make([]int, len(extra))
	for i := range high {
		fd, err := unix.FcntlInt(extra[i].Fd(), unix.F_DUPFD_CLOEXEC, 3+len(extra))
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		high[i] = fd
	}
	for i, fd := range high {
		if err := linux.Dup2(fd, 3+i); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) filter() []unix.SockFilter {
	b := c.Seccomp.Filter
	return unsafe.Slice((*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(unix.SockFilter{})))
}

func (c *container) loadSeccomp() error {
	_, err := linux.Seccomp(c.filter(), c.Seccomp.LoadFlags())
	return err
}

func (c *container) ready() error { return c.conn.Send(protocol.Message{Kind: protocol.Ready}) }

// loadListener loads the filter, sends its listener to the runtime and says
// ready. The filter is on this thread alone, so another sends: the listener
// may be asked about the very calls that sending takes, before anyone listens.
// For the same reason this thread waits without a call.
func (c *container) loadListener() error {
	var fd atomic.Int64
	var done atomic.Bool
	var sent error
	go func() {
		for fd.Load() == 0 {
		}
		if n := fd.Load(); n > 0 {
			sent = c.conn.Send(protocol.Message{Kind: protocol.Notify}, os.NewFile(uintptr(n), "listener"))
		}
		if sent == nil {
			sent = c.ready()
		}
		done.Store(true)
	}()
	n, err := linux.Seccomp(c.filter(), c.Seccomp.LoadFlags())
	if err != nil {
		return err
	}
	fd.Store(int64(n))
	for !done.Load() {
	}
	return sent
}
