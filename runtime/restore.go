// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/cgroup"
	"slipway/runtime/criu"
	"slipway/runtime/hook"
	"slipway/runtime/rootfs"
)

// A restoration is a creation whose processes come from CRIU's images.
type restoration struct {
	creation
	options criu.Options
	root    string // where the root file system is mounted meanwhile
	images  string // where the images are, if they are not taken as they are
}

// Restore makes the container of config from the images in o.Images. It is
// running then. A failed Restore leaves nothing.
func Restore(ctx context.Context, config Config, o criu.Options) (_ *Container, err error) {
	if err := validate(&config); err != nil {
		return nil, err
	}
	r := &restoration{creation: creation{Config: config, ctx: ctx}, options: o}
	if err := r.claim(); err != nil {
		return nil, err
	}
	defer r.lock.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo())
		}
	}()
	if err := r.findGroups(); err != nil {
		return nil, err
	}
	if err := r.c.record.save(r.c.dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.unmount()) }()
	if err := r.mount(); err != nil {
		return nil, err
	}
	if err := r.describe(); err != nil {
		return nil, err
	}
	if err := r.mountImages(); err != nil {
		return nil, fmt.Errorf("restore: images: %w", err)
	}
	defer r.launch.close() // what CRIU has inherited
	session := criu.Session{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Wait: r.Wait, Started: r.started, Notify: r.notified}
	if err := session.Do(ctx, criu.Restore, r.options); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if r.c.init == nil {
		return nil, errors.New("restore: criu does not say what it has restored")
	}
	return r.c, announce(r.c.init.Pid, r.PidFile, r.PidfdSocket)
}

