// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/test/host"
	"slipway/test/hub"
)

func TestBadNamesAreNamed(t *testing.T) {
	d, ref := start(t)
	registry, _, _ := strings.Cut(ref, "/")
	closed := fmt.Sprintf("127.0.0.1:%d", host.FreePort(t))
	d.Ctr(t, "c", "create", ref, "taken")
	defer d.Ctr(t, "c", "rm", "taken")
	for _, c := range []struct {
		text string
		args []string
	}{
		{registry + "/library/busybox:nosuch: not found", []string{"i", "pull", "--plain-http", registry + "/library/busybox:nosuch"}},
		{"not found", []string{"i", "pull", "--plain-http", registry + "/library/nosuch:latest"}},
		{"connection refused", []string{"i", "pull", "--plain-http", closed + "/library/busybox:latest"}},
		{"busybox:nosuch", []string{"run", "--rm", "busybox:nosuch", "x"}},
		{`"taken": already exists`, []string{"c", "create", ref, "taken"}},
		{"nosuch", []string{"t", "exec", "--exec-id", "1", "nosuch", "ls"}},
		{"nosuch", []string{"t", "kill", "nosuch"}},
		{"nosuch", []string{"c", "info", "nosuch"}},
		{"../x", []string{"c", "create", ref, "../x"}},
	} {
		fails(t, d, 1, c.text, c.args...)
	}
	remaining := strings.TrimSpace(d.Ctr(t, "c", "ls", "-q"))
	if remaining != "taken" {
		t.Errorf("containers %q", remaining)
	}
}

func TestCommandThatDoesNotExist(t *testing.T) {
	d, ref := start(t)
	fails(t, d, 1, `exec: "nosuch": executable file not found in $PATH`, "run", "--rm", ref, "x", "nosuch")
	d.Ctr(t, "run", "-d", ref, "up")
	fails(t, d, 1, `exec: "nosuch": executable file not found in $PATH`, "t", "exec", "--exec-id", "e", "up", "nosuch")
	if out := d.Ctr(t, "t", "exec", "--exec-id", "e", "up", "echo", "again"); out != "again\n" {
		t.Errorf("the exec id is not free again: %q", out)
	}
	remove(t, d, "up")
	empty(t, d)
}

// An index without the platform is refused. A manifest that is named itself is
// taken as it is, since an emulator may run it; without one the kernel refuses.
func TestImageOfAnotherPlatform(t *testing.T) {
	d := host.Start(t, host.Options{})
	h := hub.New(t, hub.Options{})
	foreign := h.Image("foreign", "v1", "s390x", host.Layer(t, host.Entry{Name: "true", Mode: 0o755, Content: []byte("\x7fELF of another machine")}))
	h.Index("foreign", "index", foreign)
	fails(t, d, 1, "no match for platform in manifest", pullArgs(h.Ref("foreign", "index"))...)
	fails(t, d, 1, h.Ref("foreign", "index"), "run", "--rm", h.Ref("foreign", "index"), "x", "true")
	if out := d.Ctr(t, "i", "ls", "-q"); out != "" {
		t.Errorf("images: %q", out)
	}
	d.Ctr(t, pullArgs("--platform", "linux/s390x", h.Ref("foreign", "index"))...)
	fails(t, d, 1, "no match for platform in manifest", "run", "--rm", h.Ref("foreign", "index"), "x", "/true")
	d.Ctr(t, pullArgs(h.Ref("foreign", "v1"))...)
	fails(t, d, 0, "exec format error", "run", "--rm", h.Ref("foreign", "v1"), "x", "/true")
	empty(t, d)
}

// full fills the file system of dir but for free bytes.
func full(t *testing.T, dir string, free int64) (emptied func()) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "filler")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-free); err != nil {
		t.Fatal(err)
	}
	return func() { os.Remove(file) }
}

// memoryDir is a directory with a file system of its own, in memory.
func memoryDir(t *testing.T, size string) string {
	t.Helper()
	dir := host.TempDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDisk(t *testing.T) {
	host.NeedBuilt(t)
	ref := host.StartRegistry(t).Push(t, host.Busybox(t), "library/busybox:latest")
	dir := memoryDir(t, "24m")
	d := host.Start(t, host.Options{Dir: dir})
	for _, free := range []int64{64 << 10, 1 << 20, 2 << 20} {
		emptied := full(t, dir, free)
		fails(t, d, 1, "no space left on device", "i", "pull", "--plain-http", ref)
		emptied()
		empty(t, d)
	}
	d.Ctr(t, "i", "pull", "--plain-http", ref)
	emptied := full(t, dir, 0)
	fails(t, d, 1, "no space left on device", "run", "--rm", ref, "x", "true")
	emptied()
	empty(t, d)
	if out := d.Ctr(t, "run", "--rm", ref, "y", "echo", "well"); out != "well\n" {
		t.Errorf("after the disk was full: %q", out)
	}
}

// A server that accepts and says nothing is given up when the client is.
func TestPullEndsWithItsClient(t *testing.T) {
	d := host.Start(t, host.Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	pull := startCtr(t, d, "i", "pull", "--plain-http", l.Addr().String()+"/library/busybox:latest")
	c := <-accepted
	defer c.Close()
	pull.Process.Kill()
	pull.Wait()
	host.Until(t, "the lease of the pull is gone", func() bool { return strings.TrimSpace(d.Ctr(t, "leases", "ls", "-q")) == "" })
	empty(t, d)
}
