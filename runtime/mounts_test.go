// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountsAt are the mounts of this process at dir and below.
func mountsAt(t *testing.T, dir string) (found []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if at := strings.Fields(line)[4]; at == dir || strings.HasPrefix(at, dir+"/") {
			found = append(found, at)
		}
	}
	return found
}

// sharing is a container with mounts in the mount namespace of this process.
func sharing(t *testing.T) *box {
	b := newBox(t, "cat /data/file; readlink /proc/self/ns/mnt")
	b.spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "uts"}}
	b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
	b.spec.Mounts = []specs.Mount{{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}}
	b.mount("/data", "bind", b.host(), "bind")
	t.Cleanup(func() { unix.Unmount(filepath.Join(b.bundle, "rootfs"), unix.MNT_DETACH) })
	return b
}

func TestMountsInTheRuntimesMountNamespace(t *testing.T) {
	b := sharing(t)
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	propagation := func() string {
		data, _ := exec.Command("sh", "-c", "grep ' / / ' /proc/self/mountinfo").Output()
		return string(data)
	}
	before := propagation()
	b.want("data" + ns)
	if after := propagation(); after != before {
		t.Errorf("the root of the host was %q and is %q", before, after)
	}
	if got := mountsAt(t, filepath.Join(b.bundle, "rootfs")); !slices.Contains(got, filepath.Join(b.bundle, "rootfs/data")) {
		t.Errorf("mounts are %q", got)
	}
}

func TestAFailedCreateInTheRuntimesMountNamespaceLeavesNoMount(t *testing.T) {
	b := sharing(t)
	b.mount("/bad", "nosuch", "nosuch")
	if _, _, err := b.create(nil); err == nil {
		t.Fatal("created")
	}
	if got := mountsAt(t, filepath.Join(b.bundle, "rootfs")); len(got) > 0 {
		t.Errorf("mounts are left: %q", got)
	}
}

func TestMountsInAJoinedMountNamespace(t *testing.T) {
	b := newBox(t, "cat /data/file; readlink /proc/self/ns/mnt")
	other := exec.Command("unshare", "--mount", "sh", "-c", "echo; exec sleep 1000")
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { other.Process.Kill(); other.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/mnt", other.Process.Pid)
	ns, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.spec.Linux.Namespaces {
		if n := &b.spec.Linux.Namespaces[i]; n.Type == "mount" {
			n.Path = path
		}
	}
	b.mount("/data", "bind", b.host(), "bind")
	b.want("data" + ns)
	if got := mountsAt(t, filepath.Join(b.bundle, "rootfs")); len(got) > 0 {
		t.Errorf("mounts are here: %q", got)
	}
}
