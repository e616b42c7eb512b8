// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// place makes the object of an entry, without its metadata. What is there by
// that name gives way, except that a directory stays for a directory.
func (a *applier) place(parent *os.File, name, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(parent, base)
	case tar.TypeReg, tar.TypeGNUSparse:
		return a.file(parent, base, h, content)
	case tar.TypeLink:
		return a.link(parent, name, base, h.Linkname)
	}
	if err := a.tree.remove(parent, base); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return sysErr("symlink", base, unix.Symlinkat(h.Linkname, int(parent.Fd()), base))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return a.device(parent, base, h)
	}
	return fmt.Errorf("type %q is unknown: %w", h.Typeflag, errdefs.ErrInvalidArgument)
}

func (a *applier) directory(parent *os.File, base string) error {
	err := unix.Mkdirat(int(parent.Fd()), base, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return sysErr("mkdir", base, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return sysErr("stat", base, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if err := a.tree.remove(parent, base); err != nil {
		return err
	}
	return sysErr("mkdir", base, unix.Mkdirat(int(parent.Fd()), base, 0o700))
}

// create makes a new file, in place of what is there.
func (a *applier) create(parent *os.File, base string) (*os.File, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(int(parent.Fd()), base, flags, 0o600)
	if errors.Is(err, unix.EEXIST) {
		if err := a.tree.remove(parent, base); err != nil {
			return nil, err
		}
		fd, err = unix.Openat(int(parent.Fd()), base, flags, 0o600)
	}
	if err != nil {
		return nil, sysErr("open", base, err)
	}
	return os.NewFile(uintptr(fd), base), nil
}

func (a *applier) file(parent *os.File, base string, h *tar.Header, content io.Reader) (err error) {
	f, err := a.create(parent, base)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	a.size += h.Size
	return a.fill(f, h.Size, content)
}

// fill copies the bytes of a file. Blocks of zeros become holes: an archive
// of a few kilobytes cannot fill the disk with them.
func (a *applier) fill(f *os.File, size int64, content io.Reader) error {
	hole := false
	for at := int64(0); at < size; {
		n, err := io.ReadFull(content, a.buf[:min(int64(len(a.buf)), size-at)])
		if err != nil {
			return fmt.Errorf("content: %w", err)
		}
		if hole = n == len(a.buf) && isZero(a.buf[:n]); hole {
			_, err = f.Seek(int64(n), io.SeekCurrent)
		} else {
			_, err = f.Write(a.buf[:n])
		}
		if err != nil {
			return err
		}
		at += int64(n)
	}
	if hole {
		return f.Truncate(size)
	}
	return nil
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// link makes a hard link. Its target is a path in the archive, resolved below
// the root like any other; a link as the last part is not followed.
func (a *applier) link(parent *os.File, name, base, target string) error {
	clean, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	if clean == name {
		return fmt.Errorf("link to itself: %w", errdefs.ErrInvalidArgument)
	}
	if err := a.tree.remove(parent, base); err != nil {
		return err
	}
	a.tree.room(2)
	fromDir, fromBase := path.Split(clean)
	from, err := a.tree.dir(strings.TrimSuffix(fromDir, "/"))
	if err == nil {
		dir, _ := path.Split(name)
		parent, err = a.tree.dir(strings.TrimSuffix(dir, "/"))
	}
	if err == nil {
		err = unix.Linkat(int(from.Fd()), fromBase, int(parent.Fd()), base, 0)
	}
	if errors.Is(err, unix.ENOENT) && a.overlay {
		return ErrImplied // the target is in a lower layer
	}
	if err != nil {
		return &os.LinkError{Op: "link", Old: target, New: name, Err: err}
	}
	return nil
}

func (a *applier) device(parent *os.File, base string, h *tar.Header) error {
	mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
	// The kernel has 12 bits for the major and 20 for the minor number.
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return fmt.Errorf("device number %d:%d is out of range: %w", h.Devmajor, h.Devminor, errdefs.ErrInvalidArgument)
	}
	if a.overlay && h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return fmt.Errorf("device 0:0 would be a whiteout: %w", errdefs.ErrInvalidArgument)
	}
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return sysErr("mknod", base, unix.Mknodat(int(parent.Fd()), base, mode|0o600, int(dev)))
}

// metadata sets owner, mode, extended attributes and times, in the order in
// which the kernel does not undo them.
func (a *applier) metadata(parent *os.File, name, base string, h *tar.Header) error {
	if h.Typeflag == tar.TypeLink {
		return nil // the target's entry has said it all
	}
	fd := int(parent.Fd())
	if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return sysErr("chown", base, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		// base was made just now and is no link; nobody else writes here.
		if err := unix.Fchmodat(fd, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return sysErr("chmod", base, err)
		}
	}
	if err := setXattrs(parent, base, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		a.dirs = append(a.dirs, dirTime{name, h.ModTime})
		return nil
	}
	return setTime(parent, base, h.ModTime)
}

func setTime(parent *os.File, base string, mtime time.Time) error {
	if base == "" {
		base = "."
	}
	if mtime.Before(time.Unix(0, 0)) {
		mtime = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(mtime.UnixNano())
	return sysErr("utimensat", base, unix.UtimesNanoAt(int(parent.Fd()), base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

const paxXattr = "SCHILY.xattr."

// setXattrs sets the attributes of an entry, but for those with which
// overlayfs keeps its own books. A file system without attributes is no
// error, except for capabilities, which a file would be insecure or useless
// without.
func setXattrs(parent *os.File, base string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, paxXattr)
		if !ok || strings.HasPrefix(attr, "trusted.overlay.") || strings.HasPrefix(attr, "user.overlay.") {
			continue
		}
		err := unix.Lsetxattr(throughProc(parent, base), attr, []byte(v), 0)
		if errors.Is(err, unix.ENOTSUP) && attr != "security.capability" {
			continue
		}
		if errors.Is(err, unix.EPERM) && h.Typeflag != tar.TypeReg && strings.HasPrefix(attr, "user.") {
			continue // xattr(7): user attributes are for files and directories
		}
		if err != nil {
			return sysErr("setxattr "+attr, base, err)
		}
	}
	return nil
}

// throughProc names base in an open directory: there is no setxattrat before
// Linux 6.13.
func throughProc(parent *os.File, base string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(parent.Fd())) + "/" + base
}

// setOpaque hides what lower layers have in a directory of an upper one.
func setOpaque(dir *os.File) error {
	return sysErr("setxattr trusted.overlay.opaque", dir.Name(), unix.Lsetxattr(throughProc(dir, "."), "trusted.overlay.opaque", []byte("y"), 0))
}
