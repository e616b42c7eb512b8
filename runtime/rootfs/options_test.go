// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		opts       []string
		set, clear uintptr
		rec        unix.MountAttr
		data       []string
	}{
		{[]string{"ro", "nosuid", "size=1m", "mode=755"}, unix.MS_RDONLY | unix.MS_NOSUID, 0, unix.MountAttr{}, []string{"size=1m", "mode=755"}},
		{[]string{"ro", "rw"}, 0, unix.MS_RDONLY, unix.MountAttr{}, nil},
		{[]string{"noatime", "relatime"}, unix.MS_RELATIME, 0, unix.MountAttr{}, nil},
		{[]string{"rro", "rnosuid"}, 0, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}, nil},
		{[]string{"rrw"}, 0, 0, unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}, nil},
		{[]string{"rnoatime"}, 0, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME}, nil},
		{[]string{"rbind"}, unix.MS_BIND | unix.MS_REC, 0, unix.MountAttr{}, nil},
		{[]string{"rsync"}, 0, 0, unix.MountAttr{}, []string{"rsync"}}, // sync is not a mount's own
	} {
		o := parseOptions(c.opts)
		if o.set != c.set || o.clear != c.clear || o.recursive != c.rec || !slices.Equal(o.data, c.data) {
			t.Errorf("%v: %+v", c.opts, o)
		}
	}
}

func TestEveryMountOptionIsKnown(t *testing.T) {
	for _, name := range MountOptions() {
		if o := parseOptions([]string{name}); len(o.data) > 0 {
			t.Errorf("%s is taken for data", name)
		}
	}
}

func TestAccessTimesExcludeEachOther(t *testing.T) {
	o := parseOptions([]string{"strictatime"})
	want := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_STRICTATIME, Attr_clr: unix.MOUNT_ATTR__ATIME}
	if got := o.attr(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestParseHierarchies(t *testing.T) {
	got := parseHierarchies("4:cpu,cpuacct:/a\n2:name=systemd:/\n0::/b:c\nbad\n")
	want := []hierarchy{{"cpu,cpuacct", "cpu,cpuacct", "cpu"}, {"systemd", "none,name=systemd", "name=systemd"}, {"unified", "", ""}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
