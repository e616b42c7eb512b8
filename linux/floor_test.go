// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkFloor is what the kernel alone takes for a container as `runc spec`
// describes it: one fork with its namespaces, groups and mounts, all of them
// calls of a script, and an exec. docs/perf.md has it beside what a start takes.
func BenchmarkFloor(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("needs root")
	}
	exe, err := os.Open("/bin/busybox")
	if err != nil {
		b.Skip(err)
	}
	defer exe.Close()
	root := b.TempDir()
	for _, dir := range []string{"proc", "dev", "sys"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	before := cpuTime(b)
	for b.Loop() {
		var f floor
		f.Flags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		f.join(b, tops)
		f.mounts(root)
		pid, err := f.Exec(exe, []string{"true"}, nil, []*os.File{null, null, null})
		if err != nil {
			b.Fatal(err)
		}
		reap(pid)
		f.leave(b)
	}
	b.ReportMetric(float64(cpuTime(b)-before)/1e6/float64(b.N), "cpu-ms/op")
}

// floor is a fork whose script makes a container.
type floor struct {
	Fork
	groups []string
	procs  []*os.File
}

// join makes a group in each hierarchy of version 1, for the process to join.
func (f *floor) join(b *testing.B, tops []string) {
	for _, top := range tops {
		tasks := filepath.Join(filepath.Dir(top), "floor-"+strconv.Itoa(os.Getpid()), "tasks")
		if os.Mkdir(filepath.Dir(tasks), 0o755) != nil {
			continue
		}
		f.groups = append(f.groups, filepath.Dir(tasks))
		procs, err := Open(tasks, unix.O_WRONLY, 0)
		if err != nil {
			continue // version 2
		}
		f.procs = append(f.procs, procs)
		f.JoinCgroup(procs, false, true) // cpuset has no CPUs yet
	}
}

func (f *floor) leave(b *testing.B) {
	closeAll(f.procs)
	for _, dir := range f.groups {
		for deadline := time.Now().Add(time.Minute); os.Remove(dir) != nil; {
			if time.Now().After(deadline) {
				b.Fatalf("%s cannot be removed", dir)
			}
		}
	}
}

func (f *floor) mount(source, target, kind string, flags uintptr) {
	f.add(call{name: "mount " + target, nr: unix.SYS_MOUNT,
		args: [6]uintptr{f.string(source), f.string(target), f.string(kind), flags}})
}

// mounts are those of the specification, with as many bind mounts as it has
// hierarchies, masked paths and read-only paths.
func (f *floor) mounts(root string) {
	f.mount("", "/", "", unix.MS_SLAVE|unix.MS_REC)
	f.mount(root, root, "", unix.MS_BIND|unix.MS_REC)
	f.mount("proc", root+"/proc", "proc", 0)
	f.mount("tmpfs", root+"/dev", "tmpfs", unix.MS_NOSUID)
	for _, m := range [][2]string{{"pts", "devpts"}, {"shm", "tmpfs"}, {"mqueue", "mqueue"}} {
		dir := root + "/dev/" + m[0]
		f.add(call{name: "mkdir", nr: unix.SYS_MKDIRAT, args: [6]uintptr{0, f.string(dir), 0o755}})
		f.mount(m[1], dir, m[1], unix.MS_NOSUID)
	}
	for i, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		f.add(call{name: "mknod", nr: unix.SYS_MKNODAT,
			args: [6]uintptr{0, f.string(root + "/dev/" + name), unix.S_IFCHR | 0o666, uintptr(unix.Mkdev(1, uint32(3+i)))}})
	}
	f.mount("sysfs", root+"/sys", "sysfs", unix.MS_RDONLY)
	f.mount("tmpfs", root+"/sys/fs/cgroup", "tmpfs", 0)
	for range 11 + 5 {
		f.mount(root+"/proc/bus", root+"/proc/bus", "", unix.MS_BIND)
	}
	for range 8 {
		f.mount(root+"/dev/null", root+"/proc/keys", "", unix.MS_BIND)
	}
	f.add(call{name: "chdir", nr: unix.SYS_CHDIR, args: [6]uintptr{f.string(root)}})
	f.add(call{name: "pivot_root", nr: unix.SYS_PIVOT_ROOT, args: [6]uintptr{f.string("."), f.string(".")}})
	f.add(call{name: "umount2", nr: unix.SYS_UMOUNT2, args: [6]uintptr{f.string("."), unix.MNT_DETACH}})
	host := "floor"
	f.add(call{name: "sethostname", nr: unix.SYS_SETHOSTNAME, args: [6]uintptr{f.string(host), uintptr(len(host))}})
}

// cpuTime is that of this process and of its children.
func cpuTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}
