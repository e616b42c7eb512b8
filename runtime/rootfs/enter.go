// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

// Seal makes read-only and hides what the configuration says. Nothing is
// mounted after it.
func (r *Root) Seal() error {
	for _, name := range r.late {
		if err := r.readonly(name, false); err != nil {
			return fmt.Errorf("read-only mount %s: %w", name, err)
		}
	}
	l := r.config.Spec.Linux
	if l != nil {
		for _, name := range l.ReadonlyPaths {
			if err := r.readonly(name, true); err != nil {
				return fmt.Errorf("read-only path %s: %w", name, err)
			}
		}
		if err := r.mask(l.MaskedPaths); err != nil {
			return err
		}
	}
	if r.config.Spec.Root != nil && r.config.Spec.Root.Readonly {
		if err := r.readonly("/", false); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

// readonly makes the mount at name read-only; one that is missing is left. A
// path that need not be a mount is made one first.
func (r *Root) readonly(name string, bind bool) error {
	target, err := r.lookup(name)
	if errors.Is(err, os.ErrNotExist) && bind {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	o := options{set: unix.MS_RDONLY}
	if !bind {
		return r.attributes(target, &o)
	}
	tree, err := linux.CloneTree(target, true)
	if errors.Is(err, unix.ENOSYS) {
		return r.bindOld(target, target, &o, true)
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := linux.Attach(tree, target); err != nil {
		return err
	}
	return r.attributes(tree, &o)
}

// mask hides paths: files behind the null device, directories behind an empty
// file system.
func (r *Root) mask(names []string) error {
	if len(names) == 0 {
		return nil
	}
	null, err := r.null()
	if err != nil {
		return fmt.Errorf("mask path %s: %w", names[0], err)
	}
	defer null.Close()
	m := masks{root: r, null: null, done: map[string]bool{}}
	defer m.close()
	for _, name := range names {
		if err := m.add(name); err != nil {
			return fmt.Errorf("mask path %s: %w", name, err)
		}
	}
	return nil
}

// null is the container's null device, checked, since the image may have put
// something else in its place (CVE-2025-31133). It is not the host's: what the
// container does to the mode or the owner of a masked file, it does to that.
func (r *Root) null() (*os.File, error) {
	f, err := r.lookup("/dev/null")
	if err != nil {
		return nil, err
	}
	st, err := linux.Stat(f)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)) {
		err = errors.New("/dev/null of the container is not the null device")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// masks are the mounts that hide paths: a place has one, and all directories
// have the same file system.
type masks struct {
	root  *Root
	null  *os.File
	empty *os.File // the first mount of the file system; nil until there is one
	done  map[string]bool
}

func (m *masks) close() { m.empty.Close() } // an error if it is nil

func (m *masks) add(name string) error {
	target, err := m.root.lookup(name)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	where, err := m.root.where(target)
	if err != nil || m.done[where] {
		return err
	}
	m.done[where] = true
	st, err := linux.Stat(target)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m.hide(target)
	}
	return linux.MountAt(linux.FdPath(m.null), target, "bind", unix.MS_BIND, "")
}

// hide covers a directory. The first mount is copied by its descriptor, so that
// nothing in the container can stand in for it.
func (m *masks) hide(target *os.File) error {
	if m.empty != nil {
		mount, err := linux.CloneTree(m.empty, false)
		if err != nil {
			return err
		}
		defer mount.Close()
		return linux.Attach(mount, target)
	}
	var err error
	m.empty, err = m.root.emptyMount()
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.2, or a filter that is
		data := m.root.labelled("tmpfs", []string{"nr_blocks=1", "nr_inodes=1"})
		return linux.MountAt("tmpfs", target, "tmpfs", unix.MS_RDONLY, strings.Join(data, ","))
	}
	if err != nil {
		return err
	}
	return linux.Attach(m.empty, target)
}

// emptyMount is a detached read-only mount of a file system without files.
func (r *Root) emptyMount() (*os.File, error) {
	fs, err := linux.Fsopen("tmpfs")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	options := [][2]string{{"source", "tmpfs"}, {"ro", ""}, {"nr_blocks", "1"}, {"nr_inodes", "1"}}
	if l := r.config.Spec.Linux; l.MountLabel != "" {
		options = append(options, [2]string{"context", l.MountLabel})
	}
	for _, o := range options {
		if err := linux.FsconfigString(fs, o[0], o[1]); err != nil {
			return nil, err
		}
	}
	return linux.Fsmount(fs, unix.MOUNT_ATTR_RDONLY)
}

// Enter makes the file system the root of the calling process's mount
// namespace, and leaves no other in it.
func (r *Root) Enter() error {
	defer r.root.Close()
	if err := unix.Fchdir(int(r.root.Fd())); err != nil {
		return &os.PathError{Op: "chdir", Path: r.config.Path, Err: err}
	}
	enter := pivot
	switch {
	case r.config.Shared:
		enter = changeRoot
	case r.config.NoPivot:
		enter = r.moveRoot
	}
	if err := enter(); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return &os.PathError{Op: "chdir", Path: "/", Err: err}
	}
	if p, ok := r.propagation(); ok && !r.config.Shared {
		return linux.Mount("", "/", "", p, "")
	}
	return nil
}

// pivot works in the current directory. The old root comes to lie over the
// new one and is detached, first cut off so that no unmount propagates. That is
// done from within it: "." would be the new root, whose mounts keep their
// propagation.
func pivot() error {
	old, err := linux.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := linux.PivotRoot(); err != nil {
		return err
	}
	if err := unix.Fchdir(int(old.Fd())); err != nil {
		return &os.PathError{Op: "chdir", Path: "the old root", Err: err}
	}
	if err := linux.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	return linux.Unmount(".", unix.MNT_DETACH)
}

// moveRoot is for a root that pivot_root refuses, such as an initramfs. The
// old root stays below; what would show the host in it is taken away.
func (r *Root) moveRoot() error {
	if err := detachKernelMounts(r.config.Path); err != nil {
		return err
	}
	if err := linux.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	return changeRoot()
}

// changeRoot leaves the mount namespace as it is.
func changeRoot() error { return os.NewSyscallError("chroot", unix.Chroot(".")) }
