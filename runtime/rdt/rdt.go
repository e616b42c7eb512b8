// SPDX-License-Identifier: Apache-2.0

// Package rdt puts containers into groups of the resctrl file system, which
// share cache and memory bandwidth among processes and measure their use
// (Intel RDT; Documentation/filesystems/resctrl.rst; config-linux.md,
// "IntelRdt").
//
// A class of service (CLOS) is a directory with a schemata file; a monitoring
// group is one below it.
package rdt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MountPoint is where resctrl is mounted.
const MountPoint = "/sys/fs/resctrl"

// superMagic is RDTGROUP_SUPER_MAGIC of <linux/magic.h>.
const superMagic = 0x7655821

// A Group is where a container is. The zero value is nowhere.
type Group struct {
	Dir     string // of the class of service
	Monitor string // of the monitoring group, if the container has its own
	own     bool   // Dir was made for the container
}

// Check says what is wrong with a container's configuration.
func Check(c *specs.LinuxIntelRdt) error {
	if c == nil {
		return nil
	}
	if id := c.ClosID; id == "." || id == ".." || strings.Contains(id, "/") && id != "/" {
		return fmt.Errorf("linux.intelRdt.closID %q is no name of a directory: %w", id, errdefs.ErrInvalidArgument)
	}
	for _, line := range append([]string{c.L3CacheSchema, c.MemBwSchema}, c.Schemata...) {
		if strings.Contains(line, "\n") {
			return fmt.Errorf("linux.intelRdt: schema %q has more than one line: %w", line, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Create finds or makes the groups of the container id.
func Create(root, id string, c *specs.LinuxIntelRdt) (_ *Group, err error) {
	if c == nil {
		return &Group{}, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); root == MountPoint && (err != nil || st.Type != superMagic) {
		return nil, fmt.Errorf("linux.intelRdt: resctrl is not mounted at %s: %w", root, errdefs.ErrFailedPrecondition)
	}
	g := &Group{Dir: filepath.Join(root, c.ClosID)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Delete())
		}
	}()
	if err := g.class(id, c); err != nil {
		return nil, fmt.Errorf("linux.intelRdt: %w", err)
	}
	if c.EnableMonitoring {
		monitor := filepath.Join(g.Dir, "mon_groups", id)
		if err := os.Mkdir(monitor, 0o755); err != nil {
			return nil, fmt.Errorf("linux.intelRdt: %w", err)
		}
		g.Monitor = monitor
	}
	return g, nil
}

// class finds the class of service, or makes it. One that is named and has no
// schema must be there.
func (g *Group) class(id string, c *specs.LinuxIntelRdt) error {
	var schema []string
	for _, line := range append([]string{c.L3CacheSchema, c.MemBwSchema}, c.Schemata...) {
		if line != "" {
			schema = append(schema, line)
		}
	}
	switch {
	case c.ClosID == "" && len(schema) == 0:
		return nil // the default class, perhaps with a monitoring group
	case c.ClosID == "":
		g.Dir = filepath.Join(g.Dir, id)
		fallthrough
	case len(schema) > 0 && c.ClosID != "/":
		err := os.Mkdir(g.Dir, 0o755)
		g.own = err == nil
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	default:
		if _, err := os.Stat(g.Dir); err != nil {
			return fmt.Errorf("class of service %s: %w", c.ClosID, err)
		}
	}
	if len(schema) == 0 {
		return nil
	}
	return write(g.Dir, "schemata", strings.Join(schema, "\n")+"\n")
}

// write adds what the kernel says of a refused value.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	err = errors.Join(err, f.Close())
	if err == nil {
		return nil
	}
	for root := dir; len(root) > 1; root = filepath.Dir(root) {
		if why, e := os.ReadFile(filepath.Join(root, "info/last_cmd_status")); e == nil {
			return fmt.Errorf("write %q: %w: %s", value, err, strings.TrimSpace(string(why)))
		}
	}
	return fmt.Errorf("write %q: %w", value, err)
}

// Join puts a process into the groups.
func (g *Group) Join(pid int) error {
	for _, dir := range []string{g.Dir, g.Monitor} {
		if dir == "" {
			continue
		}
		if err := write(dir, "tasks", fmt.Sprint(pid)); err != nil {
			return fmt.Errorf("linux.intelRdt: process %d: %w", pid, err)
		}
	}
	return nil
}

// Change gives the class of service of g new schemas of the L3 cache and of
// memory bandwidth; an empty one stays as it is. The class of the machine is not
// a container's to change.
func (g *Group) Change(root, l3, bandwidth string) error {
	if err := Check(&specs.LinuxIntelRdt{L3CacheSchema: l3, MemBwSchema: bandwidth}); err != nil {
		return err
	}
	var lines string
	for _, s := range []struct{ schema, resource, absent string }{
		{l3, "L3", "Intel RDT/CAT: l3 cache schema is not enabled"},
		{bandwidth, "MB", "Intel RDT/MBA: memory bandwidth schema is not enabled"},
	} {
		if s.schema == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, "info", s.resource)); err != nil {
			return fmt.Errorf("%s: %w", s.absent, errdefs.ErrFailedPrecondition)
		}
		lines += s.schema + "\n"
	}
	switch {
	case lines == "":
		return nil
	case g.Dir == "":
		return fmt.Errorf("updating a non-existent Intel RDT configuration is not supported: %w", errdefs.ErrFailedPrecondition)
	case g.Dir == filepath.Clean(root):
		return fmt.Errorf("the container is in the default class of service %s: %w", g.Dir, errdefs.ErrFailedPrecondition)
	}
	return write(g.Dir, "schemata", lines)
}

// Load is the group of a container that was created before, in the class of
// service at dir.
func Load(dir, id string) *Group {
	if dir == "" {
		return &Group{}
	}
	g := &Group{Dir: dir, own: filepath.Base(dir) == id}
	if monitor := filepath.Join(dir, "mon_groups", id); unix.Access(monitor, unix.F_OK) == nil {
		g.Monitor = monitor
	}
	return g
}

// Delete removes the monitoring group, and the class of service if it was made
// for the container.
func (g *Group) Delete() error {
	var errs []error
	remove := func(dir string) {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			errs = append(errs, &fs.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	if g.Monitor != "" {
		remove(g.Monitor)
	}
	if g.own {
		remove(g.Dir)
	}
	return errors.Join(errs...)
}
