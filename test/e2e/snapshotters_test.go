// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"slipway/test/host"
)

// needsFS skips a test whose file system the kernel lacks, or its programs.
func needsFS(t *testing.T, fsType string, programs ...string) {
	t.Helper()
	host.Need(t, programs...)
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil || !bytes.Contains(list, []byte("\t"+fsType+"\n")) {
		t.Skipf("the kernel has no %s", fsType)
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("loop devices: %v", err)
	}
}

// emptyImage makes an image of an empty file system.
func emptyImage(t *testing.T, fsType string, size int64, options ...string) string {
	t.Helper()
	image := filepath.Join(host.TempDir(t), fsType+".img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	host.Must(t, "mkfs."+fsType, append(options, image)...)
	return image
}

// upperLayer changes what busybox holds: a file more, one less, one changed,
// and one in a directory that the layer does not have.
func upperLayer(t *testing.T) []byte {
	return host.Layer(t,
		host.Entry{Name: "etc/", Mode: 0o755}, host.Entry{Name: "etc/.wh.group"},
		host.Entry{Name: "etc/motd", Mode: 0o644, Content: []byte("hello\n")},
		host.Entry{Name: "root/implied", Mode: 0o600, Content: []byte("in a directory below\n")},
	)
}

// snapshotters are the ways to keep snapshots, each with a configuration.
var snapshotters = []struct {
	name, as string
	config   func(t *testing.T) string
}{
	{"overlayfs", "overlayfs", func(*testing.T) string { return "" }},
	{"native", "native", func(*testing.T) string { return "" }},
	{"blockfile", "blockfile", func(t *testing.T) string {
		needsFS(t, "ext4", "mkfs.ext4")
		return fmt.Sprintf("[plugins.'io.containerd.snapshotter.v1.blockfile']\nscratch_file = %q\n",
			emptyImage(t, "ext4", 32<<20, "-q", "-F", "-O", "^has_journal"))
	}},
	{"btrfs", "btrfs", func(t *testing.T) string {
		needsFS(t, "btrfs", "mkfs.btrfs")
		at := host.TempDir(t)
		host.Must(t, "mount", "-o", "loop", emptyImage(t, "btrfs", 256<<20, "-q"), at)
		t.Cleanup(func() { host.Must(t, "umount", at) })
		return fmt.Sprintf("[plugins.'io.containerd.snapshotter.v1.btrfs']\nroot_path = %q\n", filepath.Join(at, "snapshots"))
	}},
	{"erofs", "erofs", func(t *testing.T) string {
		needsFS(t, "erofs", "mkfs.erofs")
		return ""
	}},
	{"erofs with images to write to", "erofs", func(t *testing.T) string {
		needsFS(t, "erofs", "mkfs.erofs", "mkfs.ext4")
		return "[plugins.'io.containerd.snapshotter.v1.erofs']\ndefault_size = '32MiB'\n"
	}},
}

// TestEverySnapshotterRunsContainers pulls an image of two layers, runs it,
// reads it as the client does, and leaves nothing.
func TestEverySnapshotterRunsContainers(t *testing.T) {
	for _, s := range snapshotters {
		t.Run(s.name, func(t *testing.T) {
			host.NeedBuilt(t)
			config := s.config(t)
			registry := host.StartRegistry(t)
			two := registry.Push(t, host.Busybox(t, upperLayer(t)), "library/two:latest")
			one := registry.Push(t, host.Busybox(t), "library/one:latest")
			d := host.Start(t, host.Options{Config: config})
			for _, ref := range []string{two, one} {
				d.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", s.as, ref)
			}
			runsIn(t, d, s.as, two)
			out := d.Ctr(t, "run", "--rm", "--snapshotter", s.as, "--read-only", one, host.Unique("ro"), "sh", "-c", "touch /x 2>/dev/null || cat /etc/group")
			if !strings.Contains(out, "root:x:0") {
				t.Errorf("a read-only container prints %q", out)
			}
			mountedBy(t, d, s.as, two)
			empty(t, d)
		})
	}
}

func runsIn(t *testing.T, d *host.Daemon, snapshotter, ref string) {
	t.Helper()
	out := d.Ctr(t, "run", "--rm", "--snapshotter", snapshotter, "--user", "nobody", ref, host.Unique("ls"), "sh", "-c",
		"id -u; cat /etc/motd; ls /etc; stat -c %a /root /tmp")
	if want := "65534\nhello\nmotd\npasswd\n700\n1777\n"; strings.Join(strings.Fields(out), "\n")+"\n" != want {
		t.Errorf("a container prints %q, want %q", out, want)
	}
	id := host.Unique("keep")
	d.Ctr(t, "run", "-d", "--snapshotter", snapshotter, ref, id, "sleep", "1000")
	defer remove(t, d, id)
	if out := d.Ctr(t, "t", "exec", "--user", "nobody", "--exec-id", "u", id, "id", "-u"); out != "65534\n" {
		t.Errorf("exec as nobody: %q", out)
	}
	d.Ctr(t, "t", "exec", "--exec-id", "w", id, "sh", "-c", "echo written > /etc/motd && rm /etc/passwd")
	if out := d.Ctr(t, "t", "exec", "--exec-id", "r", id, "sh", "-c", "cat /etc/motd /root/implied; ls /etc"); out != "written\nin a directory below\nmotd\n" {
		t.Errorf("the container holds %q", out)
	}
	if out := d.Ctr(t, "snapshots", "--snapshotter", snapshotter, "usage", id); !strings.Contains(out, id) {
		t.Errorf("usage: %q", out)
	}
}

func mountedBy(t *testing.T, d *host.Daemon, snapshotter, ref string) {
	t.Helper()
	at := host.TempDir(t)
	d.Ctr(t, "images", "mount", "--snapshotter", snapshotter, ref, at)
	if data, err := os.ReadFile(filepath.Join(at, "etc/motd")); string(data) != "hello\n" {
		t.Errorf("the mounted image holds %q, %v", data, err)
	}
	d.Ctr(t, "images", "unmount", "--snapshotter", snapshotter, "--rm", at)
	if entries, err := os.ReadDir(at); err != nil || len(entries) != 0 {
		t.Errorf("after unmounting: %v, %v", entries, err)
	}
}

// TestUpstreamAndWeRunEachOthersSnapshots: what one daemon has made of an image
// is run by the other.
func TestUpstreamAndWeRunEachOthersSnapshots(t *testing.T) {
	for _, s := range snapshotters {
		t.Run(s.name, func(t *testing.T) {
			host.NeedBuilt(t)
			host.Need(t, filepath.Join(host.Peers(), "containerd"))
			// Upstream unpacks only for snapshotters that are configured.
			config, dir := s.config(t)+fmt.Sprintf("[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\n"+
				"platform = 'linux/%s'\nsnapshotter = '%s'\ndiffer = 'walking'\n", runtime.GOARCH, s.as), host.TempDir(t)
			ref := host.StartRegistry(t).Push(t, host.Busybox(t, upperLayer(t)), "library/two:latest")
			for _, order := range [][2]string{{host.Bin(), host.Peers()}, {host.Peers(), host.Bin()}} {
				maker := host.Start(t, host.Options{Bin: order[0], Dir: dir, Config: config})
				maker.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", s.as, ref)
				runs(t, maker, s.as, ref)
				maker.Stop(t)
				other := host.Start(t, host.Options{Bin: order[1], Dir: dir, Config: config})
				runs(t, other, s.as, ref)
				other.Ctr(t, "images", "rm", "--sync", ref)
				if out := other.Ctr(t, "snapshots", "--snapshotter", s.as, "ls"); strings.Contains(out, "Committed") {
					t.Errorf("after the image was removed: %s", out)
				}
				other.Stop(t)
			}
		})
	}
}

func runs(t *testing.T, d *host.Daemon, snapshotter, ref string) {
	t.Helper()
	out := d.Ctr(t, "run", "--rm", "--snapshotter", snapshotter, ref, host.Unique("cat"), "sh", "-c", "cat /etc/motd; ls /etc")
	if out != "hello\nmotd\npasswd\n" {
		t.Errorf("a container prints %q", out)
	}
}

// TestAUserNamespaceSeesItsOwnFiles: the layers are shown with shifted owners,
// what is written belongs to the mapped user on the host.
func TestAUserNamespaceSeesItsOwnFiles(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "erofs"} {
		t.Run(snapshotter, func(t *testing.T) {
			if snapshotter == "erofs" {
				needsFS(t, "erofs", "mkfs.erofs")
			}
			d, ref := start(t)
			if err := os.Chmod(d.Dir, 0o711); err != nil { // as /var/lib and /run are
				t.Fatal(err)
			}
			if out := d.Ctr(t, "plugins", "ls", "-d", "id=="+snapshotter); !strings.Contains(out, "remap-ids") {
				t.Skip("the kernel has no overlays of id-mapped mounts (Linux 5.19)")
			}
			d.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", snapshotter, ref)
			id := host.Unique("userns")
			d.Ctr(t, "run", "-d", "--snapshotter", snapshotter, "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--remap-labels", ref, id, "sleep", "1000")
			defer remove(t, d, id)
			out := d.Ctr(t, "t", "exec", "--exec-id", "a", id, "sh", "-c", "cat /proc/self/uid_map; stat -c '%u %g' / /etc/passwd /bin/busybox; echo x > /new; stat -c '%u %g' /new")
			if got, want := strings.Join(strings.Fields(out), " "), "0 100000 65536 0 0 0 0 0 0 0 0"; got != want {
				t.Errorf("the container sees %q, want %q", got, want)
			}
			found := host.Must(t, "find", filepath.Join(d.Dir, "root"), "-name", "new", "-path", "*/fs/new", "-printf", "%U %G")
			if found != "100000 200000" {
				t.Errorf("on the host the file belongs to %q", found)
			}
			passwd := host.Must(t, "find", filepath.Join(d.Dir, "root", "io.containerd.snapshotter.v1."+snapshotter), "-path", "*/fs/etc/passwd", "-printf", "%U")
			if snapshotter == "overlayfs" && passwd != "0" {
				t.Errorf("on the host the layer's file belongs to %q", passwd)
			}
		})
	}
}

