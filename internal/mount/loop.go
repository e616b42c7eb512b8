// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attachTries is how often a free loop device may be taken by somebody else
// first.
const attachTries = 100

// mountImage mounts the file system in a file through a loop device, which
// detaches itself when it is unmounted (loop(4), LO_FLAGS_AUTOCLEAR).
func (m Mount) mountImage(target string, o options) error {
	flag := os.O_RDWR
	if o.flags&unix.MS_RDONLY != 0 || m.Type == "erofs" {
		flag = os.O_RDONLY
	}
	image, err := os.OpenFile(m.Source, flag, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	device, err := attach(image, flag)
	if err != nil {
		return fmt.Errorf("loop device for %s: %w", m.Source, err)
	}
	defer device.Close() // until then it stays attached without a mount
	return call(device.Name(), target, m.Type, o.flags, o.data)
}

// attach finds a free loop device and gives it the file.
func attach(image *os.File, flag int) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range attachTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("ioctl LOOP_CTL_GET_FREE", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), flag, 0)
		if err != nil {
			return nil, err
		}
		err = configure(device, image, flag)
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

func configure(device, image *os.File, flag int) error {
	if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(image.Fd())); err != nil {
		return os.NewSyscallError("ioctl LOOP_SET_FD", err)
	}
	info := &unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}
	if flag == os.O_RDONLY {
		info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(info.File_name[:len(info.File_name)-1], image.Name())
	if err := unix.IoctlLoopSetStatus64(int(device.Fd()), info); err != nil {
		unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0)
		return os.NewSyscallError("ioctl LOOP_SET_STATUS64", err)
	}
	return nil
}
