// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// patience is how long to wait for the kernel to freeze, empty or remove a
// group, which it does in the background.
const patience = 10 * time.Second

// main is the directory that says which processes the container has.
func (m *Manager) main() string {
	for _, name := range []string{"devices", unified, "pids", "memory", "freezer", "name=systemd"} {
		if dir := m.dirs[name]; dir != "" && (name != unified || m.v2) {
			return dir
		}
	}
	return ""
}

// Pids are the processes in the group and those below it. A process that is
// outside the caller's pid namespace is left out.
func (m *Manager) Pids() ([]int, error) {
	if m.main() == "" {
		return nil, nil
	}
	pids, err := pidsBelow(m.main())
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return pids, nil
}

func pidsBelow(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := read(path, "cgroup.procs")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		for line := range strings.Lines(text) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// Signal sends sig to every process of the container. The group is frozen
// meanwhile, so that no process escapes by forking.
func (m *Manager) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		return m.Kill()
	}
	return m.signal(sig)
}

func (m *Manager) signal(sig unix.Signal) (err error) {
	if frozen, _ := m.Frozen(); !frozen && m.Freeze() == nil {
		defer func() { err = errors.Join(err, m.Thaw()) }()
	}
	pids, err := m.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("cgroup: signal %d to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// Kill ends every process of the container, at once where the kernel can
// (cgroup.kill, Linux 5.14), else one by one, until none is left to kill. It
// does not wait for them to be reaped.
func (m *Manager) Kill() error {
	if dir := m.dirs[unified]; dir != "" {
		err := write(dir, "cgroup.kill", "1")
		switch {
		case err == nil && m.v2:
			return nil
		case m.v2 && errors.Is(err, unix.ENODEV):
			return nil // systemd has removed the group, which was empty
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, fs.ErrNotExist), err == nil:
		default:
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := m.signal(unix.SIGKILL); err != nil {
		return err
	}
	// A frozen process of version 1 dies when it is thawed.
	if frozen, err := m.Frozen(); err == nil && frozen {
		return m.Thaw()
	}
	return nil
}

// Freeze stops every process of the container until Thaw, and returns when
// they stand still.
func (m *Manager) Freeze() error { return m.freezer(true) }

// Thaw undoes Freeze.
func (m *Manager) Thaw() error { return m.freezer(false) }

func (m *Manager) freezer(freeze bool) error {
	act, set := "thaw", freezeV1
	if freeze {
		act = "freeze"
	}
	dir := m.Path("freezer")
	if m.v2 {
		set = freezeV2
	}
	if dir == "" {
		return fmt.Errorf("cgroup: %s: the container has no group with a freezer: %w", act, errdefs.ErrFailedPrecondition)
	}
	if err := set(dir, freeze); err != nil {
		return fmt.Errorf("cgroup: %s: %w", act, err)
	}
	return nil
}

// freezeV1 asks again and again: a process that forks, or is in
// uninterruptible sleep, can keep a group in the state FREEZING until it has
// been thawed once (freezer-subsystem.rst).
func freezeV1(dir string, freeze bool) error {
	if !freeze {
		return write(dir, "freezer.state", "THAWED")
	}
	wait := time.Millisecond
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err := write(dir, "freezer.state", "FROZEN"); err != nil {
			return err
		}
		for range 4 {
			state, err := read(dir, "freezer.state")
			if err != nil {
				return err
			}
			if state == "FROZEN" {
				return nil
			}
			time.Sleep(wait / 4)
		}
		if err := write(dir, "freezer.state", "THAWED"); err != nil {
			return err
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
	return fmt.Errorf("%s is not frozen after %s: %w", dir, patience, errdefs.ErrUnavailable)
}

func freezeV2(dir string, freeze bool) error {
	want := "0"
	if freeze {
		want = "1"
	}
	events, err := os.Open(dir + "/cgroup.events")
	if err != nil {
		return err
	}
	defer events.Close()
	if err := write(dir, "cgroup.freeze", want); err != nil {
		return err
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		text := make([]byte, 4096)
		n, err := events.ReadAt(text, 0)
		if n == 0 && err != nil {
			return err
		}
		if strings.Contains(string(text[:n]), "frozen "+want) {
			return nil
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
	if freeze {
		_ = write(dir, "cgroup.freeze", "0")
	}
	return fmt.Errorf("%s has not reached frozen %s after %s: %w", dir, want, patience, errdefs.ErrUnavailable)
}

// Frozen says whether the container is frozen by its own group.
func (m *Manager) Frozen() (bool, error) {
	file, frozen := "freezer.state", []string{"FROZEN", "FREEZING"}
	if m.v2 {
		file, frozen = "cgroup.freeze", []string{"1"}
	}
	dir := m.Path("freezer")
	if dir == "" {
		return false, nil
	}
	state, err := read(dir, file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cgroup: %w", err)
	}
	return slices.Contains(frozen, state), nil
}
