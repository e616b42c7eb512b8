// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"os"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// Console makes a terminal in the container's devpts. With console it also
// becomes /dev/console, as a container's first process expects.
func (r *Root) Console(console bool) (master, slave *os.File, err error) {
	master, slave, err = OpenTerminal(r.root)
	if err != nil || !console {
		return master, slave, err
	}
	if err := r.bindConsole(slave); err != nil {
		master.Close()
		slave.Close()
		return nil, nil, fmt.Errorf("mount /dev/console: %w", err)
	}
	return master, slave, nil
}

func (r *Root) bindConsole(slave *os.File) error {
	dev, err := r.directory("/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	target, err := linux.OpenAt(dev, "console", unix.O_NOFOLLOW|unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) {
		target, err = linux.OpenAt(dev, "console", unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_RDONLY, 0o666)
	}
	if err != nil {
		return err
	}
	defer target.Close()
	st, err := linux.Stat(target)
	if err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFCHR {
		return errors.New("it is neither a file nor a device")
	}
	return linux.MountAt(linux.FdPath(slave), target, "bind", unix.MS_BIND, "")
}

// OpenTerminal makes a pair of terminal ends in the devpts below root. Neither
// end is opened by a path that the container could have replaced
// (CVE-2025-52565): ptmx is checked to be devpts's, and the slave comes from
// the master. Linux 4.13.
func OpenTerminal(root *os.File) (master, slave *os.File, err error) {
	handle, err := pathrs.OpenatInRoot(root, "dev/pts/ptmx")
	if err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	defer handle.Close()
	fs, err := linux.FsType(handle)
	if err != nil {
		return nil, nil, err
	}
	st, err := linux.Stat(handle)
	if err != nil {
		return nil, nil, err
	}
	if fs != unix.DEVPTS_SUPER_MAGIC || st.Rdev != unix.Mkdev(5, 2) {
		return nil, nil, errors.New("open terminal: /dev/pts/ptmx is not of a devpts file system")
	}
	master, err = pathrs.Reopen(handle, unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return nil, nil, err
	}
	if slave, err = linux.Peer(master); err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}
