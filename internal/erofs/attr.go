// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of inodes, see linux/fs.h; the file system may not have them.
const (
	flagImmutable = 0x10
	flagVerity    = 0x100000
)

// SetImmutable keeps everybody from changing or removing an image, or not.
func SetImmutable(image string, on bool) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return &os.PathError{Op: "ioctl FS_IOC_GETFLAGS", Path: image, Err: err}
	}
	next := flags &^ flagImmutable
	if on {
		next |= flagImmutable
	}
	if next == flags {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, next); err != nil {
		return &os.PathError{Op: "ioctl FS_IOC_SETFLAGS", Path: image, Err: err}
	}
	return nil
}

// EnableVerity has the kernel check every block of an image that it reads.
func EnableVerity(image string) error {
	on, err := HasVerity(image)
	if on || err != nil {
		return err
	}
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: 1 /* SHA-256 */, Block_size: 4096}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return &os.PathError{Op: "ioctl FS_IOC_ENABLE_VERITY", Path: image, Err: errno}
	}
	return nil
}

// HasVerity says whether the kernel checks what is read of an image.
func HasVerity(image string) (bool, error) {
	f, err := os.Open(image)
	if err != nil {
		return false, err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return false, &os.PathError{Op: "ioctl FS_IOC_GETFLAGS", Path: image, Err: err}
	}
	return flags&flagVerity != 0, nil
}
