// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"bytes"
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

// place makes the object of an entry. What is there by that name gives way,
// except that a directory stays for a directory.
func (a *applier) place(parent *os.File, name, base string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return a.directory(parent, name, base, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return a.file(parent, name, base, h, content)
	case tar.TypeLink: // the target's entry has said what it looks like
		return a.link(parent, name, base, h.Linkname)
	case tar.TypeSymlink:
		err := a.replace(parent, base, func() error { return unix.Symlinkat(h.Linkname, int(parent.Fd()), base) })
		if err != nil {
			return sysErr("symlink", base, err)
		}
		return a.metadata(parent, name, base, h, a.plain)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if err := a.device(parent, base, h); err != nil {
			return err
		}
		return a.metadata(parent, name, base, h, false)
	}
	return fmt.Errorf("type %q is unknown: %w", h.Typeflag, errdefs.ErrInvalidArgument)
}

// replace makes a name with fn, and if it is taken removes what is there and
// makes it then.
func (a *applier) replace(parent *os.File, base string, fn func() error) error {
	err := fn()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := a.tree.remove(parent, base); err != nil {
		return err
	}
	return fn()
}

func (a *applier) directory(parent *os.File, name, base string, h *tar.Header) error {
	if h.Mode&unix.S_ISGID != 0 || h.PAXRecords[paxXattr+"system.posix_acl_default"] != "" {
		a.plain = false
	}
	fd := int(parent.Fd())
	mode := uint32(h.Mode) & 0o7777
	err := unix.Mkdirat(fd, base, mode)
	fresh := err == nil
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return sysErr("stat", base, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return a.metadata(parent, name, base, h, false)
		}
		if err := a.tree.remove(parent, base); err != nil {
			return err
		}
		err = unix.Mkdirat(fd, base, mode)
		if err == nil && a.overlay {
			// A whiteout, or what else hid the lower layers, is gone.
			err = setOpaque(parent, base)
		}
	}
	if err != nil {
		return sysErr("mkdir", base, err)
	}
	return a.metadata(parent, name, base, h, fresh && a.plain)
}

func (a *applier) file(parent *os.File, name, base string, h *tar.Header, content io.Reader) (err error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	var fd int
	err = a.replace(parent, base, func() (err error) {
		fd, err = unix.Openat(int(parent.Fd()), base, flags, uint32(h.Mode)&0o777)
		return err
	})
	if err != nil {
		return sysErr("open", base, err)
	}
	defer func() {
		if cerr := unix.Close(fd); err == nil {
			err = sysErr("close", base, cerr)
		}
	}()
	a.size += h.Size
	if err := a.fill(fd, base, h.Size, content); err != nil {
		return err
	}
	return a.metadata(parent, name, base, h, a.plain)
}

// fill copies the bytes of a file. Blocks of zeros become holes: an archive
// of a few kilobytes cannot fill the disk with them.
func (a *applier) fill(fd int, base string, size int64, content io.Reader) error {
	hole := false
	for at := int64(0); at < size; {
		n, err := io.ReadFull(content, a.buf[:min(int64(len(a.buf)), size-at)])
		if err != nil {
			return fmt.Errorf("content: %w", err)
		}
		if hole = n == len(a.buf) && isZero(a.buf[:n]); !hole {
			if err := a.bomb.write(n); err != nil {
				return err
			}
			if err := writeAt(fd, a.buf[:n], at); err != nil {
				return sysErr("write", base, err)
			}
		}
		at += int64(n)
	}
	if hole {
		return sysErr("truncate", base, unix.Ftruncate(fd, size))
	}
	return nil
}

func writeAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// noughts is what a hole reads as. Comparing with it is several times faster
// than a loop, and holes can be long.
var noughts [bufferSize]byte

func isZero(b []byte) bool { return bytes.Equal(b, noughts[:len(b)]) }

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
	err = a.linkFrom(parent, base, clean)
	if errors.Is(err, unix.EEXIST) {
		if err := a.tree.remove(parent, base); err != nil {
			return err
		}
		err = a.linkFrom(parent, base, clean)
	}
	if errors.Is(err, unix.ENOENT) && a.overlay {
		return ErrImplied // the target is in a lower layer
	}
	if err != nil {
		return &os.LinkError{Op: "link", Old: target, New: name, Err: err}
	}
	return nil
}

func (a *applier) linkFrom(parent *os.File, base, target string) error {
	dir, name := path.Split(target)
	from, err := a.tree.dir(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if a.overlay && unix.Fstatat(int(from.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && isWhiteout(&st) {
		return &os.PathError{Op: "link", Path: target, Err: errors.New("this layer has removed it")}
	}
	return unix.Linkat(int(from.Fd()), name, int(parent.Fd()), base, 0)
}

// isWhiteout recognizes overlayfs's sign for what is removed.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
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
	return sysErr("mknod", base, a.replace(parent, base, func() error {
		return unix.Mknodat(int(parent.Fd()), base, mode|0o600, int(dev))
	}))
}

// metadata sets owner, mode, extended attributes and times, in the order in
// which the kernel does not undo them. made says that the object has just been
// made with its mode by us, so that only what differs is to be set.
func (a *applier) metadata(parent *os.File, name, base string, h *tar.Header, made bool) error {
	fd := int(parent.Fd())
	if !made || h.Uid != a.uid || h.Gid != a.gid {
		if err := unix.Fchownat(fd, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return sysErr("chown", base, err)
		}
	}
	mode := uint32(h.Mode) & 0o7777
	if h.Typeflag != tar.TypeSymlink && (!made || mode&(a.umask|0o7000) != 0) {
		// base was made just now and is no link; nobody else writes here.
		if err := unix.Fchmodat(fd, base, mode, 0); err != nil {
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
func setOpaque(parent *os.File, base string) error {
	return sysErr("setxattr trusted.overlay.opaque", base, unix.Lsetxattr(throughProc(parent, base), "trusted.overlay.opaque", []byte("y"), 0))
}
