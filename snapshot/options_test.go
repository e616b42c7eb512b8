// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/internal/erofs"
	"slipway/internal/mount"
	"slipway/snapshot"
)

func TestOverlayOptions(t *testing.T) {
	s, err := snapshot.OpenOverlay(t.TempDir(), snapshot.OverlayOpts{MountOptions: []string{"metacopy=off", "index=on"}, UpperLabel: true, SyncRemove: true})
	s = opened(t, s, err)
	commit(t, s, "one", "")
	list, err := s.Prepare(t.Context(), "x", "one", map[string]string{
		"containerd.io/snapshot/uidmapping": "0:1000:10", "containerd.io/snapshot/gidmapping": "0:2000:10",
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.Root(), "snapshots/2")
	want := []string{"workdir=" + dir + "/work", "upperdir=" + dir + "/fs", "lowerdir=" + s.Root() + "/snapshots/1/fs", "metacopy=off", "index=on"}
	if slices.Contains(s.Capabilities(), "remap-ids") {
		want = append([]string{"uidmap=0:1000:10", "gidmap=0:2000:10"}, want...)
	}
	if !slices.Equal(list[0].Options, want) {
		t.Errorf("options %q, want %q", list[0].Options, want)
	}
	fi, err := os.Stat(dir + "/fs")
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); os.Getuid() == 0 && (st.Uid != 1000 || st.Gid != 2000) {
		t.Errorf("the upper directory belongs to %d:%d", st.Uid, st.Gid)
	}
	info, err := s.Stat(t.Context(), "x")
	if err != nil || info.Labels["containerd.io/snapshot/overlay.upperdir"] != dir+"/fs" {
		t.Errorf("labels %v, %v", info.Labels, err)
	}
	walked := 0
	err = s.Walk(t.Context(), func(i snapshot.Info) error { walked++; return nil }, "labels.\"containerd.io/snapshot/overlay.upperdir\"")
	if err != nil || walked != 2 {
		t.Errorf("%d snapshots have the label, %v", walked, err)
	}
	if err := s.Remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a removal that waits: %v", err)
	}
}

func TestOverlayCapabilities(t *testing.T) {
	s, err := snapshot.OpenOverlay(t.TempDir(), snapshot.OverlayOpts{SlowChown: true})
	s = opened(t, s, err)
	able := overlay(t).Capabilities()
	if slow := s.Capabilities(); slices.Contains(slow, "only-remap-ids") || slices.Contains(slow, "remap-ids") != mount.IDMapsOverlay() {
		t.Errorf("with slow chown: %v", slow)
	}
	if slices.Contains(able, "only-remap-ids") != mount.IDMapsOverlay() || !slices.Contains(able, "rebase") {
		t.Errorf("without: %v", able)
	}
}

// inNamespace is the driver of a process in a user namespace, which describes
// an overlay store.
const inNamespace = "overlayfs in a user namespace"

func describe(ctx context.Context, _, root string) error {
	s, err := snapshot.OpenOverlay(root, snapshot.OverlayOpts{})
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Prepare(ctx, "a", "", nil); err != nil {
		return err
	}
	if err := s.Commit(ctx, "b", "a", snapshot.CommitOpts{}); err != nil {
		return err
	}
	list, err := s.Prepare(ctx, "c", "b", nil)
	if err != nil {
		return err
	}
	fmt.Println(s.Capabilities(), list[0].Options[3:])
	return mount.WithTemp(ctx, root, list, func(string) error { return nil })
}

// TestOverlayInAUserNamespace keeps its notes in attributes that are open to
// it, and does not promise what needs the host's.
func TestOverlayInAUserNamespace(t *testing.T) {
	root := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashing+"="+inNamespace+":"+root)
	ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid()),
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) || strings.Contains(stderr.String(), "operation not permitted") {
		t.Skipf("no overlays in user namespaces here (Linux 5.11): %v %s", err, stderr.String())
	}
	if err != nil || strings.Contains(string(out), "rebase") || !strings.Contains(string(out), "userxattr") {
		t.Errorf("%s%s, %v; want userxattr, and no rebase", out, stderr.String(), err)
	}
}

