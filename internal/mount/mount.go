// SPDX-License-Identifier: Apache-2.0

// Package mount performs the mounts that snapshotters return.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// A Mount is one mount(2) call, in the form that fstab(5) and the wire use.
type Mount struct {
	Type    string   // file system type; "bind" for a bind mount
	Source  string   // device, directory or name
	Target  string   // path below the mount point, usually empty
	Options []string // fstab options; unknown ones are data of the file system
}

// FromProto converts the mounts of a request, be they generated messages or
// those of a program that does without the protobuf runtime.
func FromProto[M interface {
	GetType() string
	GetSource() string
	GetTarget() string
	GetOptions() []string
}](in []M) []Mount {
	var out []Mount
	for _, m := range in {
		out = append(out, Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	return out
}

// Plain says whether mounts can be performed as they are: no type says what is
// to be done first.
func Plain(mounts []Mount) bool {
	return !slices.ContainsFunc(mounts, func(m Mount) bool { return strings.Contains(m.Type, "/") })
}

// ReadOnly returns the mounts changed so that nothing can be written through
// them: an overlay loses its upper directory. An image that has yet to be made
// stays writable for what is to be made in it; one that is there may be in use
// and must not even have its journal replayed.
func ReadOnly(in []Mount) []Mount {
	out := slices.Clone(in)
	for i, m := range out {
		image := strings.HasPrefix(m.Type, "mkfs/")
		if _, err := os.Stat(m.Source); image && err != nil {
			continue
		}
		overlay := m.Type == "overlay" || strings.HasSuffix(m.Type, "/overlay")
		opts := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
			return o == "rw" || o == "ro" || overlay && (strings.HasPrefix(o, "upperdir=") || strings.HasPrefix(o, "workdir="))
		})
		if overlay {
			opts = lowerUpper(opts, m.Options)
		}
		if image && strings.HasPrefix(m.Type, "mkfs/ext") {
			opts = append(opts, "noload")
		}
		out[i].Options = append(opts, "ro")
	}
	return out
}

// lowerUpper puts the upper directory of an overlay on top of its lower ones.
func lowerUpper(opts, original []string) []string {
	for _, o := range original {
		upper, ok := strings.CutPrefix(o, "upperdir=")
		if !ok {
			continue
		}
		for i, l := range opts {
			if lower, ok := strings.CutPrefix(l, "lowerdir="); ok {
				opts[i] = "lowerdir=" + upper + ":" + lower
			}
		}
	}
	return opts
}

// All performs mounts in order at target and below. If one fails, those
// before it are undone.
func All(mounts []Mount, target string) (err error) {
	var done []string
	defer func() {
		if err != nil {
			for _, at := range slices.Backward(done) {
				Unmount(at)
			}
		}
	}()
	for _, m := range mounts {
		at := target
		if m.Target != "" {
			if at, err = securejoin.SecureJoin(target, m.Target); err != nil {
				return err
			}
		}
		if err := m.mount(at); err != nil {
			return err
		}
		done = append(done, at)
	}
	return nil
}

func (m Mount) mount(target string) error {
	o := parseOptions(m.Options)
	if len(o.idmaps) > 0 {
		return m.mapped(target, o)
	}
	if strings.Contains(m.Type, "/") {
		return fmt.Errorf("mount type %q at %s: %w", m.Type, target, errdefs.ErrNotImplemented)
	}
	source, fstype := m.Source, m.Type
	if o.flags&unix.MS_BIND != 0 || fstype == "bind" || fstype == "rbind" {
		return m.bind(target, o)
	}
	var err error
	if !o.loop {
		err = call(source, target, fstype, o.flags, o.data)
	}
	// erofs mounts a file by itself from Linux 6.12 on.
	if o.loop || fstype == "erofs" && errors.Is(err, unix.ENOTBLK) {
		err = m.mountImage(target, o)
	}
	if err != nil {
		return err
	}
	return propagate(target, o.propagation)
}

// bind needs a second call for flags, which the first ignores.
func (m Mount) bind(target string, o options) error {
	flags := uintptr(unix.MS_BIND) | o.flags&unix.MS_REC
	if m.Type == "rbind" {
		flags |= unix.MS_REC
	}
	if err := call(m.Source, target, "", flags, nil); err != nil {
		return err
	}
	if rest := o.flags &^ (unix.MS_BIND | unix.MS_REC); rest != 0 {
		if err := call("", target, "", unix.MS_REMOUNT|unix.MS_BIND|rest, nil); err != nil {
			Unmount(target)
			return err
		}
	}
	return propagate(target, o.propagation)
}

func propagate(target string, flags uintptr) error {
	if flags == 0 {
		return nil
	}
	return call("", target, "", flags, nil)
}

func call(source, target, fstype string, flags uintptr, data []string) error {
	text := strings.Join(data, ",")
	var err error
	if len(text) < os.Getpagesize() {
		err = mount2(source, target, fstype, flags, text)
	} else {
		err = mountLong(source, target, fstype, flags, data)
	}
	if err != nil {
		return &os.PathError{Op: "mount " + orBind(fstype) + " " + source + " at", Path: target, Err: err}
	}
	return nil
}

func orBind(fstype string) string {
	if fstype == "" {
		return "bind"
	}
	return fstype
}

func mount2(source, target, fstype string, flags uintptr, data string) error {
	for {
		if err := unix.Mount(source, target, fstype, flags, data); err != unix.EINTR {
			return err
		}
	}
}

// Unmount takes off the topmost mount at target, at once if it can be and
// else as soon as nobody uses it. A target that is not mounted is no error.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: target, Err: err}
}

// UnmountRecursive takes off every mount at target and below, deepest first.
func UnmountRecursive(target string) error {
	target, err := filepath.EvalSymlinks(target)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(target))
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, func(a, b *mountinfo.Info) int { return len(b.Mountpoint) - len(a.Mountpoint) })
	var errs []error
	for _, m := range list {
		errs = append(errs, Unmount(m.Mountpoint))
	}
	return errors.Join(errs...)
}

// WithTemp performs mounts at a temporary directory in dir while fn runs.
func WithTemp(ctx context.Context, dir string, mounts []Mount, fn func(root string) error) (err error) {
	root, err := os.MkdirTemp(dir, "containerd-mount")
	if err != nil {
		return err
	}
	defer func() {
		if uerr := unmountAndRemove(root); err == nil {
			err = uerr
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := All(mounts, root); err != nil {
		return err
	}
	return fn(root)
}

// WithRoot is WithTemp for a function that opens root, which is a magic link,
// and does not walk from it: where the kernel can (Linux 5.2), the mount
// appears nowhere, and is gone even when the process is killed.
func WithRoot(ctx context.Context, mounts []Mount, fn func(root string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f, err := detached(mounts); err == nil {
		defer f.Close()
		return fn(linux.FdPath(f))
	}
	return WithTemp(ctx, "", mounts, fn)
}

// unmountAndRemove uses rmdir: if something is still mounted at root, nothing
// of it can be deleted.
func unmountAndRemove(root string) error {
	if err := UnmountRecursive(root); err != nil {
		return err
	}
	var err error
	for range 50 { // a detached mount may hold the directory for a moment
		if err = unix.Rmdir(root); err != unix.EBUSY {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return &os.PathError{Op: "rmdir", Path: root, Err: err}
	}
	return nil
}
