// SPDX-License-Identifier: Apache-2.0

// Package rootfs makes the file system that a container sees, from inside the
// container's new mount namespace: mounts, devices, the terminal, masked
// paths, and at last the change of root.
//
// Until Enter the root is still the host's, and so are /proc and /dev: they
// are trusted. The container's tree is not: an image or another container can
// put links anywhere in it. So every path in it is resolved below its root by
// descriptor, and what has been resolved is used through the descriptor only.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/protocol"
)

// Config says what a container's file system is made of.
type Config struct {
	Spec   *protocol.Spec
	Path   string   // of the root on the host, absolute
	Rootfs *os.File // detached mount to put there first; nil for none
	// Tree is asked for a detached bind mount, by index in Spec.Mounts, that
	// this process has no right to make. It is nil if there is none.
	Tree func(index int) (*os.File, error)

	NewUser   bool              // devices cannot be made
	NewCgroup bool              // in a cgroup namespace of its own
	Cgroups   map[string]string // host directories of the container's cgroups by controller
	Unified   bool              // cgroups have version 2 only
	NoPivot   bool
	Shared    bool // in the runtime's mount namespace, where all mounts stay
}

// Root is a file system in the making.
type Root struct {
	config Config
	root   *os.File // O_PATH
	top    string   // where root is, as the kernel sees it
	late   []string // tmpfs mounts to make read-only at the end
}

// Prepare makes the mounts and devices of config.
func Prepare(config Config) (_ *Root, err error) {
	r := &Root{config: config}
	if err := r.open(); err != nil {
		return nil, fmt.Errorf("prepare rootfs: %w", err)
	}
	for i, m := range config.Spec.Mounts {
		m.Destination = r.below(m.Destination)
		if err := r.mount(i, &m); err != nil {
			return nil, fmt.Errorf("error mounting %q to rootfs at %q: %w", m.Source, m.Destination, err)
		}
	}
	if err := r.devices(); err != nil {
		return nil, fmt.Errorf("devices of rootfs: %w", err)
	}
	if config.Spec.Process != nil {
		// As with other runtimes, the working directory is made if it can be.
		if dir, err := r.directory(config.Spec.Process.Cwd); err == nil {
			dir.Close()
		}
	}
	return r, nil
}

// open isolates the mount namespace from the host's and makes the root a
// mount of its own, as pivot_root needs it.
func (r *Root) open() error {
	if !r.config.Shared {
		if err := r.isolate(); err != nil {
			return err
		}
	}
	if err := r.attach(); err != nil {
		return err
	}
	var err error
	if r.root, err = linux.Open(r.config.Path, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	r.top, err = os.Readlink(linux.FdPath(r.root))
	return err
}

func (r *Root) isolate() error {
	propagation := uintptr(unix.MS_SLAVE | unix.MS_REC)
	if p, ok := r.propagation(); ok {
		propagation = p
	}
	if err := linux.Mount("", "/", "", propagation, ""); err != nil {
		return err
	}
	if propagation&(unix.MS_SHARED|unix.MS_UNBINDABLE) != 0 {
		return privateParent(r.config.Path)
	}
	return nil
}

func (r *Root) attach() error {
	if r.config.Rootfs == nil {
		return linux.Mount(r.config.Path, r.config.Path, "bind", unix.MS_BIND|unix.MS_REC, "")
	}
	at, err := linux.Open(r.config.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	return linux.Attach(r.config.Rootfs, at)
}

func (r *Root) propagation() (uintptr, bool) {
	if r.config.Spec.Linux == nil {
		return 0, false
	}
	p, ok := propagations[r.config.Spec.Linux.RootfsPropagation]
	return p, ok
}

// privateParent makes the mount that holds path private, so that what is
// mounted below path does not propagate to the host, and path can be bound.
func privateParent(dir string) error {
	for {
		err := linux.Mount("", dir, "", unix.MS_PRIVATE, "")
		if !errors.Is(err, unix.EINVAL) || dir == "/" { // EINVAL: not a mount point
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// below is the path of a destination in the root, which may be given as seen
// from the host.
func (r *Root) below(name string) string {
	root := strings.TrimSuffix(r.config.Path, "/")
	if rest, ok := strings.CutPrefix(path.Clean(name), root); ok && (rest == "" || rest[0] == '/') {
		return "/" + strings.TrimPrefix(rest, "/")
	}
	return name
}

// lookup is the file at name below the root, by O_PATH.
func (r *Root) lookup(name string) (*os.File, error) {
	f, err := linux.OpenIn(r.root, name, unix.O_PATH)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.6, or a filter that is
		return pathrs.OpenatInRoot(r.root, name)
	}
	return f, err
}

// target is the file to mount onto at name, made if it is missing: a
// directory, or a file.
func (r *Root) target(name string, directory bool) (*os.File, error) {
	f, _, err := r.find(name, directory)
	return f, err
}

// find is target, and says whether it was there.
func (r *Root) find(name string, directory bool) (_ *os.File, found bool, err error) {
	f, err := r.lookup(name)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err == nil, err
	}
	f, err = r.make(name, directory)
	return f, false, err
}

func (r *Root) make(name string, directory bool) (*os.File, error) {
	if f, err := r.add(name, directory); err == nil {
		return f, nil
	}
	// A dangling link stands for the place in the root that it points to.
	full, err := securejoin.SecureJoin(r.config.Path, name)
	if err != nil {
		return nil, err
	}
	name = strings.TrimPrefix(full, strings.TrimSuffix(r.config.Path, "/"))
	if directory {
		return pathrs.MkdirAllHandle(r.root, name, 0o755)
	}
	dir, err := r.directory(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return addFile(dir, path.Base(name))
}

// add makes the last part of name, whose others are there. It follows no link
// in the last place, and fails if anything is there.
func (r *Root) add(name string, directory bool) (*os.File, error) {
	name = path.Clean("/" + name)
	dir, err := r.lookup(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	base := path.Base(name)
	if !directory {
		return addFile(dir, base)
	}
	if err := linux.Mkdir(dir, base, 0o755); err != nil {
		return nil, err
	}
	return linux.OpenAt(dir, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

func addFile(dir *os.File, name string) (*os.File, error) {
	return linux.OpenAt(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDONLY, 0o644)
}

// directory is the directory name below the root, made if it is missing.
func (r *Root) directory(name string) (*os.File, error) {
	f, err := r.lookup(name)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if f, err := r.add(name, true); err == nil {
		return f, nil
	}
	return pathrs.MkdirAllHandle(r.root, name, 0o755)
}

// where is the path of f below the root, as the kernel sees it.
func (r *Root) where(f *os.File) (string, error) {
	full, err := os.Readlink(linux.FdPath(f))
	if err != nil {
		return "", err
	}
	rel, ok := strings.CutPrefix(full, strings.TrimSuffix(r.top, "/"))
	if !ok || rel != "" && rel[0] != '/' {
		return "", fmt.Errorf("%s is outside of %s", full, r.top)
	}
	if rel == "" {
		rel = "/"
	}
	return rel, nil
}

// again opens what is now mounted at the place of at.
func (r *Root) again(at *os.File) (*os.File, error) {
	name, err := r.where(at)
	if err != nil {
		return nil, err
	}
	return r.lookup(name)
}
