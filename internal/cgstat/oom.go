// SPDX-License-Identifier: Apache-2.0

package cgstat

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Watch tells when the kernel killed processes of a cgroup for memory.
type Watch struct {
	events *os.File // an eventfd or an inotify descriptor
	done   chan struct{}
}

// WatchOOM calls found for every such event until Close.
func (g *Group) WatchOOM(found func()) (*Watch, error) {
	open, wait := openOOMV1, waitOOMV1
	if g.unified != "" {
		open, wait = openOOMV2, waitOOMV2
	}
	events, err := open(g)
	if err != nil {
		return nil, fmt.Errorf("watch for lack of memory: %w", err)
	}
	w := &Watch{events: events, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		wait(g, events, found)
	}()
	return w, nil
}

// Close ends the watch. A nil one is none.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.events.Close()
	<-w.done
}

// openOOMV1 registers an eventfd (kernel: cgroup-v1/memory.rst, section 10).
func openOOMV1(g *Group) (*os.File, error) {
	dir, ok := g.v1["memory"]
	if !ok {
		return nil, fmt.Errorf("the memory controller is not mounted")
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	events := os.NewFile(uintptr(fd), "memory.oom_control")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		events.Close()
		return nil, err
	}
	return events, nil
}

// waitOOMV1 ends when the eventfd is closed, or when it fires because the
// cgroup is removed.
func waitOOMV1(g *Group, events *os.File, found func()) {
	for {
		if _, err := events.Read(make([]byte, 8)); err != nil {
			return
		}
		if _, err := os.Stat(g.v1["memory"]); err != nil {
			return
		}
		found()
	}
}

// openOOMV2 watches memory.events, which changes with every count in it.
func openOOMV2(g *Group) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	path := filepath.Join(g.unified, "memory.events")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func waitOOMV2(g *Group, events *os.File, found func()) {
	buf := make([]byte, 16*unix.SizeofInotifyEvent)
	for last := uint64(0); ; {
		n, err := events.Read(buf)
		if err != nil {
			return
		}
		var now v2MemoryEvents
		readKeyed(g.unified, "memory.events", &now)
		if now.OOMKill > last {
			found()
		}
		last = max(last, now.OOMKill)
		if n >= 8 && binary.NativeEndian.Uint32(buf[4:])&unix.IN_IGNORED != 0 {
			return // the cgroup is gone
		}
	}
}
