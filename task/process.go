// SPDX-License-Identifier: Apache-2.0

package task

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A process is known by its number and its start, because the kernel uses
// numbers again.
type process struct {
	pid    int
	start  uint64 // in ticks since the boot, see proc_pid_stat(5)
	cgroup cgroup // zero if that is not the container's own
}

// A cgroup is a path in the hierarchy of a version 1 controller, or in that of
// version 2, whose controller is "".
type cgroup struct{ controller, path string }

// ticks is USER_HZ, which is 100 wherever containers run.
const ticks = 100

// firstProcess reads the container's first process from the file that the OCI
// runtime has written. A process that has started after that is another one.
func (b bundle) firstProcess() (p process, err error) {
	path := b.file(filePid)
	info, err := os.Stat(path)
	if err != nil {
		return p, err
	}
	pid, err := strconv.Atoi(b.read(filePid))
	if err != nil || pid <= 1 {
		return p, fmt.Errorf("%s: no process id", path)
	}
	start, err := startOf(pid)
	if err != nil {
		return p, err
	}
	if started := bootTime().Add(time.Duration(start) * (time.Second / ticks)); started.After(info.ModTime().Add(time.Second)) {
		return p, fmt.Errorf("process %d has started after %s was written: %w", pid, path, os.ErrProcessDone)
	}
	return process{pid, start, cgroupOf(pid, b.id)}, nil
}

func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		panic(err) // Linux 2.6.39 has it
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

// startOf returns when a process has started. One that has ended is
// os.ErrProcessDone, reaped or not.
func startOf(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, os.ErrProcessDone
	}
	if err != nil {
		return 0, err
	}
	// The command, field 2, is in parentheses and may contain anything.
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
	fields := strings.Fields(rest) // from field 3 on; the start is field 22
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s: %d fields", path, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// signal sends a signal to this very process: os.FindProcess opens a pidfd
// (Linux 5.3), and the start is compared after that.
func (p process) signal(sig os.Signal) error {
	if p.pid == 0 {
		return os.ErrProcessDone
	}
	h, err := os.FindProcess(p.pid)
	if err != nil {
		return err
	}
	defer h.Release()
	if start, err := startOf(p.pid); err != nil || start != p.start {
		return os.ErrProcessDone
	}
	return h.Signal(sig)
}

// end kills the process and whatever is in its cgroup, and waits for that. It
// reports whether there was anything to kill.
func (p process) end(ctx context.Context) (killed bool, err error) {
	if p.pid == 0 {
		return false, nil
	}
	dir := p.cgroup.dir()
	for ; ; killed = true {
		err := p.signal(unix.SIGKILL)
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return killed, fmt.Errorf("kill process %d: %w", p.pid, err)
		}
		left := killCgroup(dir)
		if err != nil && left == 0 {
			return killed, nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return killed, fmt.Errorf("process %d and %d more in its cgroup %s are not gone: %w", p.pid, left, p.cgroup.path, ctx.Err())
		}
	}
}

// kill sends SIGKILL to the process and to whatever is in its cgroup.
func (p process) kill() error {
	killCgroup(p.cgroup.dir())
	if err := p.signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return nil
}

// pause waits a moment and reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// cgroupOf finds the cgroup of a process, in the hierarchy of the version 1
// freezer or in version 2. It is none unless the cgroup has the name of the
// container, because one that is shared must not be killed.
func cgroupOf(pid int, id string) cgroup {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return cgroup{}
	}
	for _, controller := range []string{"freezer", ""} {
		if path := cgroupPath(data, controller); strings.Contains(filepath.Base(path), id) {
			return cgroup{controller, path}
		}
	}
	return cgroup{}
}

// cgroupPath reads the line of a controller, "" for version 2, in the format
// of cgroups(7).
func cgroupPath(data []byte, controller string) string {
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == controller {
			return f[2]
		}
	}
	return ""
}

// dir finds the directory of a cgroup, "" if there is none.
func (c cgroup) dir() string {
	list, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil || c.path == "" {
		return ""
	}
	for _, m := range list {
		v2 := c.controller == "" && m.FSType == "cgroup2"
		v1 := c.controller != "" && m.FSType == "cgroup" && slices.Contains(strings.Split(m.VFSOptions, ","), c.controller)
		if v1 || v2 {
			return filepath.Join(m.Mountpoint, c.path)
		}
	}
	return ""
}

// killCgroup kills the processes in a cgroup and below and returns how many
// there were. A frozen one is thawed, because a version 1 freezer holds
// signals back.
func killCgroup(dir string) (n int) {
	if dir == "" {
		return 0
	}
	os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			n += killListed(path)
		}
		return nil
	})
	return n
}

func killListed(procs string) (n int) {
	f, err := os.Open(procs)
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		pid, err := strconv.Atoi(s.Text())
		if err != nil || pid <= 1 {
			continue
		}
		start, err := startOf(pid)
		if err != nil {
			continue
		}
		n++
		process{pid: pid, start: start}.signal(unix.SIGKILL)
	}
	return n
}

// killIn kills the processes that run a binary in a directory, until there
// are none: a shim that is being started forks.
func killIn(dir, bin string) {
	if real, err := filepath.EvalSymlinks(bin); err == nil {
		bin = real
	}
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if killOnce(dir, bin) == 0 {
			return
		}
	}
}

func killOnce(dir, bin string) (n int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range procs {
		if cwd, err := os.Readlink(link); err != nil || cwd != dir {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		start, err := startOf(pid)
		if exe, eerr := os.Readlink(filepath.Join(filepath.Dir(link), "exe")); err != nil || eerr != nil || strings.TrimSuffix(exe, " (deleted)") != bin {
			continue
		}
		n++
		process{pid: pid, start: start}.signal(unix.SIGKILL)
	}
	return n
}
