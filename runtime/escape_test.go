// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// link makes a symbolic link in the root file system, in place of what is there.
func (b *box) link(name, target string) {
	b.t.Helper()
	name = filepath.Join(b.bundle, "rootfs", name)
	if err := os.RemoveAll(name); err != nil {
		b.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) dropMount(at string) {
	for i, m := range b.spec.Mounts {
		if m.Destination == at {
			b.spec.Mounts = append(b.spec.Mounts[:i:i], b.spec.Mounts[i+1:]...)
			return
		}
	}
}

// refused runs the container, which must not come to be, for this reason.
func (b *box) refused(reason string) {
	b.t.Helper()
	out, _, err := b.run(nil)
	if err == nil || !strings.Contains(err.Error(), reason) {
		b.t.Errorf("it printed %q, error %v; want an error with %q", out, err, reason)
	}
}

// CVE-2019-5736: a container overwrites the runtime by way of /proc/<pid>/exe.
func TestEscapeByTheRuntimesExecutable(t *testing.T) {
	b := newBox(t, "true")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	exe := fmt.Sprintf("/proc/%d/exe", c.Init().Pid)
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(exe); err != nil || os.SameFile(own, st) {
		t.Errorf("the container executes the runtime itself (%v)", err)
	}
	held, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := c.Kill(context.Background(), unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init())
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), os.O_WRONLY, 0)
	if err == nil {
		_, err = w.WriteString("#!/bin/evil")
		w.Close()
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("the init can be overwritten: %v", err)
	}
}

// CVE-2019-16884, CVE-2025-52881: what is mounted at or in /proc takes the
// place of the files that labels and sysctls are written to.
func TestEscapeByMountsInProc(t *testing.T) {
	b := newBox(t, "true")
	b.mount("/proc", "bind", b.host(), "bind")
	b.refused("not of type proc")
	b = newBox(t, "true")
	b.mount("/proc", "tmpfs", "tmpfs")
	b.refused("not of type proc")
	for _, at := range []string{"/proc/self/attr", "/proc/sys/kernel", "/proc/1/attr", "/way/to/attr"} {
		b := newBox(t, "true")
		b.link("way/to", "../../../proc/self")
		b.mount(at, "bind", b.host(), "bind")
		b.refused("inside /proc")
	}
}

func TestMountsOfLxcfsInProcAreAllowed(t *testing.T) {
	b := newBox(t, "cat /proc/uptime")
	b.mount("/proc/uptime", "bind", b.host()+"/file", "bind")
	b.want("data")
}

// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys is a link, so
// that procfs is mounted where no mask covers it.
func TestEscapeByLinkedProc(t *testing.T) {
	for _, dir := range []string{"proc", "sys"} {
		b := newBox(t, "true")
		b.link(dir, "/elsewhere")
		b.refused("must be mounted on ordinary directory")
	}
}

// CVE-2021-30465, CVE-2024-45310: a link in the image, or in a volume shared
// with another container, leads a mount or the making of its target outside.
func TestEscapeByLinkedMountTarget(t *testing.T) {
	b := newBox(t, "cat /etc/inner/file")
	host := b.host()
	b.link("etc", "/../../../../../.."+host)
	b.mount("/etc/inner", "bind", host, "bind")
	b.want("data")
	if _, err := os.Stat(host + "/inner"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target was made on the host: %v", err)
	}
}

// The same by a race: the target is a link now and a directory then.
func TestEscapeBySwappedMountTarget(t *testing.T) {
	b := newBox(t, "cat /vol/in/file")
	host := b.host()
	outside := filepath.Join(filepath.Dir(host), "outside")
	vol := filepath.Join(b.bundle, "rootfs/vol")
	for _, d := range []string{outside, vol + "/in"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/../../../../../../.."+outside, vol+"/other"); err != nil {
		t.Fatal(err)
	}
	b.mount("/vol/in", "bind", host, "bind")
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, vol+"/in", unix.AT_FDCWD, vol+"/other", unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 20 {
		// It may fail or not; what it must not do is reach outside.
		b.run(nil)
	}
	close(stop)
	swapper.Wait()
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) > 0 {
		t.Errorf("outside has %v, %v", entries, err)
	}
}

// CVE-2022-29162: processes get inheritable capabilities that nobody asked for.
func TestEscapeByInheritableCapabilities(t *testing.T) {
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := execute(t, c, nil, "grep", "CapInh", "/proc/self/status")
	if err != nil || out != "CapInh:\t0000000000000000" {
		t.Errorf("printed %q, %v", out, err)
	}
}

