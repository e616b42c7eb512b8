// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, limits, freezes, empties and removes the control
// groups of a container, in version 1, version 2 and both side by side, either
// by the file system itself or through systemd.
//
// A hierarchy is a mounted tree of groups. Version 2 has one, with all
// controllers (cgroups(7)); version 1 has one for each controller or few. On a
// hybrid host a version 2 tree without controllers lies beside those, and a
// container gets a group there too, so that it can be killed as a whole.
//
// The package keeps no state: a Manager is a set of directories, which a
// caller stores (Paths) and gives back (Load).
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Config says which groups a container has.
type Config struct {
	// Path is linux.cgroupsPath of the runtime specification: below the mount
	// point if absolute, else below the caller's own group; with Systemd it is
	// "slice:prefix:name". Empty: a default made of ID.
	Path string
	ID   string
	// Systemd has systemd make the group, as a transient scope.
	Systemd bool
	// Rootless accepts that groups cannot be made, as long as Path is empty
	// and no limit is asked for, and that devices cannot be guarded.
	Rootless bool
	// Properties are more properties of the systemd unit, in the form of
	// gvariant text, by name.
	Properties map[string]string
}

// unified is the key of a version 2 directory.
const unified = ""

// A Manager is the groups of one container.
type Manager struct {
	// dirs are the groups by controller. Where version 2 is alone, unified is
	// the only key; on a hybrid host unified is there too.
	dirs map[string]string
	// stays are the caller's groups of version 1 that a process is left in,
	// as the container could not have its own.
	stays    map[string]string
	v2       bool
	rootless bool
	implied  bool   // the path is the default one
	mount    string // of version 2, where it is alone
	unit     *unit  // systemd's, or nil
}

// New finds the directories of a container's groups. It makes nothing.
func New(c Config) (*Manager, error) {
	h, err := detect()
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	m := &Manager{dirs: map[string]string{}, v2: h.v2(), rootless: c.Rootless, implied: c.Path == "", mount: h.unified}
	if c.Systemd {
		if m.unit, err = newUnit(c); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		if err := m.unit.place(); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		c.Path = m.unit.path
	}
	if err := h.resolve(m.dirs, c); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	if _, ok := m.dirs["devices"]; !m.v2 && !ok && !c.Rootless {
		return nil, fmt.Errorf("cgroup: the devices controller is not mounted, without it devices cannot be guarded: %w", errdefs.ErrFailedPrecondition)
	}
	return m, nil
}

// Load is the manager of groups that were made before, with what Paths
// returned; systemd's unit is stopped by Delete if c.Systemd. Which version it
// is shows by the paths: reading the mount table would cost more than an exec
// does in all.
func Load(c Config, paths map[string]string) (_ *Manager, err error) {
	m := &Manager{dirs: maps.Clone(paths), rootless: c.Rootless, implied: c.Path == ""}
	if _, only := paths[unified]; len(paths) == 0 || only && len(paths) == 1 {
		h, err := detect()
		if err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		m.v2, m.mount = h.v2(), h.unified
	}
	if c.Systemd {
		if m.unit, err = newUnit(c); err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	return m, nil
}

// Paths are the directories by controller; "" stands for version 2. The map is
// the one that runc keeps in its state.json.
func (m *Manager) Paths() map[string]string { return maps.Clone(m.dirs) }

// Shown are the directories that the container may see: its own and, of
// version 1, those that it was left in.
func (m *Manager) Shown() map[string]string {
	shown := m.Paths()
	maps.Copy(shown, m.stays)
	return shown
}

// V2 says whether version 2 is the only one.
func (m *Manager) V2() bool { return m.v2 }

// NeedsPid says whether Create must be given a process: systemd makes no scope
// without one.
func (m *Manager) NeedsPid() bool { return m.unit != nil && !m.unit.isSlice() }

// Path is the group's directory for a controller, in version 2 for all of
// them. It is empty where there is no such group.
func (m *Manager) Path(controller string) string {
	if m.v2 {
		return m.dirs[unified]
	}
	return m.dirs[controller]
}

// Create makes the groups, sets r's limits and device rules, and moves pid
// into them; a pid of 0 is nobody. A failed Create removes what it made, but
// for a parent that was not there.
func (m *Manager) Create(pid int, r *specs.LinuxResources) (err error) {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.delete(time.Time{}))
		}
	}()
	if m.unit != nil {
		if err := m.unit.start(pid, m.v2, r); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := m.make(); err != nil {
		return fmt.Errorf("unable to apply cgroup configuration: %w", err)
	}
	if err := m.set(r, true); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if pid == 0 {
		return nil
	}
	return m.Join(pid, 0)
}

