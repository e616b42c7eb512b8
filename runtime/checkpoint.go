// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/runtime/cgroup"
	"slipway/runtime/criu"
	"slipway/runtime/rootfs"
)

// descriptorsFile keeps, beside the images, what the standard streams were.
// runc reads and writes it too.
const descriptorsFile = "descriptors.json"

// Checkpoint saves the processes of c by CRIU, into o.Images. They end, unless
// o.LeaveRunning or the images are those of the memory only, before a dump.
// What follows from the container is filled into o.
func (c *Container) Checkpoint(ctx context.Context, o criu.Options, before bool) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == Created || status == Stopped {
		return fmt.Errorf("Container cannot be checkpointed in %s state: %w", status, errdefs.ErrFailedPrecondition)
	}
	s, err := c.Spec()
	if err != nil {
		return err
	}
	group, err := c.Cgroup()
	if err != nil {
		return err
	}
	if err := makeDirs(o.Images, o.Work); err != nil {
		return err
	}
	o.Pid, o.Root, o.FreezeCgroup = c.record.Pid, c.record.Config.Rootfs, group.Path("freezer")
	if err := c.namespacesOutside(s, &o); err != nil {
		return err
	}
	kind := criu.PreDump
	if !before {
		kind = criu.Dump
		o.Mounts = c.dumpMounts(s)
		if err := c.saveDescriptors(&o); err != nil {
			return err
		}
	}
	if err := (&criu.Session{Wait: c.wait}).Do(ctx, kind, o); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// outside are the names under which namespaces that the container was given
// are known to CRIU.
var outside = map[specs.LinuxNamespaceType][2]string{
	specs.NetworkNamespace: {"net", "extRootNetNS"},
	specs.PIDNamespace:     {"pid", "extRootPidNS"},
}

// namespacesOutside names the namespaces that are not the container's own.
func (c *Container) namespacesOutside(s *specs.Spec, o *criu.Options) error {
	for _, ns := range s.Linux.Namespaces {
		names, ok := outside[ns.Type]
		if ns.Path == "" || !ok {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(ns.Path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: ns.Path, Err: err}
		}
		o.External = append(o.External, fmt.Sprintf("%s[%d]:%s", names[0], st.Ino, names[1]))
	}
	return nil
}

// dumpMounts are the mounts whose source CRIU cannot see from inside: they are
// dumped by the name of their place.
func (c *Container) dumpMounts(s *specs.Spec) (list [][2]string) {
	for _, m := range c.boundMounts(s) {
		list = append(list, [2]string{m[0], m[0]})
	}
	return list
}

// boundMounts are the places and sources of the container's bind mounts. In
// version 1 of control groups without a namespace, each hierarchy is one.
func (c *Container) boundMounts(s *specs.Spec) (list [][2]string) {
	for _, m := range s.Mounts {
		at := path.Join("/", m.Destination)
		if bind, _ := rootfs.IsBind(m.Type, m.Options); bind {
			list = append(list, [2]string{at, m.Source})
		}
		if m.Type != "cgroup" || findNamespace(s, specs.CgroupNamespace) != nil {
			continue
		}
		for name, dir := range c.record.CgroupPaths {
			if mount, err := cgroup.MountOf(dir); err == nil && (name != "" || len(c.record.CgroupPaths) > 1) {
				list = append(list, [2]string{path.Join(at, filepath.Base(mount)), dir})
			}
		}
	}
	slices.SortFunc(list, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return slices.CompactFunc(list, func(a, b [2]string) bool { return a[0] == b[0] })
}

// saveDescriptors writes down what the standard streams are. CRIU cannot find
// files that were opened outside of the container's mounts, as FIFOs of the
// caller are: those it leaves to Restore, which puts others in their place.
func (c *Container) saveDescriptors(o *criu.Options) error {
	mounts, err := mountIDs(c.record.Pid)
	if err != nil {
		return err
	}
	names := make([]string, 3)
	for i := range names {
		fd := strconv.Itoa(i)
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.record.Pid, fd))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		names[i] = name
		if !strings.HasPrefix(name, "/") {
			continue
		}
		outside, err := outsideFile(c.record.Pid, fd, mounts)
		if err != nil {
			return err
		}
		if outside == "" {
			continue
		}
		o.External = append(o.External, outside)
		names[i] = outside
	}
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.Images, descriptorsFile), data, 0o600)
}

// outsideFile is CRIU's name of a file or FIFO that a process has open from
// none of its mounts, or empty. Terminals and devices are CRIU's own affair.
func outsideFile(pid int, fd string, mounts map[int]bool) (string, error) {
	var st unix.Stat_t
	file := fmt.Sprintf("/proc/%d/fd/%s", pid, fd)
	if err := unix.Stat(file, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: file, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFIFO {
		return "", nil
	}
	info := fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd)
	text, err := os.ReadFile(info)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		id, ok := strings.CutPrefix(line, "mnt_id:")
		if !ok {
			continue
		}
		mount, err := strconv.Atoi(strings.TrimSpace(id))
		if err != nil || mounts[mount] {
			return "", err
		}
		return fmt.Sprintf("%s%x:%x]", externalFile, mount, st.Ino), nil
	}
	return "", fmt.Errorf("%s: no mnt_id", info)
}

// externalFile begins the names of files that CRIU does not restore.
const externalFile = "file["

// mountIDs are the mounts that a process sees.
func mountIDs(pid int) (map[int]bool, error) {
	file := fmt.Sprintf("/proc/%d/mountinfo", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ids := make(map[int]bool)
	for line := range strings.Lines(string(text)) {
		first, _, _ := strings.Cut(line, " ")
		id, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ids[id] = true
	}
	return ids, nil
}