// CVE-2024-21626: a descriptor of a host directory as working directory.
func TestEscapeByLeakedDescriptors(t *testing.T) {
	leak, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	b := newBox(t, "sleep 1000")
	c, _, err := b.create(nil)
	if err != nil {
		t.Fatal(err)
	}
	for fd := range 40 {
		cwd := fmt.Sprintf("/proc/self/fd/%d", fd)
		out, _, err := execute(t, c, func(p *ProcessConfig) { p.Spec.Cwd = cwd }, "ls", ".")
		if err == nil && strings.Contains(out, "boot") {
			t.Errorf("exec in %s sees the host: %s", cwd, out)
		}
		inner := newBox(t, "ls .")
		inner.spec.Process.Cwd = cwd
		out, _, err = inner.run(nil)
		if err == nil && strings.Contains(out, "boot") {
			t.Errorf("run in %s sees the host: %s", cwd, out)
		}
	}
}

// CVE-2025-31133: the container's /dev/null is a link, and masks, made of it,
// show its target.
func TestEscapeByLinkedNullDevice(t *testing.T) {
	b := newBox(t, "cat /proc/keys | busybox wc -c; (echo x > /proc/keys) 2>/dev/null; cat /proc/sys/kernel/core_pattern | busybox wc -l")
	b.dropMount("/dev")
	b.dropMount("/dev/pts")
	b.dropMount("/dev/shm")
	b.dropMount("/dev/mqueue")
	b.link("dev/null", "/proc/sys/kernel/core_pattern")
	before, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := b.run(nil)
	if err == nil && !strings.HasPrefix(out, "0\n") {
		t.Errorf("the mask shows %q", out)
	}
	if after, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); string(after) != string(before) {
		t.Errorf("core_pattern was %q and is %q", before, after)
	}
}

// What covers a masked file belongs to the container: were it the host's null
// device, the container could take that from everybody.
func TestEscapeByModeOfMaskedFile(t *testing.T) {
	var before, after unix.Stat_t
	if err := unix.Stat("/dev/null", &before); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, "chmod 600 /proc/keys && chown 12:34 /proc/keys && stat -c '%a %u %g' /proc/keys")
	out, _, err := b.run(nil)
	if err != nil || out != "600 12 34" {
		t.Errorf("the container sees %q, %v", out, err)
	}
	if err := unix.Stat("/dev/null", &after); err != nil {
		t.Fatal(err)
	}
	if after.Mode != before.Mode || after.Uid != before.Uid || after.Gid != before.Gid {
		t.Errorf("the host's null device had mode %o of %d:%d and has %o of %d:%d", before.Mode, before.Uid, before.Gid, after.Mode, after.Uid, after.Gid)
		unix.Chown("/dev/null", int(before.Uid), int(before.Gid))
		unix.Chmod("/dev/null", before.Mode&0o7777)
	}
}

// CVE-2025-52565: /dev/console and /dev/pts are links when the terminal is
// put there.
func TestEscapeByLinkedConsole(t *testing.T) {
	b := newBox(t, "true")
	b.spec.Process.Terminal = true
	b.dropMount("/dev")
	b.link("dev/console", "/proc/sys/kernel/core_pattern")
	b.refused("/dev/console")
	b = newBox(t, "true")
	b.spec.Process.Terminal = true
	b.dropMount("/dev/pts")
	b.dropMount("/dev")
	b.link("dev/pts", "/proc/self/fd")
	b.refused("open terminal")
}

// Hostile root file systems: nothing hangs, and nothing gets out.
func TestEscapeByHostileRoots(t *testing.T) {
	for name, spoil := range map[string]func(b *box){
		"looping links":    func(b *box) { b.link("a", "b"); b.link("b", "a"); b.mount("/a/x", "tmpfs", "tmpfs") },
		"dev is a link":    func(b *box) { b.link("dev", "/etc") },
		"dev is a file":    func(b *box) { b.link("x", "y"); os.RemoveAll(b.bundle + "/rootfs/dev"); b.file("dev", "", 0o644) },
		"masked is a link": func(b *box) { b.link("m", "/../../../../etc/passwd"); b.spec.Linux.MaskedPaths = []string{"/m"} },
		"passwd is a link": func(b *box) { b.link("etc/passwd", "/proc/self/mem") },
		"passwd is huge": func(b *box) {
			b.file("etc/passwd", "x", 0o644)
			os.Truncate(b.bundle+"/rootfs/etc/passwd", 1<<40)
		},
		"fifo in the way": func(b *box) {
			unix.Mkfifo(b.bundle+"/rootfs/fifo", 0o644)
			b.mount("/fifo", "bind", b.host()+"/file", "bind")
			b.spec.Linux.ReadonlyPaths = []string{"/fifo"}
		},
		"device is a link": func(b *box) {
			b.dropMount("/dev")
			b.link("dev/zero", b.host()+"/file")
			b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "true")
			spoil(b)
			before := leftovers(b)
			passwd, _ := os.ReadFile("/etc/passwd")
			b.run(nil) // may fail
			if after, _ := os.ReadFile("/etc/passwd"); string(after) != string(passwd) {
				t.Error("the host's passwd has changed")
			}
			if data, err := os.ReadFile(b.host() + "/file"); err != nil || string(data) != "data" {
				t.Errorf("the host's file has %q, %v", data, err)
			}
			if after := leftovers(b); after != before {
				t.Errorf("before: %s; after: %s", before, after)
			}
		})
	}
}