// Set changes limits. Device rules stay as they are if r has none.
func (m *Manager) Set(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := m.check(r); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	r = m.complete(r)
	if m.unit != nil {
		if err := m.unit.set(m.v2, r); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if err := m.set(r, len(r.Devices) > 0); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

func (m *Manager) set(r *specs.LinuxResources, devices bool) error {
	set := m.setV1
	if m.v2 {
		set = m.setV2
	}
	if err := set(r); err != nil {
		return err
	}
	if !devices {
		return nil
	}
	if err := m.setDevices(r.Devices); err != nil && !m.rootless {
		return err
	}
	return nil
}

// make makes the directories.
func (m *Manager) make() error {
	for _, name := range m.controllers() {
		dir := m.dirs[name]
		if m.unit != nil && name == "name=systemd" {
			continue // it is systemd's own
		}
		var err error
		if m.v2 {
			err = m.makeV2(dir)
		} else {
			err = MakeV1(name, dir)
		}
		if err != nil && m.forgive(name, err) {
			continue
		}
		if err != nil && name == unified && !m.v2 { // a comfort of hybrid hosts
			delete(m.dirs, name)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// forgive says whether a missing permission is no error. Then the container
// has no group there, and its processes stay in the one that they have.
func (m *Manager) forgive(name string, err error) bool {
	missing := errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrNotExist)
	if !m.rootless || !m.implied || !missing {
		return false
	}
	if !m.v2 && m.unit == nil && name != unified {
		if m.stays == nil {
			m.stays = map[string]string{}
		}
		m.stays[name] = filepath.Dir(m.dirs[name]) // see resolve: an id below the caller's group
	}
	delete(m.dirs, name)
	return true
}

// Join moves a process into the groups. Version 2 refuses one into a group
// that delegates controllers to groups below it, as that of a container with
// an init system does: then pid joins the group of beside, if that is not 0.
func (m *Manager) Join(pid, beside int) error {
	for _, name := range m.controllers() {
		dir := m.dirs[name]
		err := write(dir, "cgroup.procs", fmt.Sprint(pid))
		if err == nil {
			continue
		}
		if m.v2 && beside != 0 && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP)) {
			if dir, own := m.besides(beside); own == nil {
				err = write(dir, "cgroup.procs", fmt.Sprint(pid))
			}
		}
		if err == nil || m.forgive(name, err) {
			continue
		}
		if name != unified || m.v2 { // a comfort of hybrid hosts
			return fmt.Errorf("cgroup: process %d: %w", pid, err)
		}
	}
	return nil
}

// JoinSub moves a process into groups below the container's, named by
// controller; "" stands for all of them.
func (m *Manager) JoinSub(pid int, sub map[string]string) error {
	for name, rel := range sub {
		if _, ok := m.dirs[name]; !ok && name != "" {
			return fmt.Errorf("cgroup: unknown controller %s: %w", name, errdefs.ErrNotFound)
		}
		if rel = filepath.Join(".", rel); rel == ".." || strings.HasPrefix(rel, "../") {
			return fmt.Errorf("cgroup: bad sub cgroup path: %s: %w", sub[name], errdefs.ErrInvalidArgument)
		}
	}
	below := &Manager{dirs: map[string]string{}, v2: m.v2}
	for name, dir := range m.dirs {
		rel, ok := sub[name]
		if !ok {
			rel = sub[""]
		}
		below.dirs[name] = filepath.Join(dir, rel)
	}
	return below.Join(pid, 0)
}

// besides is the version 2 group of a process.
func (m *Manager) besides(pid int) (string, error) {
	own, err := groupsOf(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(m.mount, own[unified])
	if !strings.HasPrefix(dir+"/", m.dirs[unified]+"/") {
		return "", fmt.Errorf("process %d is not in %s: %w", pid, m.dirs[unified], errdefs.ErrFailedPrecondition)
	}
	return dir, nil
}

// Dir opens the version 2 group for CLONE_INTO_CGROUP (clone3(2), Linux 5.7),
// which is cheaper than Join. A hybrid host has one too.
func (m *Manager) Dir() (*os.File, error) {
	if m.dirs[unified] == "" {
		return nil, fmt.Errorf("cgroup: a directory to clone into: the container has no group of version 2: %w", errdefs.ErrNotFound)
	}
	f, err := os.OpenFile(m.dirs[unified], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return f, nil
}

// Exists says whether one of the groups is there.
func (m *Manager) Exists() bool {
	for _, dir := range m.dirs {
		if unix.Access(dir, unix.F_OK) == nil {
			return true
		}
	}
	return false
}

// controllers are the keys of dirs in a fixed order.
func (m *Manager) controllers() []string {
	return slices.Sorted(maps.Keys(m.dirs))
}
