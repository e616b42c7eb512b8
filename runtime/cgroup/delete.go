// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Delete removes the groups and those below them. A group with processes that
// are not dead yet is tried again for some seconds.
func (m *Manager) Delete() error { return m.delete(time.Now().Add(patience)) }

func (m *Manager) delete(end time.Time) error {
	var errs []error
	if m.unit != nil {
		errs = append(errs, m.unit.stop())
	}
	for _, name := range m.controllers() {
		errs = append(errs, remove(m.dirs[name], end))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// remove is rmdir, which the kernel refuses (EBUSY) as long as a process is
// there or the last one is on its way out.
func remove(dir string, end time.Time) error {
	if dir == "" {
		return nil
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err == unix.EINTR {
			continue
		}
		if err != unix.EBUSY && err != unix.ENOTEMPTY || time.Now().After(end) {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		if err := removeBelow(dir, end); err != nil {
			return err
		}
		if unix.Rmdir(dir) == nil {
			return nil
		}
		time.Sleep(wait)
	}
}

func removeBelow(dir string, end time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := remove(dir+"/"+e.Name(), end); err != nil {
			return err
		}
	}
	return nil
}
