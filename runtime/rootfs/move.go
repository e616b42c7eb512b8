// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"slipway/linux"
)

// detachKernelMounts removes procfs and sysfs outside of root. Mounts that
// cannot be removed are covered.
func detachKernelMounts(root string) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		inside := m.Mountpoint == root || strings.HasPrefix(m.Mountpoint, root+"/")
		return inside || m.FSType != "proc" && m.FSType != "sysfs", false
	})
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := linux.Mount("", m.Mountpoint, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
		err := linux.Unmount(m.Mountpoint, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			err = linux.Mount("tmpfs", m.Mountpoint, "tmpfs", 0, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
