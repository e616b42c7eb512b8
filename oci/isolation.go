// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// WithHostNamespace keeps the process in the namespace of that type that the
// runtime is in.
func WithHostNamespace(kind specs.LinuxNamespaceType) Opt {
	return edit(func(s *specs.Spec) { removeNamespace(s, kind) })
}

// WithNamespace puts the process into a namespace of that type: a new one, or
// the one at path if that is not empty.
func WithNamespace(kind specs.LinuxNamespaceType, path string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		switch kind {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
			specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		default:
			return fmt.Errorf("namespace type %q: %w", kind, errdefs.ErrInvalidArgument)
		}
		n := specs.LinuxNamespace{Type: kind, Path: path}
		all := linux(s).Namespaces
		if at := slices.IndexFunc(all, func(n specs.LinuxNamespace) bool { return n.Type == kind }); at >= 0 {
			all[at] = n
			return nil
		}
		linux(s).Namespaces = append(all, n)
		return nil
	}
}

func removeNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	linux(s).Namespaces = slices.DeleteFunc(linux(s).Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// WithUserNamespace maps the ids of the container to those of the host.
func WithUserNamespace(uids, gids []specs.LinuxIDMapping) Opt {
	return func(ctx context.Context, s *specs.Spec) error {
		linux(s).UIDMappings = append(linux(s).UIDMappings, uids...)
		linux(s).GIDMappings = append(linux(s).GIDMappings, gids...)
		return WithNamespace(specs.UserNamespace, "")(ctx, s)
	}
}

// WithPrivileged takes down what keeps a process from the host: it has all
// capabilities, sees every path, and may write below /sys and to cgroups.
// With devices it also gets the host's.
func WithPrivileged(devices bool) Opt {
	return func(ctx context.Context, s *specs.Spec) error {
		linux(s).MaskedPaths, linux(s).ReadonlyPaths = nil, nil
		linux(s).Seccomp = nil
		process(s).ApparmorProfile, process(s).SelinuxLabel = "", ""
		for i, m := range s.Mounts {
			if m.Type == "sysfs" || m.Type == "cgroup" || m.Type == "cgroup2" {
				s.Mounts[i].Options = writable(m.Options)
			}
		}
		opts := []Opt{withAllCapabilities()}
		if devices {
			opts = append(opts, WithHostDevices(), WithAllDevicesAllowed())
		}
		return Apply(ctx, s, opts...)
	}
}

func writable(options []string) []string {
	out := slices.Clone(options)
	for i, o := range out {
		if o == "ro" {
			out[i] = "rw"
		}
	}
	return out
}

// WithMounts adds mounts, to be performed in order after those there are.
func WithMounts(mounts ...specs.Mount) Opt {
	return edit(func(s *specs.Spec) { s.Mounts = append(s.Mounts, mounts...) })
}

// WithoutMounts removes the mounts at destinations.
func WithoutMounts(destinations ...string) Opt {
	return edit(func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return slices.Contains(destinations, m.Destination) })
	})
}

// WithHostHosts shows the host's /etc/hosts.
func WithHostHosts() Opt { return hostFile("/etc/hosts") }

// WithHostResolvConf shows the host's /etc/resolv.conf.
func WithHostResolvConf() Opt { return hostFile("/etc/resolv.conf") }

func hostFile(path string) Opt {
	return WithMounts(specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", "ro"}})
}