func TestBlockfileNeedsAScratchFileOnce(t *testing.T) {
	root := t.TempDir()
	var unsupported *snapshot.UnsupportedError
	if _, err := snapshot.OpenBlockfile(root, snapshot.BlockfileOpts{}); !errors.As(err, &unsupported) {
		t.Errorf("without one: %v", err)
	}
	scratch := filepath.Join(t.TempDir(), "scratch")
	for i, c := range []struct {
		content  string
		recreate bool
		want     string
	}{{"first", false, "first"}, {"second", false, "first"}, {"second", true, "second"}} {
		if err := os.WriteFile(scratch, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := snapshot.OpenBlockfile(root, snapshot.BlockfileOpts{Scratch: scratch, Recreate: c.recreate, FSType: "xfs", Options: []string{"nouuid"}})
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.Prepare(t.Context(), strings.Repeat("k", i+1), "", nil)
		s.Close()
		if err != nil {
			t.Fatal(err)
		}
		if m := list[0]; m.Type != "xfs" || !slices.Equal(m.Options, []string{"nouuid", "loop", "rw"}) {
			t.Errorf("mount %+v", m)
		}
		if got, err := os.ReadFile(list[0].Source); string(got) != c.want {
			t.Errorf("the snapshot holds %q, %v; want %q", got, err, c.want)
		}
	}
}

// TestBlockfileKeepsHoles: an image of a file system is mostly empty.
func TestBlockfileKeepsHoles(t *testing.T) {
	scratch := filepath.Join(t.TempDir(), "scratch")
	f, err := os.Create(scratch)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), 32<<20); err != nil {
		t.Fatal(err)
	}
	s, err := snapshot.OpenBlockfile(t.TempDir(), snapshot.BlockfileOpts{Scratch: scratch})
	s = opened(t, s, err)
	list, err := s.Prepare(t.Context(), "x", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(list[0].Source)
	if err != nil || len(got) != size || !bytes.Equal(got[32<<20:32<<20+4], []byte("data")) {
		t.Errorf("the copy has %d bytes, %v", len(got), err)
	}
	fi, err := os.Stat(list[0].Source)
	if err != nil {
		t.Fatal(err)
	}
	if on := fi.Sys().(*syscall.Stat_t).Blocks * 512; on > 1<<20 {
		t.Errorf("the copy occupies %d bytes", on)
	}
}

func TestBtrfsNeedsBtrfs(t *testing.T) {
	s, err := snapshot.OpenBtrfs(t.TempDir())
	if err == nil {
		s.Close()
		t.Skip("temporary directories are on btrfs")
	}
	var unsupported *snapshot.UnsupportedError
	if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "must be a btrfs filesystem") {
		t.Errorf("on another file system: %v", err)
	}
}

// TestErofsWithVerity: an image that the kernel does not check is not used.
func TestErofsWithVerity(t *testing.T) {
	needs(t, "ext4", "mkfs.ext4", "mkfs.erofs")
	root := mounted(t, empty(t, "ext4", 16<<20, "-q", "-F", "-b", "4096", "-O", "verity"), "ext4")
	s, err := snapshot.OpenErofs(root, snapshot.ErofsOpts{Verity: true})
	if errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("the kernel has no fs-verity")
	}
	s = opened(t, s, err)
	commit(t, s, "one", "")
	list, err := s.View(t.Context(), "view", "one", nil)
	if err != nil {
		t.Fatal(err)
	}
	if on, err := erofs.HasVerity(list[0].Source); !on || err != nil {
		t.Errorf("the image has verity: %v, %v", on, err)
	}
	if err := os.Rename(list[0].Source, list[0].Source+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list[0].Source, []byte("another image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mounts(t.Context(), "view"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mounts of an image without: %v", err)
	}
}

