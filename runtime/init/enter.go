// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/hook"
	"slipway/runtime/protocol"
	"slipway/runtime/rootfs"
)

// enter makes the environment of the process: for the first of a container,
// everything; for one that joins, a terminal.
func (c *container) enter() (err error) {
	unix.Setsid() // EPERM: it leads its process group already, and so a session
	if c.Join {
		return c.joinRoot()
	}
	if c.proc, err = linux.Open("/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	unix.Umask(0)
	if err := c.keyring(); err != nil {
		return err
	}
	if c.isNew(specs.NetworkNamespace) {
		if err := linux.InterfaceUp("lo"); err != nil {
			return err
		}
	}
	if c.namespace(specs.MountNamespace) != nil || len(c.Spec.Mounts) > 0 {
		err = c.newRoot()
	} else {
		err = c.sharedRoot()
	}
	if err != nil {
		return err
	}
	return c.names()
}

// namespace is the entry of a kind of namespace; nil if the container shares
// that of the runtime.
func (c *container) namespace(kind specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if c.Spec.Linux == nil {
		return nil
	}
	for i, ns := range c.Spec.Linux.Namespaces {
		if ns.Type == kind {
			return &c.Spec.Linux.Namespaces[i]
		}
	}
	return nil
}

func (c *container) isNew(kind specs.LinuxNamespaceType) bool {
	ns := c.namespace(kind)
	return ns != nil && ns.Path == ""
}

// newRoot makes the root file system and enters it.
func (c *container) newRoot() error {
	root, err := rootfs.Prepare(rootfs.Config{
		Spec: c.Spec, Path: c.Rootfs, Rootfs: c.files[protocol.FileRootfs], Tree: c.tree,
		NewUser: c.NewUser, NewCgroup: c.NewCgroup, Cgroups: c.Cgroups, Unified: c.CgroupUnified, NoPivot: c.NoPivot,
		Shared: c.namespace(specs.MountNamespace) == nil,
	})
	if err != nil {
		return err
	}
	if err := c.hostHooks(); err != nil {
		return err
	}
	if c.Spec.Process.Terminal {
		master, slave, err := root.Console(true)
		if err != nil {
			return err
		}
		if err := c.terminal(master, slave); err != nil {
			return err
		}
	}
	if err := c.hooks("createContainer", specs.StateCreating); err != nil {
		return err
	}
	if err := root.Seal(); err != nil {
		return err
	}
	if err := c.kernel(); err != nil {
		return err
	}
	if err := root.Enter(); err != nil {
		return err
	}
	return ownNull()
}

// tree has the runtime make a bind mount: the i-th of the spec. It is nil if
// the kernel has no detached mounts.
func (c *container) tree(i int) (*os.File, error) {
	if err := c.conn.Send(protocol.Message{Kind: protocol.Mount, Index: i}); err != nil {
		return nil, err
	}
	_, files, err := c.conn.Receive()
	if err != nil || len(files) == 0 {
		return nil, err
	}
	return files[0], nil
}

// ownNull takes the container's null device in place of the host's as standard
// stream: a process with a file of a mount that is not in its namespace cannot
// be checkpointed. What is in the way of that stays as it is.
func ownNull() error {
	isNull := func(f *os.File) bool {
		st, err := linux.Stat(f)
		return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
	}
	null, err := linux.Open("/dev/null", unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer null.Close()
	for fd := range 3 {
		if !isNull(null) || !isNull(os.NewFile(uintptr(fd), "stdio")) {
			continue
		}
		if err := linux.Dup2(int(null.Fd()), fd); err != nil {
			return err
		}
	}
	return nil
}

// sharedRoot changes to the root in the runtime's mount namespace, where
// nothing is to be mounted.
func (c *container) sharedRoot() error {
	if err := c.hostHooks(); err != nil {
		return err
	}
	if err := c.hooks("createContainer", specs.StateCreating); err != nil {
		return err
	}
	if err := c.kernel(); err != nil {
		return err
	}
	if err := unix.Chroot(c.Rootfs); err != nil {
		return &os.PathError{Op: "chroot", Path: c.Rootfs, Err: err}
	}
	return c.openTerminal()
}

// joinRoot enters the root of a container that runs already, if that has not
// been done with its mount namespace, and its session keyring.
func (c *container) joinRoot() error {
	if err := c.keyring(); err != nil {
		return err
	}
	if root := c.files[protocol.FileRoot]; root != nil {
		if err := unix.Fchdir(int(root.Fd())); err != nil {
			return &os.PathError{Op: "chdir", Path: "/", Err: err}
		}
		if err := unix.Chroot("."); err != nil {
			return &os.PathError{Op: "chroot", Path: ".", Err: err}
		}
		root.Close()
	}
	return c.openTerminal()
}

// openTerminal gives the process a terminal of the root that it is in.
func (c *container) openTerminal() error {
	if !c.Spec.Process.Terminal {
		return nil
	}
	root, err := linux.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	master, slave, err := rootfs.OpenTerminal(root)
	if err != nil {
		return err
	}
	return c.terminal(master, slave)
}

// hostHooks lets the runtime run the hooks that belong to its namespaces.
func (c *container) hostHooks() error {
	if !c.AskHooks {
		return nil
	}
	if err := c.conn.Send(protocol.Message{Kind: protocol.Hooks}); err != nil {
		return err
	}
	_, _, err := c.conn.Receive()
	return err
}

func (c *container) hooks(name string, status specs.ContainerState) error {
	if c.Spec.Hooks == nil {
		return nil
	}
	list, dir := c.Spec.Hooks.CreateContainer, c.Rootfs
	if name == "startContainer" {
		list, dir = inheriting(c.Spec.Hooks.StartContainer, c.Spec.Process.Env), ""
	}
	if len(list) == 0 {
		return nil
	}
	if err := ownTimers(); err != nil { // hooks inherit them
		return err
	}
	return hook.Run(context.Background(), name, list, dir, &specs.State{
		Version: c.Spec.Version, ID: c.ID, Status: status, Pid: os.Getpid(), Bundle: c.Bundle, Annotations: c.Spec.Annotations,
	}, nil)
}

// inheriting are hooks that have the environment env if they say no other. The
// runtime spec does not ask for it; hooks have come to rely on it in runc.
func inheriting(hooks []specs.Hook, env []string) []specs.Hook {
	list := slices.Clone(hooks)
	for i := range list {
		if len(list[i].Env) == 0 {
			list[i].Env = env
		}
	}
	return list
}

// terminal sends the master away and makes the slave the process's.
func (c *container) terminal(master, slave *os.File) error {
	defer master.Close()
	defer slave.Close()
	if size := c.Spec.Process.ConsoleSize; size != nil {
		if err := linux.SetWindowSize(slave, uint16(size.Width), uint16(size.Height)); err != nil {
			return err
		}
	}
	if c.PlainOutput {
		if err := linux.PlainOutput(slave); err != nil {
			return err
		}
	}
	if err := c.conn.Send(protocol.Message{Kind: protocol.Console}, master); err != nil {
		return err
	}
	for fd := range 3 {
		if err := linux.Dup2(int(slave.Fd()), fd); err != nil {
			return err
		}
	}
	return linux.SetControllingTerminal(os.Stdin)
}

// keyring gives the process a session keyring that is not the caller's.
func (c *container) keyring() error {
	if c.NoNewKeyring {
		return nil
	}
	id, err := linux.JoinSessionKeyring("_ses." + c.ID)
	if errors.Is(err, unix.ENOSYS) {
		return nil
	}
	if err != nil {
		return err
	}
	const possessorAll, userSearch = 0x3f000000, 0x00080000
	return linux.SetKeyPermissions(id, possessorAll|userSearch)
}

// names sets what the UTS namespace holds.
func (c *container) names() error {
	if !c.isNew(specs.UTSNamespace) {
		return nil
	}
	if c.Spec.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Spec.Hostname)); err != nil {
			return os.NewSyscallError("sethostname", err)
		}
	}
	if c.Spec.Domainname != "" {
		if err := unix.Setdomainname([]byte(c.Spec.Domainname)); err != nil {
			return os.NewSyscallError("setdomainname", err)
		}
	}
	return nil
}

// kernel writes the parameters of the container's namespaces. It is done
// before the root changes, by the host's procfs: what a container has at /proc
// is not trusted (CVE-2025-52881).
func (c *container) kernel() error {
	if c.Spec.Linux == nil {
		return nil
	}
	for key, value := range c.Spec.Linux.Sysctl {
		if err := c.writeProc("sys/"+protocol.SysctlPath(key), value); err != nil {
			return fmt.Errorf("sysctl %s: %w", key, err)
		}
	}
	return nil
}

func (c *container) writeProc(name, value string) error {
	f, err := linux.OpenAt(c.proc, name, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
