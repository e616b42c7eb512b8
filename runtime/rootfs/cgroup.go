// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// cgroup mounts the hierarchies of cgroups, each from the container's own
// group down.
func (r *Root) cgroup(m *specs.Mount, o *options) error {
	target, err := r.target(m.Destination, true)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := r.allowed(target, false); err != nil {
		return err
	}
	if r.config.Unified {
		return r.cgroup2(target, r.config.Cgroups[""], o)
	}
	if err := linux.MountAt("tmpfs", target, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return err
	}
	hierarchies, err := readHierarchies()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if err := r.hierarchy(m.Destination, h, o); err != nil {
			return fmt.Errorf("cgroup %s: %w", h.name, err)
		}
	}
	if o.set&unix.MS_RDONLY != 0 {
		r.late = append(r.late, m.Destination)
	}
	return nil
}

// cgroup2 mounts version 2 on target. Without a namespace the mount would
// show the whole tree; then, and where mounting is not permitted, the
// container's directory is bound.
func (r *Root) cgroup2(target *os.File, dir string, o *options) error {
	if r.config.NewCgroup {
		err := linux.MountAt("cgroup", target, "cgroup2", o.set, strings.Join(o.data, ","))
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	if dir == "" {
		dir = "/sys/fs/cgroup"
	}
	m := &specs.Mount{Source: dir, Destination: target.Name()}
	return r.bindOnto(m.Source, target, o)
}

// bindOnto binds the host's directory dir onto target with the flags of o.
func (r *Root) bindOnto(dir string, target *os.File, o *options) error {
	source, err := linux.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	return r.bindOld(source, target, o, false)
}

// hierarchy is a line of /proc/self/cgroup.
type hierarchy struct {
	name string // of its directory under /sys/fs/cgroup
	data string // of its mount; empty for version 2
	key  string // of the container's directory in Config.Cgroups
}

func readHierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return parseHierarchies(string(data)), nil
}

func parseHierarchies(data string) (list []hierarchy) {
	for line := range strings.Lines(data) {
		_, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		controllers, _, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			continue
		}
		name, named := strings.CutPrefix(controllers, "name=")
		switch {
		case controllers == "":
			list = append(list, hierarchy{"unified", "", ""})
		case named:
			list = append(list, hierarchy{name, "none," + controllers, controllers})
		default:
			first, _, _ := strings.Cut(controllers, ",")
			list = append(list, hierarchy{controllers, controllers, first})
		}
	}
	return list
}

func (r *Root) hierarchy(at string, h hierarchy, o *options) error {
	dir := r.config.Cgroups[h.key]
	if dir == "" && (!r.config.NewCgroup || h.data == "") {
		return nil // the container is not in this one
	}
	target, err := r.target(path.Join(at, h.name), true)
	if err != nil {
		return err
	}
	defer target.Close()
	switch {
	case h.data == "":
		err = r.cgroup2(target, dir, o)
	case r.config.NewCgroup:
		err = linux.MountAt("cgroup", target, "cgroup", o.set&^unix.MS_REC, h.data)
	default:
		err = r.bindOnto(dir, target, o)
	}
	if err != nil {
		return err
	}
	return r.alias(at, h.name)
}

// alias lets each controller of a hierarchy with several be found by name.
func (r *Root) alias(at, name string) error {
	if !strings.Contains(name, ",") {
		return nil
	}
	dir, err := r.directory(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	for c := range strings.SplitSeq(name, ",") {
		if err := linux.Symlink(name, dir, c); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}
