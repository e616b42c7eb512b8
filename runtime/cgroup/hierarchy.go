// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// mountPoint is where systemd and everybody else mount version 2.
const mountPoint = "/sys/fs/cgroup"

// A mount is where a hierarchy is visible: its group root is at dir.
type mount struct{ dir, root string }

// hierarchies are the mounted ones.
type hierarchies struct {
	unified string           // version 2 alone
	hybrid  *mount           // version 2 beside version 1
	v1      map[string]mount // by controller, or "name=…"
}

func (h *hierarchies) v2() bool { return h.unified != "" }

// detect looks at the usual place first, where version 2 needs one call, and
// reads the mount table otherwise.
func detect() (*hierarchies, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mountPoint, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &hierarchies{unified: mountPoint}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads /proc/self/mountinfo (proc_pid_mountinfo(5)). The first
// mount of a hierarchy wins.
func parseMounts(r io.Reader) (*hierarchies, error) {
	h := &hierarchies{v1: map[string]mount{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		m := mount{dir: unescape.Replace(left[4]), root: unescape.Replace(left[3])}
		switch right[0] {
		case "cgroup2":
			if h.hybrid == nil {
				h.hybrid = &m
			}
		case "cgroup":
			for option := range strings.SplitSeq(right[2], ",") {
				if _, ok := h.v1[option]; !ok && (known[option] || strings.HasPrefix(option, "name=")) {
					h.v1[option] = m
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	if len(h.v1) > 0 {
		return h, nil
	}
	if h.hybrid == nil {
		return nil, fmt.Errorf("no cgroup file system is mounted: %w", errdefs.ErrFailedPrecondition)
	}
	h.unified, h.hybrid = h.hybrid.dir, nil
	return h, nil
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// known are the controllers of version 1 (cgroups(7)).
var known = map[string]bool{
	"blkio": true, "cpu": true, "cpuacct": true, "cpuset": true, "devices": true, "freezer": true, "hugetlb": true,
	"memory": true, "misc": true, "net_cls": true, "net_prio": true, "perf_event": true, "pids": true, "rdma": true,
}

// resolve puts the directories of a container into dirs.
func (h *hierarchies) resolve(dirs map[string]string, c Config) error {
	inner := c.Path
	if inner == "" {
		inner = c.ID
	}
	if inner == "" {
		return fmt.Errorf("neither a path nor an id: %w", errdefs.ErrInvalidArgument)
	}
	absolute := path.IsAbs(inner)
	inner = filepath.Join("/", inner) // no way out by ..
	var own map[string]string
	if !absolute {
		var err error
		if own, err = groupsOf("/proc/self/cgroup"); err != nil {
			return err
		}
	}
	if h.v2() {
		// The caller's own group has processes, so it cannot delegate
		// controllers: the container's goes beside it.
		dirs[unified] = filepath.Join(h.unified, path.Dir("/"+own[unified]), inner)
		return nil
	}
	for name, m := range h.v1 {
		dirs[name] = filepath.Join(m.dir, m.below(own[name]), inner)
	}
	if h.hybrid != nil {
		dirs[unified] = filepath.Join(h.hybrid.dir, h.hybrid.below(own[unified]), inner)
	}
	return nil
}

// below is the place of a group under the mount. In a container without a
// cgroup namespace, the mount shows only the container's own part of the tree.
func (m mount) below(group string) string {
	if rest, ok := strings.CutPrefix(group, m.root); ok {
		return filepath.Join("/", rest)
	}
	return filepath.Join("/", group)
}

// groupsOf reads a process's groups by controller from /proc/pid/cgroup
// (cgroups(7)); version 2 has the key unified.
func groupsOf(file string) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for name := range strings.SplitSeq(parts[1], ",") {
			groups[name] = parts[2]
		}
	}
	return groups, nil
}

// Of are the groups of a process by controller, as its mounts name them.
func Of(pid int) (map[string]string, error) {
	groups, err := groupsOf(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return groups, nil
}

// MountOf is the mount point above the directory of a group.
func MountOf(dir string) (string, error) {
	h, err := detect()
	if err != nil {
		return "", fmt.Errorf("cgroup: %w", err)
	}
	mounts := []string{h.unified}
	if h.hybrid != nil {
		mounts = append(mounts, h.hybrid.dir)
	}
	for _, m := range h.v1 {
		mounts = append(mounts, m.dir)
	}
	for _, m := range mounts {
		if m != "" && strings.HasPrefix(dir+"/", m+"/") {
			return m, nil
		}
	}
	return "", fmt.Errorf("cgroup: %s is on no mount: %w", dir, errdefs.ErrNotFound)
}
