// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/protocol"
	"slipway/runtime/rootfs"
)

// addMounts makes the bind mounts of s that the init has no right to: those
// with mapped owners, and all if it is in another user namespace, whose root
// may be unable to reach the sources. They are detached, and get their flags
// from the init.
func (l *launch) addMounts(s *specs.Spec, pid int) error {
	user := findNamespace(s, specs.UserNamespace) != nil
	for i := range s.Mounts {
		m := &s.Mounts[i]
		bind, recursive := rootfs.IsBind(m.Type, m.Options)
		mapped, all := rootfs.IsMapped(m.Options)
		mapped = mapped || len(m.UIDMappings) > 0
		if !mapped && (!bind || !user || os.Geteuid() != 0) {
			continue
		}
		if !bind {
			return fmt.Errorf("mount %s: only bind mounts can have mapped owners", m.Destination)
		}
		tree, err := cloneTree(m.Source, recursive)
		if errors.Is(err, unix.ENOSYS) && !mapped {
			return nil // before Linux 5.2 the init tries by path
		}
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		l.add(fmt.Sprint(protocol.FileMount, i), tree)
		if !mapped {
			continue
		}
		if err := mapTree(tree, m, pid, all); err != nil {
			return fmt.Errorf("idmapped mount %s: %w", m.Destination, err)
		}
	}
	return nil
}

// cloneTree is a detached copy of what is at path. What is mounted in the
// container must not appear on the host, so the copy is a slave.
func cloneTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := linux.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, err
	}
	err = linux.SetMountAttr(tree, true, unix.MountAttr{Propagation: unix.MS_SLAVE})
	if err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// mapTree maps the owners in tree: by the mappings of m or, without, those of
// the container's user namespace.
func mapTree(tree *os.File, m *specs.Mount, pid int, all bool) error {
	var user *os.File
	var err error
	if len(m.UIDMappings) > 0 {
		user, err = userNamespace(m.UIDMappings, m.GIDMappings)
	} else {
		user, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	}
	if err != nil {
		return err
	}
	defer user.Close()
	return linux.SetMountAttr(tree, all, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user.Fd())})
}

// userNamespace makes a user namespace without processes.
func userNamespace(uids, gids []specs.LinuxIDMapping) (user *os.File, err error) {
	enough := errors.New("the namespace is there")
	fork := linux.Fork{Flags: unix.CLONE_NEWUSER}
	fork.Ready = func(pid int) (err error) {
		if err := mapUsers(pid, uids, gids); err != nil {
			return err
		}
		if user, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil {
			return err
		}
		return enough
	}
	fork.Wait()
	exe, err := openProgram()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	if _, err := fork.Exec(exe, nil, nil, nil); err != enough {
		return nil, err
	}
	return user, nil
}
