// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/fault"
	"slipway/internal/mount"
)

// mountRootfs mounts a root file system on the host, where an external runtime
// finds it.
func mountRootfs(rootfs []mount.Mount, target string) error {
	if len(rootfs) == 0 {
		return nil
	}
	if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := mount.All(rootfs, target); err != nil {
		return err
	}
	fault.Point("shim.create.mounted")
	return nil
}

// giveRootfs makes the mounts of a root file system for the container alone.
// It returns nil if they are on the host instead, be it because there are none,
// because the host shall see them, or because the kernel is old.
func giveRootfs(rootfs []mount.Mount, target string, host bool) (*os.File, error) {
	if len(rootfs) == 0 || host {
		return nil, mountRootfs(rootfs, target)
	}
	if err := os.Mkdir(target, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := mount.Detached(rootfs, target)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, mountRootfs(rootfs, target)
	}
	if err == nil {
		fault.Point("shim.create.mounted")
	}
	return f, err
}

// seesRootfs says whether programs outside of the container expect its root
// file system at its place in the bundle: hooks of the host do, and a container
// in the mount namespace of the host.
func seesRootfs(s *specs.Spec) bool {
	private := s.Linux == nil || slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.MountNamespace
	})
	if !private {
		return true
	}
	h := s.Hooks
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.Poststart)+len(h.Poststop) > 0
}
