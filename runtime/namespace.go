// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"slipway/linux"
	"slipway/runtime/cgroup"
)

// joined is a namespace to join.
type joined struct {
	file *os.File
	flag uintptr
}

// namespaces writes the script of a fork that joins some namespaces and makes
// others. Three facts decide the order:
//
//   - What a user namespace owns can be joined before it with the rights of
//     the caller, or after it with those it gives: both are tried.
//   - A pid namespace holds children of those that join it only, and a new
//     user namespace would take the right to join: then a second child is made.
//   - A cgroup namespace begins where the process is when it is made, and a
//     time namespace must have its offsets before anyone is in it: both are
//     made when the runtime has done its part.
func (l *launch) namespaces(joins []joined, made uintptr, offsets string) error {
	const late = unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME
	user := made&unix.CLONE_NEWUSER != 0
	again := user && len(joins) > 0
	for _, j := range joins {
		user = user || j.flag == unix.CLONE_NEWUSER
		again = again || j.flag == unix.CLONE_NEWUSER || j.flag == unix.CLONE_NEWPID
	}
	l.join(joins)
	if again {
		l.fork.Again(made &^ late)
	} else {
		l.fork.Flags = made &^ late
	}
	if l.fork.Ready != nil {
		l.fork.Wait()
	}
	if made&unix.CLONE_NEWCGROUP != 0 {
		l.fork.Unshare(unix.CLONE_NEWCGROUP)
	}
	if made&unix.CLONE_NEWTIME != 0 {
		proc, err := linux.Open("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		l.owns = append(l.owns, proc)
		l.fork.NewTime(proc, offsets)
	}
	if user {
		l.fork.Root()
	}
	return nil
}

// join joins namespaces: the user namespace between two tries of the others.
func (l *launch) join(joins []joined) {
	var retries []func()
	for _, j := range joins {
		if j.flag == unix.CLONE_NEWTIME {
			l.fork.OwnMemory = true // or the kernel counts the caller's threads
		}
		if j.flag != unix.CLONE_NEWUSER {
			retries = append(retries, l.fork.SetnsEither(j.file, j.flag))
		}
	}
	for _, j := range joins {
		if j.flag == unix.CLONE_NEWUSER {
			l.fork.Setns(j.file, j.flag)
		}
	}
	for _, retry := range retries {
		retry()
	}
}

// joinCgroup lets the process move itself into the groups of g, by files that
// are opened here. In version 1 the file is tasks: a thread that moves itself
// alone is spared the lock on all thread groups, for which cgroup.procs waits
// out an RCU grace period each time (cgroup_procs_write_start of the kernel).
// The group of version 2, also on a hybrid host, it can be started in.
func (l *launch) joinCgroup(g *cgroup.Manager) error {
	if dir, err := g.Dir(); err == nil {
		l.fork.Cgroup = dir
		l.owns = append(l.owns, dir)
	}
	seen := map[string]bool{} // controllers can share a hierarchy
	for name, dir := range g.Paths() {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		file, isCgroup := "tasks", name == ""
		if isCgroup {
			file = "cgroup.procs"
		}
		optional := isCgroup && !g.V2() // on a hybrid host version 2 is a comfort
		procs, err := linux.Open(filepath.Join(dir, file), unix.O_WRONLY, 0)
		if err != nil && optional {
			continue
		}
		if err != nil {
			return err
		}
		l.owns = append(l.owns, procs)
		l.fork.JoinCgroup(procs, isCgroup, optional)
	}
	return nil
}

// specNamespaces opens the namespaces that s has a path for, and says which
// are to be made. They must be of the kind that s says.
func (l *launch) specNamespaces(s *specs.Spec) (joins []joined, made uintptr, err error) {
	for _, k := range kinds {
		ns := findNamespace(s, k.spec)
		if ns == nil {
			continue
		}
		if ns.Path == "" {
			made |= k.flag
			continue
		}
		f, err := os.Open(ns.Path)
		if err != nil {
			return nil, 0, fmt.Errorf("%s namespace: %w", ns.Type, err)
		}
		l.owns = append(l.owns, f)
		joins = append(joins, joined{f, k.flag})
	}
	return joins, made, nil
}

// timeOffsets are the lines of timens_offsets (time_namespaces(7)).
func timeOffsets(s *specs.Spec) string {
	var b strings.Builder
	for clock, o := range s.Linux.TimeOffsets {
		fmt.Fprintf(&b, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	return b.String()
}

// mapUsers writes the mappings of a new user namespace. A user without
// privileges may map only itself, and leaves more to newuidmap(1).
func mapUsers(pid int, uids, gids []specs.LinuxIDMapping) error {
	if len(uids) == 0 && len(gids) == 0 {
		return nil
	}
	if os.Geteuid() != 0 && ownOnly(gids, os.Getegid()) {
		// Linux 3.19 wants it before a group is mapped without CAP_SETGID.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
			return err
		}
	}
	if err := mapIDs(pid, "uid_map", "newuidmap", uids, os.Geteuid()); err != nil {
		return err
	}
	return mapIDs(pid, "gid_map", "newgidmap", gids, os.Getegid())
}

func ownOnly(ids []specs.LinuxIDMapping, id int) bool {
	return len(ids) == 1 && ids[0].Size == 1 && int(ids[0].HostID) == id
}

func mapIDs(pid int, file, tool string, ids []specs.LinuxIDMapping, own int) error {
	if os.Geteuid() == 0 || ownOnly(ids, own) {
		var b strings.Builder
		for _, m := range ids {
			fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
		}
		return os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file), []byte(b.String()), 0)
	}
	args := []string{strconv.Itoa(pid)}
	for _, m := range ids {
		args = append(args, fmt.Sprint(m.ContainerID), fmt.Sprint(m.HostID), fmt.Sprint(m.Size))
	}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", tool, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// limit sets what the process itself may have no right to set. The resource
// limits themselves are the init's last act: it could not live with some.
func limit(pid int, p *specs.Process) error {
	if p.OOMScoreAdj != nil {
		name := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
		if err := os.WriteFile(name, []byte(strconv.Itoa(*p.OOMScoreAdj)), 0); err != nil {
			now, _ := os.ReadFile(name) // a rootless runtime may not lower it
			if strings.TrimSpace(string(now)) != strconv.Itoa(*p.OOMScoreAdj) {
				return err
			}
		}
	}
	for _, r := range p.Rlimits {
		if err := linux.RaiseRlimit(pid, linux.Rlimits[r.Type], r.Hard); err != nil {
			return fmt.Errorf("set %s: %w", r.Type, err)
		}
	}
	return nil
}
