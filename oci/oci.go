// SPDX-License-Identifier: Apache-2.0

// Package oci makes and edits runtime specs (config.json of the OCI runtime
// specification): process and user, namespaces, mounts, devices,
// capabilities, resources and the seccomp profile.
//
// An Opt is one edit. Edits are applied in order and later ones win, so
// those of an image come before those that a user asked for. The package
// reads the host, and files of a container's root through that root only; it
// changes neither, and knows nothing of images in the store.
package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// An Opt edits a spec.
type Opt func(ctx context.Context, s *specs.Spec) error

// Apply edits s with each of opts until one fails.
func Apply(ctx context.Context, s *specs.Spec, opts ...Opt) error {
	for _, o := range opts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := o(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// DefaultPath is the search path of a process whose image names none.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Default is the spec of a container that nothing more is known of: Bare
// with a search path and the rules for the devices that every runtime makes.
func Default(ns, id string) *specs.Spec {
	s := Bare(ns, id)
	s.Process.Env = []string{DefaultPath}
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, defaultDeviceRules()...)
	return s
}

// Bare is the spec without anything that could be left to the runtime.
func Bare(ns, id string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{
				Bounding: defaultCaps(), Permitted: defaultCaps(), Effective: defaultCaps(),
			},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Mounts: defaultMounts(),
		Linux: &specs.Linux{
			CgroupsPath: path.Join("/", ns, id),
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
			MaskedPaths:   defaultMaskedPaths(),
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func defaultMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
	}
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
	}
}

// Load reads a spec from a file.
func Load(file string) (*specs.Spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("spec %s: %w: %w", file, err, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// WithRootfs sets the directory that becomes the container's root.
func WithRootfs(dir string) Opt {
	return edit(func(s *specs.Spec) { root(s).Path = dir })
}

// WithReadonlyRoot makes the container's root read-only.
func WithReadonlyRoot() Opt {
	return edit(func(s *specs.Spec) { root(s).Readonly = true })
}

// WithRootfsPropagation sets how mounts below the root spread, as in mount(8).
func WithRootfsPropagation(mode string) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		modes := []string{"private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}
		if !slices.Contains(modes, mode) {
			return fmt.Errorf("rootfs propagation %q: %w", mode, errdefs.ErrInvalidArgument)
		}
		linux(s).RootfsPropagation = mode
		return nil
	}
}

// WithHostname sets the host name in the container's UTS namespace.
func WithHostname(name string) Opt {
	return edit(func(s *specs.Spec) { s.Hostname = name })
}

// WithAnnotations adds annotations.
func WithAnnotations(annotations map[string]string) Opt {
	return edit(func(s *specs.Spec) {
		if s.Annotations == nil && len(annotations) > 0 {
			s.Annotations = make(map[string]string)
		}
		for k, v := range annotations {
			s.Annotations[k] = v
		}
	})
}

// edit makes an Opt of an edit that cannot fail.
func edit(f func(*specs.Spec)) Opt {
	return func(_ context.Context, s *specs.Spec) error {
		f(s)
		return nil
	}
}

// ensure returns *p, which it makes if there is none.
func ensure[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func root(s *specs.Spec) *specs.Root                { return ensure(&s.Root) }
func process(s *specs.Spec) *specs.Process          { return ensure(&s.Process) }
func linux(s *specs.Spec) *specs.Linux              { return ensure(&s.Linux) }
func resources(s *specs.Spec) *specs.LinuxResources { return ensure(&linux(s).Resources) }
func caps(s *specs.Spec) *specs.LinuxCapabilities   { return ensure(&process(s).Capabilities) }
