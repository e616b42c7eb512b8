// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// tree is a directory in which paths are resolved as if it were /.
type tree struct {
	root *os.File
	// open holds directories that were used lately. It is emptied whenever a
	// name comes to mean something else.
	open map[string]*os.File
}

// maxOpen is how many descriptors a tree keeps from one entry to the next,
// and maxDepth how many one path may add.
const (
	maxOpen  = 128
	maxDepth = 64
)

func openTree(root string) (*tree, error) {
	f, err := os.OpenFile(root, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &tree{root: f, open: map[string]*os.File{}}, nil
}

func (t *tree) close() {
	t.forget()
	t.root.Close()
}

func (t *tree) forget() {
	for _, f := range t.open {
		f.Close()
	}
	clear(t.open)
}

func (t *tree) sync() error {
	return sysErr("syncfs", t.root.Name(), unix.Syncfs(int(t.root.Fd())))
}

// trim closes descriptors if there are too many. It is called between
// entries, when none is in hand.
func (t *tree) trim() {
	if len(t.open) > maxOpen {
		t.forget()
	}
}

// dir opens the directory at name, "" for the root. The descriptor belongs to
// the tree and is good until the next trim or removal.
func (t *tree) dir(name string) (*os.File, error) {
	if name == "" || name == "." {
		return t.root, nil
	}
	if f := t.open[name]; f != nil {
		return f, nil
	}
	if strings.Count(name, "/") >= maxDepth {
		return t.resolve(name)
	}
	// One step from the directory above, which mostly is open. Only this
	// process writes here, so what is no link now stays none.
	dir, base := path.Split(name)
	parent, err := t.dir(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	if base != ".." && base != "." {
		f, err := openAt(parent, base, unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			t.open[name] = f
			return f, nil
		}
		if errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return t.resolve(name)
}

// resolve follows links, as if the root were /.
func (t *tree) resolve(name string) (*os.File, error) {
	f, err := pathrs.OpenatInRoot(t.root, name)
	if err != nil {
		return nil, err
	}
	return t.keep(name, f)
}

func (t *tree) keep(name string, f *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, sysErr("fstat", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		f.Close()
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOTDIR}
	}
	if old := t.open[name]; old != nil {
		old.Close()
	}
	t.open[name] = f
	return f, nil
}

// makeDirs makes the missing directories of name.
func (t *tree) makeDirs(name string) (*os.File, error) {
	f, err := pathrs.MkdirAllHandle(t.root, name, 0o755)
	if err != nil {
		return nil, err
	}
	return t.keep(name, f)
}

// list reads the names in a directory, up to n of them if n > 0.
func (t *tree) list(dir *os.File, n int) ([]string, error) {
	f, err := openAt(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(n)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// remove deletes name in a directory with everything below it, if it is
// there.
func (t *tree) remove(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	t.forgetOthers(dir)
	if errors.Is(err, unix.EISDIR) {
		return removeDir(dir, name)
	}
	return sysErr("unlink", name, err)
}

// forgetOthers empties the cache but for the directory in hand.
func (t *tree) forgetOthers(inHand *os.File) {
	for name, f := range t.open {
		if f != inHand {
			f.Close()
			delete(t.open, name)
		}
	}
}

func removeDir(dir *os.File, name string) error {
	f, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := f.Readdirnames(1000)
		if len(names) == 0 && (err == nil || errors.Is(err, io.EOF)) {
			break
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			err := unix.Unlinkat(int(f.Fd()), n, 0)
			if errors.Is(err, unix.EISDIR) {
				err = removeDir(f, n)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return &os.PathError{Op: "remove", Path: path.Join(name, n), Err: err}
			}
		}
	}
	return sysErr("rmdir", name, unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR))
}

// openAt opens a name in a directory, never through a link.
func openAt(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, sysErr("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func sysErr(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
