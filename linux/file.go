// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenAt opens path below the directory dir, close-on-exec.
func OpenAt(dir *os.File, path string, flags int, mode uint32) (f *os.File, err error) {
	var fd int
	err = retry(func() error {
		fd, err = unix.Openat(int(dir.Fd()), path, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, pathError("open", dir.Name()+"/"+path, err)
	}
	return os.NewFile(uintptr(fd), dir.Name()+"/"+path), nil
}

// Open opens path, close-on-exec, with flags that package os does not know.
func Open(path string, flags int, mode uint32) (f *os.File, err error) {
	var fd int
	err = retry(func() error {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenIn opens path with root in place of the root directory: no link, no dot
// and no race leads out of it (RESOLVE_IN_ROOT, openat2(2)). Linux 5.6.
func OpenIn(root *os.File, path string, flags uint64) (*os.File, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	name := root.Name() + "/" + path
	// EAGAIN: a rename somewhere in the system may have moved a directory
	// that was passed by "..".
	const patience = 128
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(root.Fd()), path, how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.EINTR && (err != unix.EAGAIN || try >= patience) {
			return nil, pathError("open", name, err)
		}
	}
}

// Mknod makes a node in the directory dir.
func Mknod(dir *os.File, name string, mode uint32, dev uint64) error {
	return pathError("mknod", dir.Name()+"/"+name, unix.Mknodat(int(dir.Fd()), name, mode, int(dev)))
}

// Mkdir makes a directory in the directory dir.
func Mkdir(dir *os.File, name string, mode uint32) error {
	return pathError("mkdir", dir.Name()+"/"+name, unix.Mkdirat(int(dir.Fd()), name, mode))
}

// Symlink makes a symbolic link in the directory dir.
func Symlink(target string, dir *os.File, name string) error {
	return pathError("symlink", dir.Name()+"/"+name, unix.Symlinkat(target, int(dir.Fd()), name))
}

// Remove unlinks name in the directory dir.
func Remove(dir *os.File, name string, directory bool) error {
	flags := 0
	if directory {
		flags = unix.AT_REMOVEDIR
	}
	return pathError("unlink", dir.Name()+"/"+name, unix.Unlinkat(int(dir.Fd()), name, flags))
}

// Chown changes the owner of the file in the directory dir, without following
// a link; an empty name is dir itself.
func Chown(dir *os.File, name string, uid, gid ID) error {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return pathError("chown", dir.Name()+"/"+name, unix.Fchownat(int(dir.Fd()), name, uid, gid, flags))
}

// Stat is fstat(2); it works on O_PATH descriptors.
func Stat(f *os.File) (st unix.Stat_t, err error) {
	err = retry(func() error { return unix.Fstat(int(f.Fd()), &st) })
	return st, pathError("stat", f.Name(), err)
}

// Seals of a file that nobody can change any more.
const Sealed = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Memfd makes a file in memory that holds data and is closed to change. An
// executable one needs exec; Linux 6.3 wants to be told.
func Memfd(name string, data []byte, exec bool) (_ *os.File, err error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	const mfdExec = 0x10
	if exec {
		flags |= mfdExec
	}
	fd, err := unix.MemfdCreate(name, flags)
	if err == unix.EINVAL && exec {
		fd, err = unix.MemfdCreate(name, flags&^mfdExec)
	}
	if err != nil {
		return nil, pathError("memfd_create", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(data); err == nil {
		err = seal(f)
	}
	if err != nil {
		f.Close()
		return nil, pathError("seal", name, err)
	}
	return f, nil
}

// seal closes f to change. For that the kernel waits until nothing but the file
// holds its pages, which for a moment may be the kernel itself, but no longer
// than 155 ms (mm/memfd.c); on a busy machine that may be too short.
func seal(f *os.File) (err error) {
	for range 20 {
		err = retry(func() error {
			_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, Sealed)
			return err
		})
		if err != unix.EBUSY {
			break
		}
	}
	return err
}

// DupAbove is a copy of f with a descriptor of at least min, close-on-exec.
func DupAbove(f *os.File, min int) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, min)
	if err != nil {
		return nil, pathError("dup", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Dup2 makes fd to a copy of from that survives an exec.
func Dup2(from, to int) error {
	if from == to {
		_, err := unix.FcntlInt(uintptr(from), unix.F_SETFD, 0)
		return callError("fcntl", err)
	}
	return callError("dup3", unix.Dup3(from, to, 0))
}

// CloseOnExec marks every descriptor from first on. It needs Linux 5.11
// (ENOSYS or EINVAL without).
func CloseOnExec(first uint) error {
	return callError("close_range", unix.CloseRange(first, ^uint(0)>>1&0xffffffff, unix.CLOSE_RANGE_CLOEXEC))
}
