// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestOutsideID(t *testing.T) {
	mapped := &specs.Linux{
		Namespaces:  []specs.LinuxNamespace{{Type: specs.UserNamespace}},
		UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 10, HostID: 5, Size: 1}},
	}
	joined := &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/proc/1/ns/user"}}}
	for _, c := range []struct {
		linux *specs.Linux
		uid   uint32
		want  int
		ok    bool
	}{
		{&specs.Linux{}, 7, 7, true},
		{mapped, 0, 100000, true},
		{mapped, 9, 100009, true},
		{mapped, 10, 5, true},
		{mapped, 11, 0, false},
		{joined, 0, 0, false},
	} {
		if got, ok := outsideID(&specs.Spec{Linux: c.linux}, c.uid); got != c.want || ok != c.ok {
			t.Errorf("user %d is %d, %v, want %d, %v", c.uid, got, ok, c.want, c.ok)
		}
	}
}

func TestGroupBelongsToTheContainersUser(t *testing.T) {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup version 2 alone")
	}
	for option, owner := range map[string]string{"rw": "0\n0\n65534", "ro": "65534\n65534\n65534"} {
		b := newBox(t, "stat -c %u /sys/fs/cgroup /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/cgroup.events")
		userns(b)
		b.dropMount("/sys/fs/cgroup")
		b.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", option)
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		b.want(owner)
	}
}
