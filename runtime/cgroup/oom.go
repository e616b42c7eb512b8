// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OOMKills counts the processes of the container that the kernel killed for
// want of memory; in version 1 since Linux 4.13.
func (m *Manager) OOMKills() (uint64, error) {
	file := "memory.oom_control"
	if m.v2 {
		file = "memory.events"
	}
	dir := m.Path("memory")
	if dir == "" {
		return 0, nil
	}
	keys, err := readKeys(dir, file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cgroup: %w", err)
	}
	return keys["oom_kill"], nil
}

// OOMEvents sends when the kernel has run out of memory in the container. The
// channel is closed when the group is empty (version 2) or gone, or ctx ends.
func (m *Manager) OOMEvents(ctx context.Context) (<-chan struct{}, error) {
	dir := m.Path("memory")
	if dir == "" {
		return nil, fmt.Errorf("cgroup: memory events: the container has no group of the memory controller: %w", errdefs.ErrFailedPrecondition)
	}
	open := m.watchV1
	if m.v2 {
		open = m.watchV2
	}
	f, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("cgroup: memory events of %s: %w", filepath.Base(dir), err)
	}
	events := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		defer close(events)
		defer f.Close()
		defer stop()
		m.watch(f, dir, events)
	}()
	return events, nil
}

// watch reads notifications until f is closed or the group is gone. Version 2
// notifies of every change, so the counter decides.
func (m *Manager) watch(f *os.File, dir string, events chan<- struct{}) {
	seen, _ := m.OOMKills()
	buf := make([]byte, 4096)
	for {
		if _, err := f.Read(buf); err != nil || unix.Access(dir, unix.F_OK) != nil {
			return
		}
		kills, err := m.OOMKills()
		if err == nil && (!m.v2 || kills > seen) {
			seen = kills
			select {
			case events <- struct{}{}:
			default: // one is waiting to be seen
			}
		}
		if state, _ := readKeys(dir, "cgroup.events"); m.v2 && state["populated"] == 0 {
			return // nothing tells of the removal of the group
		}
	}
}

// watchV1 registers an eventfd with the memory controller (memory.rst,
// section 10), which it signals at the removal of the group too.
func (m *Manager) watchV1(dir string) (*os.File, error) {
	control, err := os.Open(dir + "/memory.oom_control")
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	if err := write(dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// watchV2 watches memory.events, which the kernel marks as modified, and
// cgroup.events, which it does when the last process is gone.
func (m *Manager) watchV2(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	for _, file := range []string{"memory.events", "cgroup.events"} {
		if _, err := unix.InotifyAddWatch(fd, dir+"/"+file, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "watch", Path: dir + "/" + file, Err: err}
		}
	}
	return f, nil
}
