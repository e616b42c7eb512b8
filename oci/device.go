// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDeviceRules allow the devices that the runtime specification makes
// every runtime supply, and terminals.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	var rules []specs.LinuxDeviceCgroup
	for _, d := range []struct{ major, minor int64 }{
		{1, 3}, // null
		{1, 8}, // random
		{1, 7}, // full
		{5, 0}, // tty
		{1, 5}, // zero
		{1, 9}, // urandom
		{5, 1}, // console
		{136, -1},
		{5, 2}, // ptmx
	} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d.major, Access: "rwm"}
		if d.minor >= 0 { // without a minor number: all, here of /dev/pts
			rule.Minor = &d.minor
		}
		rules = append(rules, rule)
	}
	return rules
}

// WithDevice makes a device of the host, or every device below a directory,
// at the same path in the container, and allows its use.
func WithDevice(path string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("error stating device path: %w", err)
		}
		if !info.IsDir() {
			d, err := device(path)
			if err != nil {
				return err
			}
			addDevice(s, d, true)
			return nil
		}
		return devicesIn(path, func(d specs.LinuxDevice) { addDevice(s, d, true) })
	}
}

// WithHostDevices makes every device of the host, without a rule to use it.
func WithHostDevices() Opt {
	return func(_ context.Context, s *specs.Spec) error {
		return devicesIn("/dev", func(d specs.LinuxDevice) { addDevice(s, d, false) })
	}
}

// WithAllDevicesAllowed allows the use of any device.
func WithAllDevicesAllowed() Opt {
	return edit(func(s *specs.Spec) {
		resources(s).Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	})
}

func addDevice(s *specs.Spec, d specs.LinuxDevice, allow bool) {
	l := linux(s)
	l.Devices = slices.DeleteFunc(l.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.Path })
	l.Devices = append(l.Devices, d)
	if allow {
		resources(s).Devices = append(resources(s).Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm",
		})
	}
}

// devicesIn visits the devices below dir that a container can share. What
// belongs to a mount of the container's own is left out.
func devicesIn(dir string, visit func(specs.LinuxDevice)) error {
	skip := []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		if e.IsDir() && path != dir && slices.Contains(skip, e.Name()) {
			return filepath.SkipDir
		}
		if e.Type()&fs.ModeDevice == 0 || e.Name() == "console" {
			return nil
		}
		d, err := device(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		visit(d)
		return nil
	})
}

// device describes the device at path.
func device(path string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d := specs.LinuxDevice{
		Path:  path,
		Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		UID: &st.Uid, GID: &st.Gid,
	}
	mode := os.FileMode(st.Mode &^ unix.S_IFMT)
	d.FileMode = &mode
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return specs.LinuxDevice{}, fmt.Errorf("%s: not a device: %w", path, errdefs.ErrInvalidArgument)
	}
	return d, nil
}
