// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Main runs the tests of a package and returns its exit code, which is not 0
// if they leave a mount, a shim, a network namespace, a cgroup, a FIFO or a
// runtime's state behind.
func Main(m *testing.M) int {
	before := look()
	code := m.Run()
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if left = look().minus(before); len(left) == 0 {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, "the tests left behind:")
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "\t"+l)
	}
	return max(code, 1)
}

// A machine is what can be left behind, each as a line that names it.
type machine map[string]bool

func (m machine) minus(before machine) (left []string) {
	for l := range m {
		if !before[l] {
			left = append(left, l)
		}
	}
	sort.Strings(left)
	return left
}

// look lists what tests could leave behind.
func look() machine {
	m := machine{}
	for _, below := range []string{os.TempDir(), "/run", "/var", "/sys", "/dev", "/proc"} {
		for _, dir := range mountsBelow(below) {
			m["mount "+dir] = true
		}
	}
	for _, p := range shims() {
		m["process "+p] = true
	}
	for _, pattern := range []string{
		"/run/netns/*", "/var/run/netns/*", "/run/containerd/fifo/*", "/run/containerd/s/*", "/run/containerd/runc/*/*", "/run/runc/*",
	} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			m["file "+f] = true
		}
	}
	for _, dir := range cgroups() {
		m["cgroup "+dir] = true
	}
	var null unix.Stat_t
	if unix.Stat("/dev/null", &null) == nil {
		m[fmt.Sprintf("/dev/null of %d:%d, mode %o", null.Uid, null.Gid, null.Mode)] = true
	}
	return m
}

// shims are the processes whose command is a shim or an init of ours.
func shims() (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		name, _, _ := strings.Cut(string(line), "\x00")
		if strings.HasPrefix(filepath.Base(name), "containerd-shim") || filepath.Base(name) == "runc" {
			found = append(found, filepath.Base(filepath.Dir(p))+" "+strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "))
		}
	}
	return found
}

// cgroups are those of containers, which are named after namespace and id: in
// the namespaces that tests share, or in one of Unique. The machine has others.
func cgroups() (found []string) {
	for _, ns := range []string{"default", "k8s.io", "moby", "buildkit", fmt.Sprintf("*-%d-*", os.Getpid())} {
		for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			dirs, _ := filepath.Glob(filepath.Join(hierarchy, ns, "*"))
			for _, dir := range dirs {
				if info, err := os.Lstat(dir); err == nil && info.IsDir() {
					found = append(found, dir)
				}
			}
		}
	}
	return found
}

// mountsBelow lists the mount points at and below dir, deepest first, without
// those of the kernel's own file systems.
func mountsBelow(dir string) (points []string) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil
	}
	for _, i := range infos {
		if !slices.Contains([]string{"/", "/dev", "/proc", "/sys"}, i.Mountpoint) {
			points = append(points, i.Mountpoint)
		}
	}
	slices.Reverse(points)
	return points
}

func unmount(points []string) {
	for _, p := range points {
		unix.Unmount(p, unix.MNT_DETACH)
	}
}
