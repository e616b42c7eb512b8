// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"slipway/linux"
)

// maxParameter is the longest value that fsconfig(2) takes.
const maxParameter = 255

// Detached performs mounts that appear nowhere: the result is to be attached
// in a mount namespace, and gone when it is closed before. Where the kernel
// cannot make them so, they are made at target for a moment. The error is
// errors.ErrUnsupported if it cannot do that either (before Linux 5.12).
func Detached(mounts []Mount, target string) (*os.File, error) {
	if f, err := detached(mounts); err == nil {
		return f, nil // else the error of mount(2), if there is one, says more
	}
	if err := All(mounts, target); err != nil {
		return nil, err
	}
	f, err := clone(target, true, 0)
	return f, errors.Join(err, UnmountRecursive(target))
}

// detached is Detached for what the kernel makes without a place.
func detached(mounts []Mount) (*os.File, error) {
	if len(mounts) != 1 || mounts[0].Target != "" {
		return nil, errors.ErrUnsupported
	}
	return mounts[0].detached()
}

func (m Mount) detached() (*os.File, error) {
	o := parseOptions(m.Options)
	bind := o.flags&unix.MS_BIND != 0 || m.Type == "bind" || m.Type == "rbind"
	switch {
	case len(o.idmaps) > 0 || o.loop || o.propagation != 0:
		return nil, errors.ErrUnsupported
	case bind:
		return clone(m.Source, o.flags&unix.MS_REC != 0 || m.Type == "rbind", o.flags)
	case m.Type == "overlay":
		return m.overlay(o)
	}
	return nil, errors.ErrUnsupported
}

// clone copies the mounts at path. What is mounted in the copy later does not
// appear at path.
func clone(path string, recursive bool, flags uintptr) (_ *os.File, err error) {
	how := uint(unix.OPEN_TREE_CLONE)
	if recursive {
		how |= unix.AT_RECURSIVE
	}
	f, err := linux.OpenTree(unix.AT_FDCWD, path, how)
	if err == nil {
		if err = linux.SetMountAttr(f, true, unix.MountAttr{Propagation: unix.MS_SLAVE}); err == nil {
			err = linux.SetMountAttr(f, false, unix.MountAttr{Attr_set: attributes(flags)})
		}
		if err != nil {
			f.Close()
		}
	}
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("detached copy of mount %s (Linux 5.12): %w", path, errors.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// attributes are the MOUNT_ATTR_ of mount(2)'s flags.
func attributes(flags uintptr) (attr uint64) {
	for _, a := range []struct{ flag, attr uint64 }{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	} {
		if uint64(flags)&a.flag != 0 {
			attr |= a.attr
		}
	}
	return attr
}

// overlay makes an overlay file system whose options fit into parameters.
func (m Mount) overlay(o options) (*os.File, error) {
	const known = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NODIRATIME | unix.MS_RELATIME
	if o.flags&^known != 0 {
		return nil, errors.ErrUnsupported
	}
	fs, err := linux.Fsopen("overlay")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := linux.FsconfigString(fs, "source", m.Source); err != nil {
		return nil, err
	}
	if o.flags&unix.MS_RDONLY != 0 {
		if err := linux.FsconfigString(fs, "ro", ""); err != nil {
			return nil, err
		}
	}
	for _, option := range o.data {
		if err := setOption(fs, option); err != nil {
			return nil, err
		}
	}
	return linux.Fsmount(fs, int(attributes(o.flags)))
}

// setOption sets an option. A list of lower directories that is too long is
// set one by one, which Linux takes from 6.7 on.
func setOption(fs *os.File, option string) error {
	name, value, _ := strings.Cut(option, "=")
	if len(value) <= maxParameter {
		return linux.FsconfigString(fs, name, value)
	}
	if name != "lowerdir" || strings.Contains(value, `\`) || strings.Contains(value, "::") {
		return errors.ErrUnsupported
	}
	for dir := range strings.SplitSeq(value, ":") {
		if err := linux.FsconfigString(fs, "lowerdir+", dir); err != nil {
			return err
		}
	}
	return nil
}
