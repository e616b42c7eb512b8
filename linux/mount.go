// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// FdPath is the name of fd in the procfs at /proc, for calls that take paths
// only. The caller answers for what is mounted at /proc.
func FdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Mount is mount(2).
func Mount(source, target, fstype string, flags uintptr, data string) error {
	return pathError("mount "+fstype+" at", target, retry(func() error {
		return unix.Mount(source, target, fstype, flags, data)
	}))
}

// MountAt mounts onto the file behind target. Its error names the target.
func MountAt(source string, target *os.File, fstype string, flags uintptr, data string) error {
	return pathError("mount "+fstype+" at", target.Name(), retry(func() error {
		return unix.Mount(source, FdPath(target), fstype, flags, data)
	}))
}

// Unmount is umount2(2).
func Unmount(target string, flags int) error {
	return pathError("unmount", target, retry(func() error { return unix.Unmount(target, flags) }))
}

// Fsopen makes a file system context. Linux 5.2.
func Fsopen(fstype string) (*os.File, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, pathError("fsopen", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// FsconfigString sets a parameter of a context; one without a value is a flag.
func FsconfigString(fs *os.File, key, value string) error {
	if value == "" && key != "source" {
		return pathError("fsconfig "+key+" of", fs.Name(), unix.FsconfigSetFlag(int(fs.Fd()), key))
	}
	return pathError("fsconfig "+key+" of", fs.Name(), unix.FsconfigSetString(int(fs.Fd()), key, value))
}

// Fsmount makes a detached mount of a configured context.
func Fsmount(fs *os.File, attr int) (*os.File, error) {
	if err := unix.FsconfigCreate(int(fs.Fd())); err != nil {
		return nil, pathError("fsconfig create", fs.Name(), err)
	}
	fd, err := unix.Fsmount(int(fs.Fd()), unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, pathError("fsmount", fs.Name(), err)
	}
	return os.NewFile(uintptr(fd), fs.Name()), nil
}

// OpenTree is open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount
// at path (with AT_RECURSIVE, of the tree below it). Linux 5.2.
func OpenTree(dir int, path string, flags uint) (*os.File, error) {
	fd, err := unix.OpenTree(dir, path, flags|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, pathError("open_tree", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// CloneTree is a detached copy of the mount behind f, or of its tree.
func CloneTree(f *os.File, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(f.Fd()), "", flags)
	if err != nil {
		return nil, pathError("open_tree", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Attach moves a detached mount onto the file behind target. Linux 5.2.
func Attach(mount, target *os.File) error {
	return pathError("move_mount to", target.Name(), unix.MoveMount(int(mount.Fd()), "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// SetMountAttr changes attributes of the mount behind f. Linux 5.12.
func SetMountAttr(f *os.File, recursive bool, attr unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return pathError("mount_setattr", f.Name(), unix.MountSetattr(int(f.Fd()), "", flags, &attr))
}

// EnterMountNamespace joins a mount namespace. The thread shares its root and
// working directory with no other after that, and must not be used for anything
// else.
func EnterMountNamespace(ns *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return callError("unshare", err)
	}
	return pathError("setns", ns.Name(), unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS))
}

// PivotRoot is pivot_root(2) with both arguments the current directory: the
// old root ends up mounted over the new one.
func PivotRoot() error {
	return pathError("pivot_root", ".", unix.PivotRoot(".", "."))
}

// MountID is the number of the mount that name is in. Linux 5.8.
func MountID(name string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, name, 0, unix.STATX_MNT_ID, &st); err != nil {
		return 0, pathError("statx", name, err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return 0, pathError("mount id of", name, unix.ENOSYS)
	}
	return st.Mnt_id, nil
}

// MountFlags are the MS_ flags of the mount behind f as statfs tells them.
func MountFlags(f *os.File) (uintptr, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return 0, pathError("statfs", f.Name(), err)
	}
	var flags uintptr
	for _, m := range statfsFlags {
		if st.Flags&m.st != 0 {
			flags |= m.ms
		}
	}
	if flags&(unix.MS_NOATIME|unix.MS_RELATIME) == 0 {
		flags |= unix.MS_STRICTATIME // has no flag of its own
	}
	return flags, nil
}

var statfsFlags = []struct {
	st int64
	ms uintptr
}{
	{unix.ST_RDONLY, unix.MS_RDONLY},
	{unix.ST_NOSUID, unix.MS_NOSUID},
	{unix.ST_NODEV, unix.MS_NODEV},
	{unix.ST_NOEXEC, unix.MS_NOEXEC},
	{unix.ST_NOATIME, unix.MS_NOATIME},
	{unix.ST_NODIRATIME, unix.MS_NODIRATIME},
	{unix.ST_RELATIME, unix.MS_RELATIME},
}

// FsType is the magic number of the file system that f is on.
func FsType(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return 0, pathError("statfs", f.Name(), err)
	}
	return int64(st.Type), nil
}
