// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// DefaultDevices are the ones that config-linux.md promises every container.
func DefaultDevices() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	device := func(name string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: "/dev/" + name, Type: "c", Major: major, Minor: minor, FileMode: &mode}
	}
	return []specs.LinuxDevice{
		device("null", 1, 3), device("zero", 1, 5), device("full", 1, 7),
		device("random", 1, 8), device("urandom", 1, 9), device("tty", 5, 0),
	}
}

// links are those of config-linux.md, "Dev symbolic links".
var links = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
}

// devices makes the devices and links in /dev, unless a mount of the host's
// is there.
func (r *Root) devices() error {
	for _, m := range r.config.Spec.Mounts {
		bind, _ := IsBind(m.Type, m.Options)
		if bind && path.Clean(m.Destination) == "/dev" {
			return nil
		}
	}
	list := DefaultDevices()
	if r.config.Spec.Linux != nil {
		list = merge(list, r.config.Spec.Linux.Devices)
	}
	for i := range list {
		if err := r.device(&list[i]); err != nil {
			return fmt.Errorf("device %s: %w", list[i].Path, err)
		}
	}
	return r.devLinks()
}

// merge lets the devices of a spec replace the defaults of the same path.
func merge(defaults, asked []specs.LinuxDevice) []specs.LinuxDevice {
	list := make([]specs.LinuxDevice, 0, len(defaults)+len(asked))
	for _, d := range defaults {
		replaced := false
		for _, a := range asked {
			replaced = replaced || path.Clean(a.Path) == d.Path
		}
		if !replaced {
			list = append(list, d)
		}
	}
	return append(list, asked...)
}

// kinds are the type letters of mknod(1).
var kinds = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

func (r *Root) device(d *specs.LinuxDevice) error {
	kind, ok := kinds[d.Type]
	if !ok {
		return fmt.Errorf("type %q is unknown", d.Type)
	}
	if path.Clean(d.Path) == "/dev/ptmx" {
		return nil // a link into the devpts of the container
	}
	dir, err := r.directory(path.Dir(d.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if r.config.NewUser {
		return r.bindDevice(d)
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	name := path.Base(d.Path)
	err = linux.Mknod(dir, name, kind|mode, unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EPERM):
		return r.bindDevice(d)
	case err != nil:
		return err
	}
	return own(dir, name, d, mode)
}

// own gives a device that was just made its owner and mode.
func own(dir *os.File, name string, d *specs.LinuxDevice, mode uint32) error {
	uid, gid := 0, 0
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if uid != 0 || gid != 0 {
		if err := linux.Chown(dir, name, uid, gid); err != nil {
			return err
		}
	}
	f, err := linux.OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := linux.Stat(f); err != nil || st.Mode&0o777 == mode {
		return err
	}
	return os.Chmod(linux.FdPath(f), os.FileMode(mode))
}

// bindDevice uses the host's node of the same path, where none can be made.
func (r *Root) bindDevice(d *specs.LinuxDevice) error {
	target, err := r.target(d.Path, false)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := r.allowed(target, false); err != nil {
		return err
	}
	source, err := linux.Open(d.Path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer source.Close()
	return r.bindOld(source, target, &options{}, false)
}

func (r *Root) devLinks() error {
	dev, err := r.directory("/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	all := links
	if _, err := os.Stat("/proc/kcore"); err == nil {
		all = append(all[:len(all):len(all)], [2]string{"/proc/kcore", "core"})
	}
	for _, l := range all {
		if err := linux.Symlink(l[0], dev, l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	if err := linux.Remove(dev, "ptmx", false); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return linux.Symlink("pts/ptmx", dev, "ptmx")
}