// TestErofsMounts is the form that clients know.
func TestErofsMounts(t *testing.T) {
	needs(t, "erofs", "mkfs.erofs")
	s, err := snapshot.OpenErofs(t.TempDir(), snapshot.ErofsOpts{OverlayOptions: []string{"metacopy=off"}, Immutable: true})
	s = opened(t, s, err)
	commit(t, s, "one", "")    // id 1
	commit(t, s, "two", "one") // id 2, rebased
	dir := filepath.Join(s.Root(), "snapshots")
	lower := func(id string) mount.Mount {
		return mount.Mount{Type: "erofs", Source: dir + "/" + id + "/layer.erofs", Options: []string{"ro", "loop"}}
	}
	top := mount.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
		"workdir=" + dir + "/3/work", "upperdir=" + dir + "/3/fs", "lowerdir={{ overlay 0 1 }}", "metacopy=off",
	}}
	list, err := s.Prepare(t.Context(), "top", "two", nil)
	if want := []mount.Mount{lower("2"), lower("1"), top}; err != nil || !equalMounts(list, want) {
		t.Errorf("active: %v, %v; want %v", list, err, want)
	}
	list, err = s.View(t.Context(), "view", "one", nil)
	if want := []mount.Mount{lower("1")}; err != nil || !equalMounts(list, want) {
		t.Errorf("view of one layer: %v, %v; want %v", list, err, want)
	}
	if err := os.Remove(dir + "/1/layer.erofs"); err == nil {
		t.Log("the file system has no immutable files")
	}
	for _, key := range []string{"view", "top", "two", "one"} {
		if err := s.Remove(t.Context(), key); err != nil {
			t.Errorf("remove %s: %v", key, err)
		}
	}
	if err := s.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func equalMounts(a, b []mount.Mount) bool {
	return slices.EqualFunc(a, b, func(a, b mount.Mount) bool {
		return a.Type == b.Type && a.Source == b.Source && slices.Equal(a.Options, b.Options)
	})
}

// TestErofsUsesTheImageOfADiffer, but not what an interrupted commit left.
func TestErofsUsesTheImageOfADiffer(t *testing.T) {
	needs(t, "erofs", "mkfs.erofs")
	s, err := snapshot.OpenErofs(t.TempDir(), snapshot.ErofsOpts{})
	s = opened(t, s, err)
	for id, written := range map[string]bool{"1": false, "2": true} {
		list, err := s.Prepare(t.Context(), "x", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(filepath.Dir(list[0].Source), erofs.Image)
		if err := os.WriteFile(image, []byte("there already"), 0o600); err != nil {
			t.Fatal(err)
		}
		if written {
			if err := os.WriteFile(filepath.Join(list[0].Source, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Commit(t.Context(), "layer "+id, "x", snapshot.CommitOpts{}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(image)
		if kept := string(got) == "there already"; err != nil || kept == written {
			t.Errorf("written to: %v; the image was kept: %v, %v", written, kept, err)
		}
	}
}

// TestErofsWithoutItsProgramSaysSo, and the snapshot stays as it was.
func TestErofsWithoutItsProgramSaysSo(t *testing.T) {
	needs(t, "erofs")
	s, err := snapshot.OpenErofs(t.TempDir(), snapshot.ErofsOpts{})
	s = opened(t, s, err)
	if _, err := s.Prepare(t.Context(), "x", "", nil); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	err = s.Commit(t.Context(), "y", "x", snapshot.CommitOpts{})
	if !errdefs.IsFailedPrecondition(err) || !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "erofs-utils") {
		t.Errorf("commit: %v", err)
	}
	if info, err := s.Stat(t.Context(), "x"); err != nil || info.Kind != snapshot.Active {
		t.Errorf("afterwards: %+v, %v", info, err)
	}
}
