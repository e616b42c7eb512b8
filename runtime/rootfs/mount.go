// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

func (r *Root) mount(i int, m *specs.Mount) error {
	o := parseOptions(m.Options)
	bind, recursive := IsBind(m.Type, m.Options)
	switch {
	case bind:
		tree, err := r.tree(i, m, o.idmap)
		if err != nil {
			return err
		}
		return r.bind(tree, m, &o, recursive)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return r.cgroup(m, &o)
	case m.Type == "proc" || m.Type == "sysfs":
		return r.kernel(m, &o)
	}
	target, found, err := r.find(m.Destination, true)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := r.allowed(target, false); err != nil {
		return err
	}
	if m.Type == "tmpfs" && found {
		if err := inheritMode(target, &o); err != nil {
			return err
		}
	}
	return r.fresh(target, m, &o)
}

// inheritMode gives a tmpfs the mode of the directory that it covers, which the
// options can overrule.
func inheritMode(target *os.File, o *options) error {
	st, err := linux.Stat(target)
	if err != nil {
		return err
	}
	o.data = append([]string{fmt.Sprintf("mode=%04o", st.Mode&0o7777)}, o.data...)
	return nil
}

// kernel mounts a file system of the kernel. It goes to a real directory of
// its name only: what is at the end of a link would not be masked, and labels
// written by way of it would end up elsewhere (CVE-2019-19921, CVE-2023-27561).
func (r *Root) kernel(m *specs.Mount, o *options) error {
	target, err := r.target(m.Destination, true)
	if err != nil {
		return err
	}
	defer target.Close()
	where, err := r.where(target)
	if err != nil {
		return err
	}
	if where != path.Clean(m.Destination) {
		return fmt.Errorf("filesystem %q must be mounted on ordinary directory", m.Type)
	}
	return r.fresh(target, m, o)
}