// mount makes the root file system a mount, which CRIU wants, and the places
// in it that mounts will need.
func (r *restoration) mount() error {
	r.root = filepath.Join(r.c.dir, "criu-root")
	if err := os.Mkdir(r.root, 0o755); err != nil {
		return err
	}
	source := rootfsPath(&r.Config)
	if err := linux.Mount(source, r.root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	root, err := os.Open(r.root)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range r.Spec.Mounts {
		if err := makePlace(root, m, r.Spec.Mounts); err != nil {
			return fmt.Errorf("place of mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

// makePlace makes a mount point of the kind of the source, unless it is inside
// of another mount, which CRIU brings with what was in it.
func makePlace(root *os.File, m specs.Mount, all []specs.Mount) error {
	for _, o := range all {
		if o.Destination != m.Destination && strings.HasPrefix(filepath.Clean(m.Destination), filepath.Clean(o.Destination)+"/") {
			return nil
		}
	}
	if f, err := pathrs.OpenatInRoot(root, m.Destination); err == nil {
		return f.Close()
	}
	at := m.Destination
	bind, _ := rootfs.IsBind(m.Type, m.Options)
	st, err := os.Stat(m.Source)
	file := bind && err == nil && !st.IsDir()
	if file {
		at = filepath.Dir(at)
	}
	dir, err := pathrs.MkdirAllHandle(root, at, 0o755)
	if err != nil || !file {
		return errors.Join(err, closeIf(dir))
	}
	defer dir.Close()
	return linux.Mknod(dir, filepath.Base(m.Destination), unix.S_IFREG|0o644, 0)
}

func closeIf(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// mountImages makes a view of the images in which those of the caller's
// streams that take the place of files from outside are let in. The caller's
// images stay as they are. CRIU looks images up from inside of the container,
// too, so the view is made of mounts: symbolic links would not lead there.
func (r *restoration) mountImages() error {
	var files []criu.Replacement
	for _, i := range r.options.Inherit {
		if !strings.HasPrefix(i.Name, externalFile) {
			continue
		}
		stream, err := r.isStream(i.Fd)
		if err != nil {
			return err
		}
		files = append(files, criu.Replacement{Name: i.Name, Stream: stream})
	}
	if len(files) == 0 {
		return nil
	}
	data, err := criu.Replaceable(r.options.Images, files)
	if err != nil {
		return err
	}
	r.images = filepath.Join(r.c.dir, "criu-images")
	if err := os.Mkdir(r.images, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.filesImage(), data, 0o600); err != nil {
		return err
	}
	if err := linux.Mount(r.options.Images, r.images, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	r.options.Images = r.images
	return linux.Mount(r.filesImage(), filepath.Join(r.images, criu.FilesImage), "", unix.MS_BIND, "")
}

func (r *restoration) filesImage() string { return filepath.Join(r.c.dir, "criu-"+criu.FilesImage) }

// isStream reports whether the caller's stream that is descriptor fd has no
// position to go to. Without one CRIU's own takes its place, which is
// /dev/null.
func (r *restoration) isStream(fd int) (bool, error) {
	stream := []*os.File{r.Stdin, r.Stdout, r.Stderr}[fd]
	if stream == nil {
		return true, nil
	}
	info, err := stream.Stat()
	return err == nil && !info.Mode().IsRegular(), err
}

func (r *restoration) unmount() error {
	var errs []error
	for _, dir := range []string{r.images, r.root} {
		if dir == "" {
			continue
		}
		err := linux.Unmount(dir, unix.MNT_DETACH)
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = removeIf(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, removeIf(r.filesImage()))...)
}

// removeIf removes what may not be there.
func removeIf(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// describe fills the request with what follows from the container.
func (r *restoration) describe() error {
	o := &r.options
	o.Root = r.root
	o.Mounts = r.c.boundMounts(r.Spec)
	if len(r.Spec.Linux.MaskedPaths) > 0 { // the name that masks have in what runc wrote
		o.Mounts = append(o.Mounts, [2]string{"/dev/null", "/dev/null"})
	}
	data, err := os.ReadFile(filepath.Join(o.Images, descriptorsFile))
	if err != nil {
		return err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return fmt.Errorf("%s: %w", descriptorsFile, err)
	}
	for fd, name := range names {
		if fd < 3 {
			r.inherit(fd, name)
		}
	}
	for _, ns := range r.Spec.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		names, ok := outside[ns.Type]
		if !ok {
			o.JoinNS = append(o.JoinNS, [2]string{string(ns.Type), ns.Path})
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return err
		}
		r.launch.owns = append(r.launch.owns, f)
		o.Inherit = append(o.Inherit, criu.Inherited{Name: names[1], File: f})
	}
	return nil
}

// inherit puts the caller's stream in the place of what was descriptor fd,
// unless CRIU restores that. Descriptors that were one file become the first
// of them.
func (r *restoration) inherit(fd int, name string) {
	name = strings.TrimPrefix(name, "seekable:") // of images before 2026-11-30
	if !strings.Contains(name, "pipe:") && !strings.HasPrefix(name, externalFile) {
		return
	}
	if slices.ContainsFunc(r.options.Inherit, func(i criu.Inherited) bool { return i.Name == name }) {
		return
	}
	r.options.Inherit = append(r.options.Inherit, criu.Inherited{Name: name, Fd: fd})
}

// started puts CRIU into the container's groups, where what it restores will
// be.
func (r *restoration) started(pid int, o *criu.Options) error {
	if err := r.cgroup.Create(pid, r.Spec.Linux.Resources); err != nil {
		return err
	}
	r.c.record.CgroupPaths = r.cgroup.Paths()
	if err := delegate(r.cgroup, r.Spec); err != nil {
		return err
	}
	groups, err := cgroup.Of(pid)
	o.CgroupRoots = groups
	return err
}

// notified follows CRIU.
func (r *restoration) notified(script string, pid int, files []*os.File) error {
	switch script {
	case "setup-namespaces":
		if r.Spec.Hooks == nil {
			return nil
		}
		r.hooked = true
		state := r.c.specState(pid)
		if err := hook.Run(r.ctx, "prestart", r.Spec.Hooks.Prestart, r.Bundle, state, r.Wait); err != nil {
			return err
		}
		return hook.Run(r.ctx, "createRuntime", r.Spec.Hooks.CreateRuntime, r.Bundle, state, r.Wait)
	case "post-restore":
		r.c.init = &Process{Pid: pid}
		if err := r.c.record.started(pid); err != nil {
			return err
		}
		return r.c.record.save(r.c.dir)
	case "orphan-pts-master":
		if len(files) == 0 || r.ConsoleSocket == nil {
			return errors.New("restore: a terminal needs a console socket")
		}
		return linux.Send(r.ConsoleSocket, []byte("/dev/ptmx"), files[0])
	}
	return nil
}
