// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// An id-mapped mount shows files with owners shifted as a user namespace does
// (mount_setattr(2), Linux 5.12; below an overlay Linux 5.19).

// IDMapsOverlay says whether overlays of id-mapped layers can be mounted here.
// It is found out once.
var IDMapsOverlay = sync.OnceValue(func() bool {
	dir, err := os.MkdirTemp("", "idmap-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"1", "2", "at"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return false
		}
	}
	// Without an upper directory: an unmount would flush its file system.
	probe := Mount{Type: "overlay", Source: "overlay", Options: []string{
		"uidmap=0:100000:1", "gidmap=0:100000:1", "lowerdir=" + dir + "/1:" + dir + "/2",
	}}
	at := filepath.Join(dir, "at")
	if err := All([]Mount{probe}, at); err != nil {
		return false
	}
	return Unmount(at) == nil
})

// mapped performs a mount with the mappings in its options. An overlay gets its
// lower directories mapped: what is written to the upper one has the mapped
// owners already. Of another mount everything is mapped.
func (m Mount) mapped(target string, o options) error {
	ns, err := userNamespace(o.idmaps)
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Type, target, err)
	}
	defer ns.Close()
	plain := m
	plain.Options = withoutIDMaps(m.Options)
	if m.Type == "overlay" {
		return plain.overMapped(target, ns)
	}
	if err := plain.mount(target); err != nil {
		return err
	}
	if err := remount(target, ns); err != nil {
		Unmount(target)
		return err
	}
	return nil
}

func withoutIDMaps(list []string) (rest []string) {
	for _, o := range list {
		if !strings.HasPrefix(o, "uidmap=") && !strings.HasPrefix(o, "gidmap=") {
			rest = append(rest, o)
		}
	}
	return rest
}

// remount puts a mapped copy of a mount in its place.
func remount(target string, ns *os.File) error {
	tree, err := cloneMapped(target, ns)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "unmount", Path: target, Err: err}
	}
	return attachTree(tree, target)
}

func attachTree(tree int, target string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move mount to", Path: target, Err: err}
	}
	return nil
}

// cloneMapped makes a detached copy of the mount at dir, from there on, that
// has the mapping of a user namespace.
func cloneMapped(dir string, ns *os.File) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(tree)
		return -1, &os.PathError{Op: "mount_setattr MOUNT_ATTR_IDMAP (Linux 5.12, with support of the file system) of", Path: dir, Err: err}
	}
	return tree, nil
}

// overMapped mounts an overlay whose lower directories are mapped copies. They
// are mounted for that moment only: the overlay keeps its own.
func (m Mount) overMapped(target string, ns *os.File) (err error) {
	temp, err := os.MkdirTemp("", "ovl-idmapped")
	if err != nil {
		return err
	}
	var points []string
	defer func() {
		for _, p := range points {
			err = errors.Join(err, Unmount(p), os.Remove(p))
		}
		err = errors.Join(err, os.Remove(temp))
	}()
	for i, o := range m.Options {
		list, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		var mapped []string
		for n, dir := range strings.Split(list, ":") {
			point := filepath.Join(temp, strconv.Itoa(n))
			if err := os.Mkdir(point, 0o700); err != nil {
				return err
			}
			points = append(points, point)
			if err := mountMapped(dir, point, ns); err != nil {
				return err
			}
			mapped = append(mapped, point)
		}
		m.Options[i] = "lowerdir=" + strings.Join(mapped, ":")
	}
	return m.mount(target)
}

func mountMapped(dir, point string, ns *os.File) error {
	tree, err := cloneMapped(dir, ns)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return attachTree(tree, point)
}

// userNamespace makes a user namespace with the mappings of uidmap= and
// gidmap= options.
func userNamespace(idmaps []string) (*os.File, error) {
	var uids, gids []syscall.SysProcIDMap
	for _, o := range idmaps {
		name, value, _ := strings.Cut(o, "=")
		maps, err := parseIDMaps(value)
		if err != nil {
			return nil, fmt.Errorf("option %q: %w: %w", o, err, errdefs.ErrInvalidArgument)
		}
		if name == "uidmap" {
			uids = append(uids, maps...)
		} else {
			gids = append(gids, maps...)
		}
	}
	if len(uids) == 0 || len(gids) == 0 {
		return nil, fmt.Errorf("options uidmap and gidmap come together: %w", errdefs.ErrInvalidArgument)
	}
	ns, err := carried(uids, gids)
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	return ns, nil
}

// carried opens the namespace of a child that is stopped before its first
// instruction (ptrace(2), PTRACE_TRACEME) and killed then.
func carried(uids, gids []syscall.SysProcIDMap) (*os.File, error) {
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"userns"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return nil, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Pid))
	killErr := child.Kill()
	reap(child.Pid)
	child.Release()
	if err != nil {
		return nil, err
	}
	if killErr != nil {
		ns.Close()
		return nil, killErr
	}
	return ns, nil
}

// reap waits for the end of a child, or until somebody else has.
func reap(pid int) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR && (err != nil || status.Exited() || status.Signaled()) {
			return
		}
	}
}

// parseIDMaps reads container:host:length, several with commas between.
func parseIDMaps(text string) (maps []syscall.SysProcIDMap, err error) {
	for _, one := range strings.Split(text, ",") {
		f := strings.Split(one, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("mapping %q is not container:host:length", one)
		}
		var n [3]int
		for i, s := range f {
			v, err := strconv.ParseUint(s, 10, 32)
			if err != nil {
				return nil, err
			}
			n[i] = int(v)
		}
		if n[2] == 0 {
			return nil, fmt.Errorf("mapping %q maps nothing", one)
		}
		maps = append(maps, syscall.SysProcIDMap{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return maps, nil
}
