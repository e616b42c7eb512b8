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

// sendTree answers the init, which asks for a bind mount that it has no right
// to make: one with mapped owners, or one whose source the root of its user
// namespace cannot reach. It is detached, and gets its flags from the init.
func (l *launch) sendTree(pid, index int) error {
	if index < 0 || index >= len(l.init.Spec.Mounts) {
		return fmt.Errorf("init asks for mount %d of %d", index, len(l.init.Spec.Mounts))
	}
	m := &l.init.Spec.Mounts[index]
	_, recursive := rootfs.IsBind(m.Type, m.Options)
	mapped, all := rootfs.IsMapped(m.Options)
	mapped = mapped || len(m.UIDMappings) > 0
	tree, err := cloneTreeOf(pid, m.Source, recursive)
	if errors.Is(err, unix.ENOSYS) && !mapped { // before Linux 5.2 the init tries by path
		return l.conn.Send(protocol.Message{Kind: protocol.Tree})
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Destination, err)
	}
	defer tree.Close()
	if mapped {
		if err := mapTree(tree, m, pid, all); err != nil {
			return fmt.Errorf("idmapped mount %s: %w", m.Destination, err)
		}
	}
	return l.conn.Send(protocol.Message{Kind: protocol.Tree}, tree)
}

// cloneTreeOf is a detached copy of what is at path for a process: earlier
// mounts of its container are there, and flags that a user namespace may not
// clear are locked.
func cloneTreeOf(pid int, path string, recursive bool) (tree *os.File, err error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = linux.OnOwnThread(func() (err error) {
		if err := linux.EnterMountNamespace(ns); err != nil {
			return err
		}
		tree, err = cloneTree(path, recursive)
		return err
	})
	return tree, err
}

// cloneTree is a detached copy of what is at path.
func cloneTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return linux.OpenTree(unix.AT_FDCWD, path, flags)
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
