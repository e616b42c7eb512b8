// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// userns puts the container in a user namespace of its own.
func userns(b *box) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}, {ContainerID: 1000, HostID: 200000, Size: 1000}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids, ids
	for _, d := range []string{filepath.Dir(filepath.Dir(b.bundle)), filepath.Dir(b.bundle), b.bundle} {
		if err := os.Chmod(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	err := filepath.WalkDir(filepath.Join(b.bundle, "rootfs"), func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, 100000, 100000)
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) mount(dest, kind, source string, opts ...string) {
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dest, Type: kind, Source: source, Options: opts})
}

// host makes a directory of the host with a file in it.
func (b *box) host() string {
	b.t.Helper()
	dir := filepath.Join(filepath.Dir(b.bundle), "host")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("data"), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

func TestSpec(t *testing.T) {
	number := func(n int) *int { return &n }
	mask := func(n uint32) *uint32 { return &n }
	for _, c := range []struct {
		name   string
		script string
		want   string
		change func(b *box)
	}{
		{"pid is one", "echo $$", "1", nil},
		{"loopback is up", "cat /sys/class/net/lo/flags", "0x9", nil},
		{"hostname", "hostname; cat /proc/sys/kernel/domainname", "box\nexample.org", func(b *box) {
			b.spec.Hostname, b.spec.Domainname = "box", "example.org"
		}},
		{"user and groups", "id", "uid=1000 gid=1001 groups=10,20", func(b *box) {
			b.spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{10, 20}}
		}},
		{"umask", "umask", "0077", func(b *box) { b.spec.Process.User.Umask = mask(0o77) }},
		{"umask by default", "umask", "0022", nil},
		{"working directory", "echo $PWD", "/data/dir", func(b *box) { b.spec.Process.Cwd = "/data/dir" }},
		{"home of passwd", "echo $HOME", "/home/me", func(b *box) {
			b.file("etc/passwd", "root:x:0:0:root:/home/me:/bin/sh\n", 0o644)
		}},
		{"an empty home is none", "", "PATH=/bin\nHOME=/", func(b *box) {
			b.spec.Process.Args = []string{"busybox", "env"}
			b.spec.Process.Env = []string{"HOME=/override", "PATH=/bin", "HOME="}
		}},
		{"the last value counts", "", "PATH=/bin\nONE=three\nHOME=/", func(b *box) {
			b.spec.Process.Args = []string{"busybox", "env"}
			b.spec.Process.Env = []string{"ONE=two", "PATH=/bin", "ONE=three"}
		}},
		{"hooks of the container have its environment", "cat /log", "two /", func(b *box) {
			b.spec.Process.Env = append(b.spec.Process.Env, "ONE=two")
			b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $ONE $HOME > /log"}}}}
		}},
		{"createContainer hooks start in the root", "cat /mark", "here", func(b *box) {
			b.spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo here > mark"}}}}
		}},
		{"home without passwd", "echo $HOME", "/", nil},
		{"home of a fifo", "echo $HOME", "/", func(b *box) {
			if err := unix.Mkfifo(filepath.Join(b.bundle, "rootfs/etc/passwd"), 0o644); err != nil {
				b.t.Fatal(err)
			}
		}},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", nil},
		{"capabilities", "grep Cap /proc/self/status",
			"CapInh:\t0000000000000000\nCapPrm:\t0000000000000021\nCapEff:\t0000000000000021\nCapBnd:\t0000000000000021\nCapAmb:\t0000000000000000", func(b *box) {
				some := []string{"CAP_CHOWN", "CAP_KILL"}
				b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: some, Effective: some, Permitted: some}
			}},
		{"ambient capabilities", "grep -E 'CapEff|CapAmb' /proc/self/status", "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400", func(b *box) {
			c := []string{"CAP_NET_BIND_SERVICE"}
			b.spec.Process.User.UID = 1000
			b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Inheritable: c, Ambient: c}
		}},
		{"no capabilities", "grep -E 'CapBnd|CapEff' /proc/self/status", "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000", func(b *box) {
			b.spec.Process.Capabilities = nil
		}},
		{"rlimits", "ulimit -n; ulimit -H -n; ulimit -c", "100\n200\n0", func(b *box) {
			b.spec.Process.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
			}
		}},
		{"oom score", "cat /proc/self/oom_score_adj", "500", func(b *box) { b.spec.Process.OOMScoreAdj = number(500) }},
		{"scheduler", "cat /proc/self/stat | { read a b c d e f g h i j k l m n o p q r nice z; echo $nice; }", "5", func(b *box) {
			b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
		}},
		{"I/O priority", "busybox ionice -p $$", "best-effort: prio 6", func(b *box) {
			b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}},
		{"memory policy", "busybox head -1 /proc/self/numa_maps | grep -c bind:0", "1", func(b *box) {
			if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
				b.t.Skip("needs a kernel with NUMA")
			}
			b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		}},
		{"personality", "busybox uname -m", "i686", func(b *box) {
			b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}},
		{"sysctl", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "1\n4096", func(b *box) {
			b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel/msgmax": "4096"}
		}},
		{"time offsets", "busybox cut -d. -f1 /proc/uptime | busybox wc -c", "10", func(b *box) {
			if _, err := os.Stat("/proc/self/ns/time"); err != nil {
				b.t.Skip("needs Linux 5.6")
			}
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
			b.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 900000000}}
		}},
		{"devices", "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty",
			"/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666", nil},
		{"device links", "readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx", "/proc/self/fd\n/proc/self/fd/0\npts/ptmx", nil},
		{"own device", "stat -c '%F %t:%T %a %u:%g' /dev/sub/fuse; stat -c %F /dev/pipe", "character special file a:e5 600 3:4\nfifo", func(b *box) {
			mode := os.FileMode(0o600)
			b.spec.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/sub/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: mask(3), GID: mask(4)},
				{Path: "/dev/pipe", Type: "p"},
			}
		}},
		{"masked paths", "cat /proc/keys | busybox wc -c; ls /sys/firmware | busybox wc -l; touch /sys/firmware/x 2>/dev/null || echo ro", "0\n0\nro", nil},
		{"readonly paths", "echo 1 2>/dev/null > /proc/sys/kernel/msgmax || echo ro", "ro", nil},
		{"readonly root", "touch /x 2>/dev/null || echo ro; touch /dev/x && echo rw", "ro\nrw", func(b *box) { b.spec.Root.Readonly = true }},
		{"bind a directory", "cat /data/file; touch /data/new 2>/dev/null || echo ro", "dataro", func(b *box) {
			b.mount("/data", "bind", b.host(), "rbind", "ro")
		}},
		{"bind a file", "cat /etc/deep/er/file", "data", func(b *box) {
			b.mount("/etc/deep/er/file", "bind", b.host()+"/file", "bind")
		}},
		{"bind flags", "grep -c ' /data .* ro,nosuid,nodev,noexec,noatime' /proc/self/mounts", "1", func(b *box) {
			b.mount("/data", "bind", b.host(), "rbind", "ro", "nosuid", "nodev", "noexec", "noatime")
		}},
		{"recursive read-only", "touch /data/sub/new 2>/dev/null || echo ro", "ro", func(b *box) {
			dir := b.host()
			if _, err := cloneTree(dir, false); err != nil {
				b.t.Skip("needs Linux 5.12: ", err)
			}
			if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
				b.t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, ""); err != nil {
				b.t.Fatal(err)
			}
			b.t.Cleanup(func() { unix.Unmount(dir+"/sub", unix.MNT_DETACH) })
			b.mount("/data", "bind", dir, "rbind", "rro")
		}},
		{"tmpfs copied up", "cat /seed/a/b; readlink /seed/l; stat -c %a /seed", "x\na/b\n750", func(b *box) {
			b.file("seed/a/b", "x\n", 0o644)
			os.Chmod(filepath.Join(b.bundle, "rootfs/seed"), 0o750)
			os.Symlink("a/b", filepath.Join(b.bundle, "rootfs/seed/l"))
			b.mount("/seed", "tmpfs", "tmpfs", "tmpcopyup")
		}},
		{"read-only tmpfs with a mount inside", "cat /t/in/file; touch /t/x 2>/dev/null || echo ro", "dataro", func(b *box) {
			b.mount("/t", "tmpfs", "tmpfs", "ro")
			b.mount("/t/in", "bind", b.host(), "bind")
		}},
		{"tmpfs has the mode of the directory that it covers", "stat -c %a /t /new", "2710\n1777", func(b *box) {
			b.file("t/x", "", 0o644)
			if err := os.Chmod(filepath.Join(b.bundle, "rootfs/t"), 0o710|os.ModeSetgid); err != nil {
				b.t.Fatal(err)
			}
			b.mount("/t", "tmpfs", "tmpfs")
			b.mount("/new", "tmpfs", "tmpfs")
		}},
		{"mode of a tmpfs", "stat -c %a /tmp", "1500", func(b *box) { b.mount("/tmp", "tmpfs", "tmpfs", "mode=1500") }},
		{"masked directories are of one file system", "stat -c %d /a /b | busybox uniq | busybox wc -l; grep -c ' /[abf] ' /proc/self/mounts; touch /b/x 2>/dev/null || echo ro", "1\n3\nro", func(b *box) {
			b.needTrees()
			for _, name := range []string{"a/x", "b/x", "f"} {
				b.file(name, "", 0o644)
			}
			b.spec.Linux.MaskedPaths = []string{"/a", "/b", "/f", "/a", "/b/", "/f"}
		}},
		{"a destination as the host sees it", "cat /data/file", "data", func(b *box) {
			b.mount(filepath.Join(b.bundle, "rootfs/data"), "bind", b.host(), "bind")
		}},
		{"bind what was mounted before", "cat /two/file", "data", func(b *box) {
			b.mount("/one", "bind", b.host(), "bind")
			b.mount("/two", "bind", filepath.Join(b.bundle, "rootfs/one"), "bind")
		}},
		{"bind in a user namespace that cannot reach the source, and bind that", "cat /two", "data", func(b *box) {
			b.needTrees()
			userns(b)
			dir := b.host()
			if err := os.Chmod(dir, 0o700); err != nil {
				b.t.Fatal(err)
			}
			b.mount("/one", "bind", dir+"/file", "bind")
			b.mount("/two", "bind", filepath.Join(b.bundle, "rootfs/one"), "bind")
		}},
		{"bind what a path in the bundle leads to", "cat /one /two/file", "datadata", func(b *box) {
			b.host()
			b.mount("/one", "bind", "../host/file", "bind")
			b.mount("/two", "bind", "../host", "bind")
		}},
		{"bind what a path in the bundle leads to in a user namespace", "cat /one", "data", func(b *box) {
			b.needTrees()
			userns(b)
			if err := os.Chmod(b.host(), 0o700); err != nil {
				b.t.Fatal(err)
			}
			b.mount("/one", "bind", "../host/file", "bind")
		}},
		{"idmapped from what was mounted before", "stat -c %u /two/file", "7", func(b *box) {
			userns(b)
			dir := b.host()
			os.Chown(dir+"/file", 7, 8)
			b.mount("/one", "bind", dir, "bind")
			b.mount("/two", "bind", filepath.Join(b.bundle, "rootfs/one"), "bind", "idmap")
			b.needIdmap(dir)
		}},
		{"bind without flags keeps all", bindScript, "ro,nosuid,noexec,noatime", func(b *box) { b.mount("/data", "bind", b.locked(), "bind") }},
		{"bind with flags has those only", bindScript, "rw,nodev,noatime", func(b *box) { b.mount("/data", "bind", b.locked(), "bind", "nodev") }},
		{"bind with a cleared flag has no other", bindScript, "rw,noatime", func(b *box) { b.mount("/data", "bind", b.locked(), "bind", "dev") }},
		{"bind with access times", bindScript, "rw,relatime", func(b *box) { b.mount("/data", "bind", b.locked(), "bind", "relatime") }},
		{"a user namespace keeps flags of the host", bindScript, "ro,nosuid,nodev,noexec,noatime", func(b *box) {
			userns(b)
			b.mount("/data", "bind", b.locked(), "bind", "nodev")
		}},
		{"unbindable root", "busybox awk '$5 == \"/\"' /proc/self/mountinfo | grep -c unbindable", "1", func(b *box) {
			b.spec.Linux.RootfsPropagation = "unbindable"
		}},
		{"mount through a dangling link stays inside", "cat /real/file; readlink /link", "data/real", func(b *box) {
			os.Symlink("/real", filepath.Join(b.bundle, "rootfs/link"))
			b.mount("/link", "bind", b.host(), "bind")
		}},
		{"cgroups without a namespace", "ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | busybox head -1 | busybox wc -l", "1", func(b *box) {
			b.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev", "relatime")
		}},
		{"cgroups in a namespace", "busybox cut -d: -f3 /proc/self/cgroup | busybox sort -u; ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | busybox head -1 | busybox wc -l; touch /sys/fs/cgroup/x 2>/dev/null || echo ro", "/\n1\nro", func(b *box) {
			b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "cgroup"})
			b.mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev", "relatime")
		}},
		{"user namespace", "id -u; id -g; cat /proc/self/uid_map | { read a b c; echo $a $b $c; }; touch /new; stat -c %u /new; stat -c %t:%T /dev/null", "0\n0\n0 100000 1000\n0\n1:3", userns},
		{"user of a user namespace", "id -u", "5", func(b *box) { userns(b); b.spec.Process.User.UID = 5 }},
		{"bind in a user namespace", "cat /data/file", "data", func(b *box) {
			userns(b)
			dir := b.host()
			os.Chmod(filepath.Dir(dir), 0o755)
			b.mount("/data", "bind", dir, "rbind")
		}},
		{"idmapped by the namespace", "stat -c %u:%g /data/file", "7:8", func(b *box) {
			userns(b)
			dir := b.host()
			os.Chown(dir+"/file", 7, 8)
			b.mount("/data", "bind", dir, "bind", "idmap")
			b.needIdmap(dir)
		}},
		{"shared", "grep -c ' /data .* shared:' /proc/self/mountinfo", "1", func(b *box) {
			b.mount("/data", "bind", b.host(), "bind", "shared")
		}},
		{"idmapped and shared", "grep -c ' /data .* shared:' /proc/self/mountinfo", "1", func(b *box) {
			userns(b)
			dir := b.host()
			b.mount("/data", "bind", dir, "bind", "idmap", "shared")
			b.needIdmap(dir)
		}},
		{"idmapped by its own mapping", "stat -c %u:%g /data/file", "107:208", func(b *box) {
			dir := b.host()
			os.Chown(dir+"/file", 7, 8)
			b.mount("/data", "bind", dir, "bind")
			m := &b.spec.Mounts[len(b.spec.Mounts)-1]
			m.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100, Size: 50}}
			m.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200, Size: 50}}
			b.needIdmap(dir)
		}},
		{"no extra descriptors", "ls /proc/self/fd | busybox tr '\\n' ' '", "0 1 2 3", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, c.script)
			if c.change != nil {
				c.change(b)
			}
			b.want(c.want)
		})
	}
}