// fresh mounts a new file system onto target.
func (r *Root) fresh(target *os.File, m *specs.Mount, o *options) error {
	set := o.set
	if m.Type == "tmpfs" && set&unix.MS_RDONLY != 0 {
		set &^= unix.MS_RDONLY // later mounts may be inside
		r.late = append(r.late, m.Destination)
	}
	var lower *os.File
	if o.copyUp {
		var err error
		if lower, err = os.Open(linux.FdPath(target)); err != nil {
			return err
		}
		defer lower.Close()
	}
	if err := linux.MountAt(m.Source, target, m.Type, set, strings.Join(r.labelled(m.Type, o.data), ",")); err != nil {
		return err
	}
	if !o.copyUp && len(o.propagation) == 0 && o.recursive == (unix.MountAttr{}) {
		return nil
	}
	top, err := r.again(target)
	if err != nil {
		return err
	}
	defer top.Close()
	if o.copyUp {
		if err := copyUp(lower, top); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	return finish(top, o)
}

// labelled adds the SELinux context of the container's files to the data of a
// mount, unless the file system has labels of its own.
func (r *Root) labelled(fstype string, data []string) []string {
	l := r.config.Spec.Linux
	if l == nil || l.MountLabel == "" || fstype == "proc" || fstype == "sysfs" || fstype == "mqueue" {
		return data
	}
	return append(data[:len(data):len(data)], `context="`+l.MountLabel+`"`)
}

// finish sets what belongs to the mount with the root top.
func finish(top *os.File, o *options) error {
	for _, p := range o.propagation {
		if err := linux.MountAt("", top, "", p, ""); err != nil {
			return err
		}
	}
	if o.recursive == (unix.MountAttr{}) {
		return nil
	}
	if err := linux.SetMountAttr(top, true, o.recursive); err != nil {
		return fmt.Errorf("recursive mount options (Linux 5.12): %w", err)
	}
	return nil
}

// tree gets a bind mount from the runtime if this process cannot make it.
func (r *Root) tree(i int, m *specs.Mount, mapped bool) (*os.File, error) {
	if !mapped && len(m.UIDMappings) == 0 {
		if !r.config.NewUser {
			return nil, nil
		}
		if _, err := os.Stat(m.Source); err == nil {
			return nil, nil
		}
	}
	return r.config.Tree(i)
}

// bind mounts tree, or what is at m.Source if tree is nil.
func (r *Root) bind(tree *os.File, m *specs.Mount, o *options, recursive bool) error {
	source := tree
	if source == nil {
		var err error
		if source, err = linux.Open(m.Source, unix.O_PATH, 0); err != nil {
			return err
		}
		defer source.Close()
	}
	st, err := linux.Stat(source)
	if err != nil {
		return err
	}
	target, err := r.target(m.Destination, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := r.allowedFor(target, source); err != nil {
		return err
	}
	if tree == nil {
		tree, err = linux.CloneTree(source, recursive)
		if errors.Is(err, unix.ENOSYS) {
			return r.bindOld(source, target, o, recursive)
		}
		if err != nil {
			return err
		}
		defer tree.Close()
	}
	if err := linux.Attach(tree, target); err != nil {
		return err
	}
	// The descriptor of the tree is now that of the mount.
	if err := bindFlags(tree, o); err != nil {
		return err
	}
	return finish(tree, o)
}

// bindOld is bind before Linux 5.2: what is mounted has to be found again, and
// is checked to be the source.
func (r *Root) bindOld(source, target *os.File, o *options, recursive bool) error {
	flags := uintptr(unix.MS_BIND)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := linux.MountAt(linux.FdPath(source), target, "bind", flags, ""); err != nil {
		return err
	}
	top, err := r.again(target)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := same(top, source); err != nil {
		return err
	}
	if err := bindFlags(top, o); err != nil {
		return err
	}
	return finish(top, o)
}

// bindFlags gives a bind mount the flags that o names and no other, but keeps
// all if o names none, and those of access times unless o names one of them:
// what mount(2) does. Flags that a user namespace may not clear stay, unless o
// insists on it.
func bindFlags(top *os.File, o *options) error {
	const locked = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | accessTimes
	set := o.set &^ (unix.MS_BIND | unix.MS_REC | unix.MS_REMOUNT)
	if set == 0 && o.clear == 0 {
		return nil
	}
	remount := func(flags uintptr) error {
		return linux.MountAt("", top, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
	}
	err := remount(set)
	if err == nil {
		return nil
	}
	now, e := linux.MountFlags(top)
	if e != nil {
		return e
	}
	now &= locked
	if now&o.clear != 0 {
		return fmt.Errorf("flags of the source that cannot be cleared: %w", err)
	}
	if set&accessTimes != 0 && set&accessTimes != now&accessTimes {
		return fmt.Errorf("access times of the source that cannot be changed: %w", err)
	}
	return remount(set | now)
}

func same(a, b *os.File) error {
	sa, err := linux.Stat(a)
	if err != nil {
		return err
	}
	sb, err := linux.Stat(b)
	if err != nil {
		return err
	}
	if sa.Dev != sb.Dev || sa.Ino != sb.Ino {
		return fmt.Errorf("%s is not %s: it was replaced", a.Name(), b.Name())
	}
	return nil
}

// attributes sets the flags of a bind mount. Flags that o does not name stay.
func (r *Root) attributes(top *os.File, o *options) error {
	attr := o.attr()
	if attr == (unix.MountAttr{}) {
		return nil
	}
	err := linux.SetMountAttr(top, false, attr)
	if !errors.Is(err, unix.ENOSYS) {
		return err
	}
	now, err := linux.MountFlags(top)
	if err != nil {
		return err
	}
	if o.set&atimes != 0 {
		now &^= atimes
	}
	return linux.MountAt("", top, "", unix.MS_REMOUNT|unix.MS_BIND|now&^o.clear|o.set&perMount, "")
}

// procFiles are the files of procfs that a mount may cover: what they show is
// the host's, and lxcfs shows the container's.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// allowedFor is allowed for a bind mount of source.
func (r *Root) allowedFor(target, source *os.File) error {
	fs, err := linux.FsType(source)
	if err != nil {
		return err
	}
	return r.allowed(target, fs == unix.PROC_SUPER_MAGIC)
}

// allowed refuses mounts that would stand in for procfs, which security
// depends on (CVE-2019-16884), and mounts over the root.
func (r *Root) allowed(target *os.File, fromProc bool) error {
	where, err := r.where(target)
	if err != nil {
		return err
	}
	if where == "/" {
		return errors.New("mounting onto the root of a container is not allowed")
	}
	if where == "/proc" && !fromProc {
		return fmt.Errorf("%q cannot be mounted because it is not of type proc", where)
	}
	if where != "/proc" && strings.HasPrefix(where, "/proc/") && !slices.Contains(procFiles, where) {
		fs, err := linux.FsType(target)
		if err != nil {
			return err
		}
		if fs == unix.PROC_SUPER_MAGIC {
			return fmt.Errorf("%q cannot be mounted because it is inside /proc", where)
		}
	}
	return nil
}
