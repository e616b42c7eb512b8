// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

// copyUp copies what is in the directory from into the directory to, with
// owners, modes and links, but no devices and sockets.
func copyUp(from, to *os.File) error {
	st, err := linux.Stat(from)
	if err != nil {
		return err
	}
	dir, err := linux.OpenAt(to, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(dir.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(from, dir, name); err != nil {
			return err
		}
	}
	return nil
}

func copyEntry(from, to *os.File, name string) error {
	src, err := linux.OpenAt(from, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := linux.Stat(src)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return copyDirectory(src, to, name)
	case unix.S_IFREG:
		return copyFile(src, to, name, &st)
	case unix.S_IFLNK:
		link, err := os.Readlink(linux.FdPath(from) + "/" + name)
		if err != nil {
			return err
		}
		if err := linux.Symlink(link, to, name); err != nil {
			return err
		}
		return linux.Chown(to, name, int(st.Uid), int(st.Gid))
	}
	return nil
}

func copyDirectory(src, to *os.File, name string) error {
	from, err := os.Open(linux.FdPath(src))
	if err != nil {
		return err
	}
	defer from.Close()
	if err := linux.Mkdir(to, name, 0o700); err != nil {
		return err
	}
	made, err := linux.OpenAt(to, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer made.Close()
	return copyUp(from, made)
}

func copyFile(src, to *os.File, name string, st *unix.Stat_t) error {
	from, err := os.Open(linux.FdPath(src))
	if err != nil {
		return err
	}
	defer from.Close()
	out, err := linux.OpenAt(to, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, from); err != nil {
		return err
	}
	if err := out.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(int(out.Fd()), st.Mode&0o7777)
}