// bindScript prints the flags of the mount at /data without those of its file
// system.
const bindScript = "busybox sed -n 's|^[^ ]* /data [^ ]* \\([^ ]*\\) .*|\\1|p' /proc/self/mounts | busybox sed 's/,size.*//; s/,inode.*//'"

// locked is a mount of the host with flags.
func (b *box) locked() string {
	b.t.Helper()
	dir := b.host()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		b.t.Fatal(err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME
	for _, f := range []uintptr{0, unix.MS_BIND | unix.MS_REMOUNT | flags} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", f, ""); err != nil {
			b.t.Fatal(err)
		}
	}
	b.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFlagsOfTheHostCannotBeCleared(t *testing.T) {
	for _, option := range []string{"rw", "relatime"} {
		b := newBox(t, "true")
		userns(b)
		dir := b.locked()
		b.mount("/data", "bind", dir, "bind", option)
		_, _, err := b.run(nil)
		if err == nil || !strings.Contains(err.Error(), "error mounting") || !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("%s: %v", option, err)
		}
		unix.Unmount(dir, unix.MNT_DETACH) // the next one's is at the same place
	}
}

// needTrees skips where mounts cannot be detached.
func (b *box) needTrees() {
	if _, err := cloneTree("/", false); errors.Is(err, unix.ENOSYS) {
		b.t.Skip("needs Linux 5.2")
	}
}

// needIdmap skips where the file system has no idmapped mounts.
func (b *box) needIdmap(dir string) {
	b.t.Helper()
	tree, err := cloneTree(dir, false)
	if err == nil {
		m := &specs.Mount{UIDMappings: []specs.LinuxIDMapping{{Size: 1}}, GIDMappings: []specs.LinuxIDMapping{{Size: 1}}}
		err = mapTree(tree, m, 0, false)
		tree.Close()
	}
	if err != nil && !strings.Contains(err.Error(), "operation not permitted") {
		b.t.Skip("needs idmapped mounts: ", err)
	}
}
