// SPDX-License-Identifier: Apache-2.0

// Package tree describes directory trees, so that tests can tell whether two
// are the same in everything that an image can say.
package tree

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// List describes everything below root, a line each: path, mode, owner, time,
// device, link target, digest of the content, extended attributes, and of a
// file with several names the first one.
func List(root string) (string, error) {
	var b strings.Builder
	first := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d %d.%09d", rel, fi.Mode(), st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		if fi.Mode()&os.ModeDevice != 0 {
			fmt.Fprintf(&b, " device %d", st.Rdev)
		}
		if key := [2]uint64{uint64(st.Dev), st.Ino}; !d.IsDir() && st.Nlink > 1 {
			if _, ok := first[key]; !ok {
				first[key] = rel
			}
			fmt.Fprintf(&b, " same as %s", first[key])
		}
		if err := content(&b, path, d); err != nil {
			return err
		}
		return attributes(&b, path)
	})
	return b.String(), err
}

func content(b *strings.Builder, path string, d fs.DirEntry) error {
	switch {
	case d.Type() == fs.ModeSymlink:
		to, err := os.Readlink(path)
		fmt.Fprintf(b, " -> %s", to)
		return err
	case d.Type().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, f)
		fmt.Fprintf(b, " %d bytes %x", n, sum.Sum(nil))
		return err
	}
	return nil
}

func attributes(b *strings.Builder, path string) error {
	defer b.WriteByte('\n')
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		fmt.Fprintf(b, " %s=%q", name, buf[:n])
	}
	return nil
}
