// SPDX-License-Identifier: Apache-2.0

// Package netdev moves network devices of the host into a container's network
// namespace (config-linux.md, "Network Devices"). A device keeps its addresses
// of global scope, may get another name, and is up afterwards. The kernel gives
// physical devices back when the namespace ends, and destroys virtual ones.
package netdev

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Check says what is wrong with a container's devices.
func Check(devices map[string]specs.LinuxNetDevice) error {
	for host, d := range devices {
		for _, name := range []string{host, d.Name} {
			if name == "" && host != "" {
				continue // keeps its name
			}
			if len(name) >= unix.IFNAMSIZ || name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r\x00") {
				return fmt.Errorf("network device %q: %q is no name of a device: %w", host, name, errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// Move moves devices, named as on the host, into the network namespace ns.
func Move(devices map[string]specs.LinuxNetDevice, ns *os.File) error {
	if len(devices) == 0 {
		return nil
	}
	host, err := open()
	if err != nil {
		return err
	}
	defer host.close()
	inside, err := openIn(ns)
	if err != nil {
		return err
	}
	defer inside.close()
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		to := devices[name].Name
		if to == "" {
			to = name
		}
		if err := move(host, inside, name, to, ns); err != nil {
			return fmt.Errorf("network device %s: %w", name, err)
		}
	}
	return nil
}

func move(host, inside *conn, name, to string, ns *os.File) error {
	index, err := host.index(name)
	if err != nil {
		return err
	}
	addresses, err := host.addresses(index)
	if err != nil {
		return fmt.Errorf("read addresses: %w", err)
	}
	if err := host.send(index, to, ns); err != nil {
		return fmt.Errorf("move to %s in the container: %w", to, err)
	}
	if index, err = inside.index(to); err != nil {
		return err
	}
	for _, a := range addresses {
		if err := inside.addAddress(index, a); err != nil {
			return fmt.Errorf("add address: %w", err)
		}
	}
	if err := inside.up(index); err != nil {
		return fmt.Errorf("bring up %s: %w", to, err)
	}
	return nil
}

// openIn opens a connection to the kernel about another network namespace. A
// socket stays in the namespace in which it was made, so the thread comes back
// at once; one that cannot is not used again.
func openIn(ns *os.File) (c *conn, err error) {
	result := make(chan struct{})
	go func() {
		defer close(result)
		runtime.LockOSThread()
		var own int
		own, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			err = &os.PathError{Op: "open", Path: "/proc/thread-self/ns/net", Err: err}
			runtime.UnlockOSThread()
			return
		}
		defer unix.Close(own)
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = &os.PathError{Op: "setns", Path: ns.Name(), Err: err}
			runtime.UnlockOSThread()
			return
		}
		c, err = open()
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-result
	return c, err
}
