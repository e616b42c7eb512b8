// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// write writes values to a control file. The kernel takes each in one write(2).
func write(dir, file string, values ...string) error {
	if dir == "" {
		controller, _, _ := strings.Cut(file, ".")
		return fmt.Errorf("cannot set %s limit: container could not join or create cgroup: %w", controller, errdefs.ErrFailedPrecondition)
	}
	path := dir + "/" + file
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("write %s to %s: %w", strconv.Quote(strings.Join(values, " ")), path, err)
	}
	defer unix.Close(fd)
	for _, value := range values {
		if _, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
			return fmt.Errorf("write %q to %s: %w", value, path, err)
		}
	}
	return nil
}

func open(path string, flags int) (int, error) {
	return ignoringEINTR(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// writeIfThere is write, to a file that some kernels do not have.
func writeIfThere(dir, file, value string) error {
	if err := write(dir, file, value); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// read returns a control file without the last line's end.
func read(dir, file string) (string, error) {
	fd, err := open(dir+"/"+file, unix.O_RDONLY)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: dir + "/" + file, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir+"/"+file)
	defer f.Close()
	text, err := io.ReadAll(f)
	return string(bytes.TrimRight(text, "\n")), err
}

// readUint reads one number; "max" and "-1" are the largest.
func readUint(dir, file string) (uint64, error) {
	text, err := read(dir, file)
	if err != nil {
		return 0, err
	}
	n, err := parseUint(text)
	if err != nil {
		return 0, fmt.Errorf("%s/%s: %w", dir, file, err)
	}
	return n, nil
}

func parseUint(text string) (uint64, error) {
	if text == "max" || strings.HasPrefix(text, "-") {
		return ^uint64(0), nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// readKeys reads a flat keyed file: a name and a number on each line. Lines of
// another form are left out.
func readKeys(dir, file string) (map[string]uint64, error) {
	text, err := read(dir, file)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), " ")
		if n, err := parseUint(value); ok && err == nil {
			out[key] = n
		}
	}
	return out, nil
}

// MakeV1 makes a group of version 1, and those above it, that a process can
// join. The controllers of its hierarchy are separated by commas.
func MakeV1(controllers, dir string) error {
	if slices.Contains(strings.Split(controllers, ","), "cpuset") {
		return makeCpuset(dir)
	}
	return makeDir(dir)
}

// makeDir makes a group and those above it.
func makeDir(dir string) error {
	err := unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = unix.Mkdir(dir, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// makeCpuset makes a group of the cpuset controller of version 1, where a new
// group has no CPUs and no memory nodes, and no process can join it before it
// has: they are copied from the group above.
func makeCpuset(dir string) error {
	err := unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		if err := makeCpuset(filepath.Dir(dir)); err != nil {
			return err
		}
		err = unix.Mkdir(dir, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := read(dir, file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(have) != "" {
			continue
		}
		above, err := read(filepath.Dir(dir), file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(above) == "" { // a parent that another program made
			if err := makeCpuset(filepath.Dir(dir)); err != nil {
				return err
			}
			if above, err = read(filepath.Dir(dir), file); err != nil {
				return err
			}
		}
		if err := write(dir, file, above); err != nil {
			return err
		}
	}
	return nil
}

// makeV2 makes a group and those above it, and lets every controller down to
// it. What cannot be let down is seen when a limit of it is set.
func (m *Manager) makeV2(dir string) error {
	rel, err := filepath.Rel(m.mount, dir)
	if err != nil {
		return err
	}
	at := m.mount
	for name := range strings.SplitSeq(rel, "/") {
		delegate(at)
		at += "/" + name
		if err := unix.Mkdir(at, 0o755); err != nil && err != unix.EEXIST {
			return &fs.PathError{Op: "mkdir", Path: at, Err: err}
		}
	}
	return nil
}

// delegate enables in dir's subtree_control what its controllers file lists.
func delegate(dir string) {
	have, err := read(dir, "cgroup.controllers")
	if err != nil {
		return
	}
	on, _ := read(dir, "cgroup.subtree_control")
	enabled := map[string]bool{}
	for _, name := range strings.Fields(on) {
		enabled[name] = true
	}
	var missing []string
	for _, name := range strings.Fields(have) {
		if !enabled[name] {
			missing = append(missing, "+"+name)
		}
	}
	if len(missing) == 0 || write(dir, "cgroup.subtree_control", strings.Join(missing, " ")) == nil {
		return
	}
	for _, name := range missing { // the kernel takes all or none
		_ = write(dir, "cgroup.subtree_control", name)
	}
}
