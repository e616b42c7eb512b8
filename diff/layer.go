// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// layer writes changes as a tar archive.
type layer struct {
	tar   *tar.Writer
	root  string
	epoch time.Time
	links map[[2]uint64]string // first name of each file with several
	dirs  map[string]bool      // whose entry is written
	buf   []byte
}

func newLayer(w io.Writer, root string, epoch time.Time) *layer {
	return &layer{
		tar: tar.NewWriter(w), root: root, epoch: epoch, links: map[[2]uint64]string{}, dirs: map[string]bool{"/": true}, buf: make([]byte, 128<<10),
	}
}

// change is called for every path that differs, parents before children.
func (l *layer) change(kind fs.ChangeKind, name string, fi os.FileInfo, err error) error {
	if err != nil {
		return err
	}
	if kind == fs.ChangeKindUnmodified {
		return nil
	}
	if err := l.parents(path.Dir(name)); err != nil {
		return err
	}
	if kind == fs.ChangeKindDelete {
		return l.whiteout(name)
	}
	return l.add(name, fi)
}

// parents writes the directories above a change, so that no directory is
// implied.
func (l *layer) parents(dir string) error {
	if l.dirs[dir] {
		return nil
	}
	if err := l.parents(path.Dir(dir)); err != nil {
		return err
	}
	fi, err := os.Lstat(filepath.Join(l.root, dir))
	if err != nil {
		return err
	}
	return l.add(dir, fi)
}

func (l *layer) whiteout(name string) error {
	dir, base := path.Split(name)
	at := time.Unix(0, 0) // the same layer from the same files, whenever it is made
	return l.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path.Join(dir, whiteoutPrefix+base), "/"), ModTime: at, AccessTime: at, ChangeTime: at,
	})
}

func (l *layer) add(name string, fi os.FileInfo) error {
	if name == "/" || fi.Mode()&os.ModeSocket != 0 {
		return nil
	}
	full := filepath.Join(l.root, name)
	var target string
	if fi.Mode()&os.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(full); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(fi, target)
	if err != nil {
		return err
	}
	l.fixHeader(h, name, fi)
	if h.Typeflag == tar.TypeDir {
		l.dirs[name] = true
	}
	if h.Typeflag != tar.TypeLink {
		if err := addCapability(h, full); err != nil {
			return err
		}
	}
	if err := l.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	return l.body(full)
}

// fixHeader drops what depends on the host and turns further names of a file
// into links.
func (l *layer) fixHeader(h *tar.Header, name string, fi os.FileInfo) {
	h.Name = strings.TrimPrefix(name, "/")
	if fi.IsDir() {
		h.Name += "/"
	}
	h.Format, h.Uname, h.Gname = tar.FormatPAX, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.ModTime = h.ModTime.Truncate(time.Second)
	if !l.epoch.IsZero() && h.ModTime.After(l.epoch) {
		h.ModTime = l.epoch
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.IsDir() || st.Nlink < 2 {
		return
	}
	key := [2]uint64{uint64(st.Dev), st.Ino}
	if first, seen := l.links[key]; seen {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	} else {
		l.links[key] = h.Name
	}
}

func addCapability(h *tar.Header, full string) error {
	v, err := sysx.LGetxattr(full, "security.capability")
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return sysErr("getxattr", full, err)
	}
	h.PAXRecords = map[string]string{paxXattr + "security.capability": string(v)}
	return nil
}

func (l *layer) body(full string) error {
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(l.tar, f, l.buf)
	return err
}
