// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/runtime/cgroup"
)

// delegate gives the group to the user of the process, if the container can
// make groups below it: it has a namespace of groups for itself, and writes to
// what is mounted of them. See "Cgroup ownership" of config-linux.md.
func delegate(g *cgroup.Manager, s *specs.Spec) error {
	writes := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return (m.Type == "cgroup" || m.Type == "cgroup2") && !slices.Contains(m.Options, "ro")
	})
	if !writes || !isNew(s, specs.CgroupNamespace) || s.Process == nil {
		return nil
	}
	uid, ok := outsideID(s, s.Process.User.UID)
	if !ok || uid == 0 {
		return nil
	}
	return g.Delegate(uid)
}

// outsideID is what a user of the container is outside of it. Nothing is known
// of namespaces that were there before.
func outsideID(s *specs.Spec, uid uint32) (int, bool) {
	if findNamespace(s, specs.UserNamespace) == nil {
		return int(uid), true
	}
	if !isNew(s, specs.UserNamespace) {
		return 0, false
	}
	for _, m := range s.Linux.UIDMappings {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			return int(m.HostID + (uid - m.ContainerID)), true
		}
	}
	return 0, false
}
