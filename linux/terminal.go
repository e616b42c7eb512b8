// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// Peer unlocks the terminal behind master and opens its other end, without a
// path. Linux 4.13.
func Peer(master *os.File) (slave *os.File, err error) {
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, pathError("unlock", master.Name(), err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, pathError("open peer of", master.Name(), errno)
	}
	return os.NewFile(fd, "pts"), nil
}

// SetWindowSize sets the size of a terminal.
func SetWindowSize(tty *os.File, width, height uint16) error {
	return pathError("resize", tty.Name(), unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
}

// SetControllingTerminal makes tty the terminal of the caller's session.
func SetControllingTerminal(tty *os.File) error {
	return pathError("set controlling terminal", tty.Name(), unix.IoctlSetInt(int(tty.Fd()), unix.TIOCSCTTY, 0))
}

// PlainOutput has tty pass line feeds on without a carriage return (ONLCR of
// termios(3)).
func PlainOutput(tty *os.File) error {
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.ONLCR
		err = unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t)
	}
	return pathError("set modes of", tty.Name(), err)
}
