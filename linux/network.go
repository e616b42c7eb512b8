// SPDX-License-Identifier: Apache-2.0

package linux

import "golang.org/x/sys/unix"

// InterfaceUp brings a network interface up in the caller's namespace.
func InterfaceUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return callError("socket", err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return pathError("bring up", name, err)
	}
	r.SetUint16(unix.IFF_UP)
	return pathError("bring up", name, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r))
}
