// SPDX-License-Identifier: Apache-2.0

// Package btrfs makes, copies and removes subvolumes by the ioctls of
// linux/btrfs.h. A subvolume is a directory that is a tree of its own: it can
// be copied at once, sharing everything, and mounted by its id.
package btrfs

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests: _IOW(0x94, n, 4096 bytes), and _IOWR for the look-up.
const (
	reqCreate   = 0x5000940e
	reqDestroy  = 0x5000940f
	reqSnapshot = 0x50009417
	reqLookup   = 0xd0009412
)

const (
	subvolReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	firstFree      = 256    // inode number of a subvolume's root
)

// args is struct btrfs_ioctl_vol_args.
type args struct {
	fd   int64
	name [4088]byte
}

// argsV2 is struct btrfs_ioctl_vol_args_v2.
type argsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

// lookup is struct btrfs_ioctl_ino_lookup_args.
type lookup struct {
	tree   uint64
	object uint64
	name   [4080]byte
}

// Create makes an empty subvolume.
func Create(path string) error {
	var a args
	if err := setName(a.name[:], path); err != nil {
		return err
	}
	return inParent("create subvolume", path, reqCreate, unsafe.Pointer(&a))
}

// Snapshot makes a subvolume that holds what the one at from does.
func Snapshot(path, from string, readOnly bool) error {
	var a argsV2
	if err := setName(a.name[:], path); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	a.fd = int64(src.Fd())
	if readOnly {
		a.flags = subvolReadOnly
	}
	return inParent("snapshot subvolume "+from+" to", path, reqSnapshot, unsafe.Pointer(&a))
}

// Delete removes a subvolume with all that is in it.
func Delete(path string) error {
	var a args
	if err := setName(a.name[:], path); err != nil {
		return err
	}
	return inParent("delete subvolume", path, reqDestroy, unsafe.Pointer(&a))
}

// ID is what the mount option subvolid takes.
func ID(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	a := lookup{object: firstFree}
	if err := ioctl(f, reqLookup, unsafe.Pointer(&a)); err != nil {
		return 0, &os.PathError{Op: "id of subvolume", Path: path, Err: err}
	}
	return a.tree, nil
}

func setName(to []byte, path string) error {
	name := filepath.Base(path)
	if len(name) > unix.NAME_MAX {
		return fmt.Errorf("subvolume %s: %w", path, unix.ENAMETOOLONG)
	}
	copy(to, name)
	return nil
}

// inParent runs a request on the directory that holds path.
func inParent(act, path string, request uintptr, arg unsafe.Pointer) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := ioctl(dir, request, arg); err != nil {
		return &os.PathError{Op: act, Path: path, Err: err}
	}
	return nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
