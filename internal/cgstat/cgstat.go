// SPDX-License-Identifier: Apache-2.0

// Package cgstat reads what a control group counts, in the messages that
// containerd's clients know, and tells when its processes are killed for lack
// of memory. It changes no group, except by moving a process into one.
package cgstat

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/internal/pb"
)

// cgroupRoot is where the hierarchies are mounted (cgroups(7)).
const cgroupRoot = "/sys/fs/cgroup"

// A Group is the control group of a container: a directory of the one
// hierarchy of version 2, or a directory for each controller of version 1.
type Group struct {
	unified string            // version 2
	v1      map[string]string // version 1, by controller
}

// Of finds the group that a process is in (proc_pid_cgroup(5)).
func Of(pid int) (*Group, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: cgroupRoot, Err: err}
	}
	return parse(data, fs.Type == unix.CGROUP2_SUPER_MAGIC)
}

// parse reads lines of hierarchy-ID:controller-list:path.
func parse(data []byte, v2 bool) (*Group, error) {
	g := &Group{v1: map[string]string{}}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || strings.Contains(parts[2], "/../") {
			continue
		}
		if v2 {
			if parts[0] == "0" {
				return &Group{unified: filepath.Join(cgroupRoot, parts[2])}, nil
			}
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			if c != "" && !strings.HasPrefix(c, "name=") {
				g.v1[c] = filepath.Join(cgroupRoot, c, parts[2])
			}
		}
	}
	if len(g.v1) == 0 {
		return nil, errors.New("the process is in no cgroup with a controller")
	}
	return g, nil
}

// Join moves a process into the cgroups at path below the root, which exist.
func Join(pid int, path string) error {
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", path, "cgroup.procs"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		dirs = []string{filepath.Join(cgroupRoot, path, "cgroup.procs")}
	}
	if len(dirs) == 0 {
		return &os.PathError{Op: "open cgroup", Path: path, Err: os.ErrNotExist}
	}
	for _, f := range dirs {
		if err := os.WriteFile(f, []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// Metrics returns what the group counts now.
func (g *Group) Metrics() *pb.Any {
	if g.unified != "" {
		return &pb.Any{TypeURL: "io.containerd.cgroups.v2.Metrics", Value: pb.Marshal(metricsV2(g.unified))}
	}
	return &pb.Any{TypeURL: "io.containerd.cgroups.v1.Metrics", Value: pb.Marshal(metricsV1(g.v1))}
}

// readNumber returns the number in a control file, the largest there is for
// "max", and 0 if there is no such file: controllers differ by kernel.
func readNumber(dir, name string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	return number(string(bytes.TrimSpace(data)))
}

func number(s string) uint64 {
	if s == "max" {
		return 1<<64 - 1
	}
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// readKeyed sets the fields of the struct that v points to which have a tag
// `key` from the lines "key value" of a control file.
func readKeyed(dir, name string, v any) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return
	}
	defer f.Close()
	setKeyed(f, v)
}

func setKeyed(r io.Reader, v any) {
	values := map[string]string{}
	for s := bufio.NewScanner(r); s.Scan(); {
		if k, n, ok := strings.Cut(s.Text(), " "); ok {
			values[k] = strings.TrimSpace(n)
		}
	}
	m := reflect.ValueOf(v).Elem()
	for i := range m.NumField() {
		if n, ok := values[m.Type().Field(i).Tag.Get("key")]; ok {
			m.Field(i).SetUint(number(n))
		}
	}
}

// lines calls fn with the words of each line of a control file.
func lines(dir, name string, fn func(words []string)) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 0 {
			fn(words)
		}
	}
}

// device splits "8:0".
func device(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	return number(a), number(b), ok
}

// hugePages lists the page sizes that have control files named
// hugetlb.<size>.<suffix>.
func hugePages(dir, suffix string) (sizes []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "hugetlb.*."+suffix))
	for _, f := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "hugetlb."), "."+suffix)
		if !strings.Contains(size, ".") {
			sizes = append(sizes, size)
		}
	}
	return sizes
}
