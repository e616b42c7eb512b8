// SPDX-License-Identifier: Apache-2.0

package fsck

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// A Fault is a path of an unpacked layer that is not what the layer says.
type Fault struct {
	Path   string
	Reason string
}

// Layer compares root, which shows a layer on top of those below it, with the
// layer, a tar archive that is not compressed.
func Layer(ctx context.Context, root string, layer io.Reader) ([]Fault, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c := comparison{root: dir, faults: make(map[string]string), has: make(map[string]bool), buf: make([]byte, 2*blockSize)}
	tr := tar.NewReader(layer)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := c.entry(h, tr); err != nil {
			return nil, fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if err := c.absences(); err != nil {
		return nil, err
	}
	var list []Fault
	for _, name := range slices.Sorted(maps.Keys(c.faults)) {
		list = append(list, Fault{name, c.faults[name]})
	}
	return list, nil
}

const (
	blockSize      = 128 << 10
	whiteoutPrefix = ".wh."
)

// comparison is one under way. An entry replaces an earlier one of its name.
type comparison struct {
	root    *os.File
	faults  map[string]string
	has     map[string]bool
	removed []string
	buf     []byte
}

func (c *comparison) entry(h *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	base := path.Base(name)
	if gone, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if !strings.HasPrefix(gone, whiteoutPrefix) { // else opaque, or of aufs
			c.removed = append(c.removed, path.Join(path.Dir(name), gone))
		}
		return nil
	}
	if name == "" || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	c.has[name] = true
	reason, err := c.compare(name, h, content)
	if err != nil {
		return err
	}
	delete(c.faults, name)
	if reason != "" {
		c.faults[name] = reason
	}
	return nil
}

// find opens the directory of name and looks at what is there.
func (c *comparison) find(name string) (dir *os.File, st unix.Stat_t, err error) {
	dir, err = pathrs.OpenatInRoot(c.root, path.Dir(name))
	if err != nil {
		return nil, st, err
	}
	if err := unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		dir.Close()
		return nil, st, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return dir, st, nil
}

func (c *comparison) compare(name string, h *tar.Header, content io.Reader) (reason string, err error) {
	dir, st, err := c.find(name)
	if missing(err) {
		return "missing", nil
	}
	if err != nil {
		return "", err
	}
	defer dir.Close()
	if h.Typeflag == tar.TypeLink {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return "a directory, not a link", nil
		}
		return "", nil // its owner and content are those of its target
	}
	if reason := metadata(h, st); reason != "" {
		return reason, nil
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		target := make([]byte, len(h.Linkname)+1)
		n, err := unix.Readlinkat(int(dir.Fd()), path.Base(name), target)
		if err != nil {
			return "", &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		if string(target[:n]) != h.Linkname {
			return "a link to elsewhere", nil
		}
	case tar.TypeReg:
		return c.content(dir, name, content)
	}
	return "", nil
}

var types = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

func metadata(h *tar.Header, st unix.Stat_t) string {
	kind, known := types[h.Typeflag]
	switch {
	case !known:
		return ""
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Sprintf("of type %#o, not %#o", st.Mode&unix.S_IFMT, kind)
	case int(st.Uid) != h.Uid || int(st.Gid) != h.Gid:
		return fmt.Sprintf("owned by %d:%d, not %d:%d", st.Uid, st.Gid, h.Uid, h.Gid)
	case kind == unix.S_IFLNK:
		return ""
	case int64(st.Mode&0o7777) != h.Mode&0o7777:
		return fmt.Sprintf("of mode %#o, not %#o", st.Mode&0o7777, h.Mode&0o7777)
	case kind == unix.S_IFREG && st.Size != h.Size:
		return fmt.Sprintf("%d bytes, not %d", st.Size, h.Size)
	case (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && st.Rdev != unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)):
		return "another device"
	}
	return ""
}

// content compares a file block by block.
func (c *comparison) content(dir *os.File, name string, want io.Reader) (reason string, err error) {
	fd, err := unix.Openat(int(dir.Fd()), path.Base(name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	a, b := c.buf[:blockSize], c.buf[blockSize:]
	for {
		n, err := io.ReadFull(want, a)
		if n > 0 {
			if m, rerr := io.ReadFull(f, b[:n]); m < n && rerr != io.ErrUnexpectedEOF && rerr != io.EOF {
				return fmt.Sprintf("cannot be read: %v", rerr), nil
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return "of another content", nil
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
	}
}

// absences checks what the layer removes, unless it has it itself. Without
// lower layers there is nothing to remove, and overlayfs's own whiteouts may be
// visible.
func (c *comparison) absences() error {
	for _, name := range c.removed {
		if c.has[name] {
			continue
		}
		dir, st, err := c.find(name)
		if missing(err) {
			continue
		}
		if err != nil {
			return err
		}
		dir.Close()
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			c.faults[name] = "there, but removed by the layer"
		}
	}
	return nil
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}
