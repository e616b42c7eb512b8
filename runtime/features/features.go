// SPDX-License-Identifier: Apache-2.0

// Package features says what the runtime can do, in the form of the runtime
// specification's features.md. What is named is what the program knows, not
// what the running kernel has.
package features

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	spec "github.com/opencontainers/runtime-spec/specs-go/features"

	"slipway/linux"
	"slipway/runtime/rootfs"
	"slipway/runtime/seccomp"
)

// Runtime is the features of package runtime.
func Runtime() *spec.Features {
	yes := true
	return &spec.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  rootfs.MountOptions(),
		Linux: &spec.Linux{
			Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities: linux.CapabilityNames(),
			Cgroup:       &spec.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Seccomp: &spec.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Archs(),
				KnownFlags: seccomp.KnownFlags(), SupportedFlags: seccomp.SupportedFlags(),
			},
			Apparmor: &spec.Apparmor{Enabled: &yes},
			Selinux:  &spec.Selinux{Enabled: &yes},
			IntelRdt: &spec.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &spec.MemoryPolicy{
				Modes: []string{
					string(specs.MpolBind), string(specs.MpolDefault), string(specs.MpolInterleave), string(specs.MpolLocal),
					string(specs.MpolPreferred), string(specs.MpolPreferredMany), string(specs.MpolWeightedInterleave),
				},
				Flags: []string{string(specs.MpolFNumaBalancing), string(specs.MpolFRelativeNodes), string(specs.MpolFStaticNodes)},
			},
			MountExtensions: &spec.MountExtensions{IDMap: &spec.IDMap{Enabled: &yes}},
			NetDevices:      &spec.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property.", "org.criu.config"},
	}
}
