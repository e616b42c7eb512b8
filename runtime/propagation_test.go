// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A host's shared mount that a container binds as shared carries the
// container's mounts to the host; what the host has mounted stays, although the
// container detaches all of its copies.
func TestMountsOfAContainerReachTheHost(t *testing.T) {
	b := newBox(t, "busybox mkdir /data/sub && busybox mount -t tmpfs t /data/sub && echo mounted")
	dir := filepath.Join(filepath.Dir(b.bundle), "shared")
	keep := filepath.Join(dir, "keep")
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mount("tmpfs", dir, "tmpfs", 0)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mount("", dir, "", unix.MS_SHARED)
	if err := os.Mkdir(keep, 0o755); err != nil {
		t.Fatal(err)
	}
	mount("tmpfs", keep, "tmpfs", 0)

	b.spec.Linux.RootfsPropagation = "rshared"
	caps := b.spec.Process.Capabilities
	caps.Bounding = append(caps.Bounding, "CAP_SYS_ADMIN")
	caps.Effective, caps.Permitted = caps.Bounding, caps.Bounding
	b.mount("/data", "bind", dir, "rbind", "rshared")
	b.want("mounted")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{keep, filepath.Join(dir, "sub")} {
		if !strings.Contains(string(mounts), " "+want+" ") {
			t.Errorf("the host has no mount at %s", want)
		}
	}
}