// ownedLayer has a file of user 1000 under two names, and a link out of it.
func ownedLayer(t *testing.T) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Name: "mine", Mode: 0o4755, Uid: 1000, Gid: 1000, Typeflag: tar.TypeReg},
		{Name: "also", Linkname: "mine", Typeflag: tar.TypeLink},
		{Name: "link", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A snapshotter that cannot shift owners gets a copy with shifted ones. With
// either there may be several mappings.
func TestSeveralMappingsOfAUserNamespace(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			d := host.Start(t, host.Options{})
			if err := os.Chmod(d.Dir, 0o711); err != nil { // as /var/lib and /run are
				t.Fatal(err)
			}
			able := strings.Contains(d.Ctr(t, "plugins", "ls", "-d", "id=="+snapshotter), "remap-ids")
			if snapshotter == "overlayfs" && !able {
				t.Skip("the kernel has no overlays of id-mapped mounts (Linux 5.19)")
			}
			ref := host.StartRegistry(t).Push(t, host.Busybox(t, ownedLayer(t)), "library/owned:latest")
			d.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", snapshotter, ref)
			maps := []string{"--uidmap", "1000:300000:1", "--uidmap", "0:100000:1000", "--gidmap", "0:200000:1000", "--gidmap", "1000:400000:1"}
			keep := host.Unique("keep") // its snapshot keeps the copy, which the others find
			d.Ctr(t, append(append([]string{"containers", "create", "--snapshotter", snapshotter}, maps...), ref, keep)...)
			for _, id := range []string{host.Unique("a"), host.Unique("b")} {
				args := append([]string{"run", "--rm", "--snapshotter", snapshotter}, maps...)
				out := d.Ctr(t, append(args, ref, id, "sh", "-c", "stat -c '%u %g %a' / /mine /also; test -L /link; wc -l < /proc/self/uid_map; id -u")...)
				if got, want := strings.Join(strings.Fields(out), " "), "0 0 755 1000 1000 4755 1000 1000 4755 2 0"; got != want {
					t.Errorf("the container sees %q, want %q", got, want)
				}
			}
			if snapshotter == "native" {
				found := host.Must(t, "find", filepath.Join(d.Dir, "root"), "-name", "mine", "-uid", "300000", "-gid", "400000")
				if found == "" {
					t.Error("no file belongs to the mapped owner on the host")
				}
				if list := d.Ctr(t, "snapshots", "--snapshotter", "native", "ls"); strings.Count(list, "Committed") != 3 {
					t.Errorf("not two layers and one copy: %s", list)
				}
				fails(t, d, 1, "/also: its owner 1000:1000 is not mapped",
					"run", "--rm", "--snapshotter", "native", "--uidmap", "0:100000:1", "--gidmap", "0:100000:65536", ref, host.Unique("c"), "true")
				if list := d.Ctr(t, "snapshots", "--snapshotter", "native", "ls"); strings.Contains(list, "-remap-") {
					t.Errorf("a copy was left: %s", list)
				}
			}
			d.Ctr(t, "containers", "rm", keep)
		})
	}
}
