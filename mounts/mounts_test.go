// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
)

var scope = ident.Scope{Namespace: "a"}

// fixture is a manager on empty directories, and the database that it asks.
type fixture struct {
	*Manager
	dir string
	db  *meta.DB
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir()}
	local, err := content.Open(filepath.Join(f.dir, "content"))
	fatal(t, err)
	f.db, err = meta.Open(filepath.Join(f.dir, "meta.db"), meta.Options{NoSync: true}, local, nil, event.New())
	fatal(t, err)
	fatal(t, os.Mkdir(filepath.Join(f.dir, "root"), 0o700))
	f.open(t)
	t.Cleanup(func() {
		f.Close()
		f.db.Close()
		mount.UnmountRecursive(filepath.Join(f.dir, "state"))
	})
	return f
}

func (f *fixture) open(t *testing.T) {
	t.Helper()
	var err error
	f.Manager, err = Open(Config{State: filepath.Join(f.dir, "state"), Roots: []string{filepath.Join(f.dir, "root")}, DB: f.db})
	fatal(t, err)
}

func (f *fixture) root(parts ...string) string {
	return filepath.Join(append([]string{f.dir, "root"}, parts...)...)
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
}

func isMounted(t *testing.T, path string) bool {
	t.Helper()
	ok, err := mountinfo.Mounted(path)
	return err == nil && ok
}

func TestPlainAndVerifiedMountsGetNoActivation(t *testing.T) {
	f := newFixture(t)
	for _, list := range [][]mount.Mount{
		{{Type: "erofs", Source: "/x", Options: []string{"X-containerd.dmverity=/y"}}},
		nil, {{Type: "bind", Source: "/x"}}, {{Type: "overlay", Options: []string{"lowerdir=/a:/b"}}}, {{Type: "other/overlay"}},
	} {
		_, err := f.Activate(t.Context(), scope, "n", list, Options{})
		if !errdefs.IsNotImplemented(err) {
			t.Errorf("%v: %v, want not implemented", list, err)
		}
	}
	if all, err := f.List(t.Context(), "a"); err != nil || len(all) != 0 {
		t.Errorf("activations %v, %v", all, err)
	}
}

// chain is a mount to be made here and one for the caller that refers to it.
func chain(f *fixture) []mount.Mount {
	return []mount.Mount{
		{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
		{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
			"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{mount 0}}/work",
			"lowerdir=" + f.root(), "upperdir={{ mount 0 }}/upper", "workdir={{ mount 0 }}/work",
		}},
	}
}

func TestAnActivationMountsWhatOthersReferTo(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	info, err := f.Activate(t.Context(), scope, "n", chain(f), Options{Labels: map[string]string{"k": "v"}})
	fatal(t, err)
	point := filepath.Join(f.dir, "state", "t", "1", "1")
	want := fmt.Sprintf("[{overlay overlay  [lowerdir=%s upperdir=%s/upper workdir=%s/work]}]", f.root(), point, point)
	if got := fmt.Sprint(info.System); got != want {
		t.Errorf("system mounts %s, want %s", got, want)
	}
	if len(info.Active) != 1 || info.Active[0].Point != point || !isMounted(t, point) {
		t.Errorf("active mounts %v", info.Active)
	}
	if fi, err := os.Stat(filepath.Join(point, "upper")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("upper directory: %v, %v", fi, err)
	}
	_, err = f.Activate(t.Context(), scope, "n", chain(f), Options{})
	if !errdefs.IsAlreadyExists(err) {
		t.Errorf("same name: %v", err)
	}
	found, err := f.Info(t.Context(), "a", "n")
	fatal(t, err)
	if fmt.Sprint(found.System) != want || found.Active[0].Point != point || found.Active[0].Type != "tmpfs" || found.Labels["k"] != "v" {
		t.Errorf("info %v", found)
	}
	if _, err := f.Info(t.Context(), "b", "n"); !errdefs.IsNotFound(err) {
		t.Errorf("another namespace: %v", err)
	}
	fatal(t, f.Deactivate(t.Context(), "a", "n"))
	if _, err := os.Stat(filepath.Dir(point)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after deactivation: %v", err)
	}
	if err := f.Deactivate(t.Context(), "a", "n"); !errdefs.IsNotFound(err) {
		t.Errorf("second deactivation: %v", err)
	}
}

func TestAFailedActivationLeavesNothing(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	list := append(chain(f), mount.Mount{Type: "format/bind", Source: "{{ mount 7 }}"})
	if _, err := f.Activate(t.Context(), scope, "n", list, Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("activate: %v", err)
	}
	entries, err := os.ReadDir(f.points())
	fatal(t, err)
	if len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
	_, err = f.Activate(t.Context(), scope, "n", chain(f), Options{})
	fatal(t, err)
	fatal(t, f.Deactivate(t.Context(), "a", "n"))
}

func TestARestartKeepsWhatIsMountedOnly(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	for _, name := range []string{"stays", "unmounted", "broken"} {
		_, err := f.Activate(t.Context(), scope, name, chain(f), Options{})
		fatal(t, err)
	}
	fatal(t, mount.UnmountRecursive(f.Manager.dir(2)))
	fatal(t, f.forget(activation{"a", "broken"}))
	fatal(t, f.Close())
	f.open(t)
	all, err := f.List(t.Context(), "a")
	fatal(t, err)
	if len(all) != 1 || all[0].Name != "stays" || !isMounted(t, all[0].Active[0].Point) {
		t.Errorf("activations %v", all)
	}
	entries, err := os.ReadDir(f.points())
	fatal(t, err)
	if len(entries) != 1 || entries[0].Name() != "1" {
		t.Errorf("directories %v", entries)
	}
	fatal(t, f.Deactivate(t.Context(), "a", "stays"))
}

func TestCollectionsTakeWhatHasNoTiesLeft(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	ctx := t.Context()
	containers := f.db.Containers(scope)
	_, err := containers.Create(ctx, meta.Container{
		ID: "c", Spec: &anypb.Any{TypeUrl: "s"}, Runtime: meta.Runtime{Name: "r"}, Labels: map[string]string{"containerd.io/gc.ref.mount.x": "named"},
	})
	fatal(t, err)
	_, err = f.db.Leases("a").Create(ctx, "l", nil)
	fatal(t, err)
	activate := func(name, lease string, labels map[string]string) {
		t.Helper()
		_, err := f.Activate(ctx, ident.Scope{Namespace: "a", Lease: lease}, name, chain(f), Options{Labels: labels})
		fatal(t, err)
	}
	activate("untied", "", nil)
	activate("container", "", map[string]string{"containerd.io/gc.bref.container": "c"})
	activate("leased", "l", nil)
	activate("named", "l", nil)
	activate("both", "l", map[string]string{"containerd.io/gc.bref.container.x": "c"})
	activate("late", "", map[string]string{"containerd.io/gc.expire": "2001-01-01T00:00:00Z"})
	activate("early", "", map[string]string{"containerd.io/gc.expire": "2999-01-01T00:00:00Z"})
	left := func() string {
		t.Helper()
		_, err := f.db.GC(ctx)
		fatal(t, err)
		all, err := f.List(ctx, "a")
		fatal(t, err)
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
		}
		return strings.Join(names, " ")
	}
	if got := left(); got != "both container early leased named untied" {
		t.Errorf("with everything there: %s", got)
	}
	fatal(t, f.db.Leases("a").Delete(ctx, "l"))
	if got := left(); got != "both container early named untied" {
		t.Errorf("without the lease: %s", got)
	}
	fatal(t, containers.Delete(ctx, "c"))
	if got := left(); got != "early untied" {
		t.Errorf("without the container: %s", got)
	}
	fatal(t, f.Deactivate(ctx, "a", "early"))
	fatal(t, f.Deactivate(ctx, "a", "untied"))
}

func TestAnImageIsMadeAndMounted(t *testing.T) {
	needsRoot(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("no mkfs.ext4")
	}
	f := newFixture(t)
	list := []mount.Mount{
		{Type: "mkfs/ext4", Source: f.root("disk.img"), Options: []string{
			"X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.uuid=550e8400-e29b-41d4-a716-446655440000", "loop",
		}},
		{Type: "format/bind", Source: "{{ mount 0 }}", Options: []string{"bind"}},
	}
	_, err := f.Activate(t.Context(), scope, "n", list, Options{})
	if err != nil && strings.Contains(err.Error(), "loop") {
		t.Skipf("no loop devices here: %v", err)
	}
	fatal(t, err)
	if fi, err := os.Stat(f.root("disk.img")); err != nil || fi.Size() != 8<<20 {
		t.Errorf("image %v, %v", fi, err)
	}
	fatal(t, f.Deactivate(t.Context(), "a", "n"))
	list[0].Source, list[0].Options[1] = f.root("none.img"), "X-containerd.mkfs.size=0"
	if _, err := f.Activate(t.Context(), scope, "n", list, Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an image of no size: %v", err)
	}
}

func TestATemporaryActivationMountsEverything(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	plain := []mount.Mount{{Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}}}
	info, err := f.Activate(t.Context(), scope, "n", plain, Options{Temporary: true})
	fatal(t, err)
	point := filepath.Join(f.dir, "state", "t", "1", "1")
	if got, want := fmt.Sprint(info.System), "[{bind "+point+"  [rbind]}]"; got != want || !isMounted(t, point) {
		t.Errorf("system mounts %s, want %s", got, want)
	}
	fatal(t, f.Deactivate(t.Context(), "a", "n"))
	if _, err := f.Activate(t.Context(), scope, "n", nil, Options{Temporary: true}); !errdefs.IsNotImplemented(err) {
		t.Errorf("no mounts: %v", err)
	}
}

func TestRootfsOfATask(t *testing.T) {
	needsRoot(t)
	f := newFixture(t)
	ctx := t.Context()
	plain := []mount.Mount{{Type: "bind", Source: "/x"}}
	got, err := f.Rootfs(ctx, "a", "c", plain)
	if fmt.Sprint(got) != fmt.Sprint(plain) || err != nil {
		t.Errorf("plain mounts became %v, %v", got, err)
	}
	for range 2 { // the second task of the container finds the mounts of the first
		got, err = f.Rootfs(ctx, "a", "c", chain(f))
		fatal(t, err)
		if len(got) != 1 || got[0].Type != "overlay" {
			t.Errorf("mounts for the shim %v", got)
		}
	}
	_, err = f.db.GC(ctx)
	fatal(t, err)
	if _, err := f.Info(ctx, "a", "c"); !errdefs.IsNotFound(err) {
		t.Errorf("without its container: %v", err)
	}
	verified := []mount.Mount{{Type: "erofs", Source: "/x", Options: []string{"X-containerd.dmverity=/y"}}}
	if _, err := f.Rootfs(ctx, "a", "c", verified); !errdefs.IsNotImplemented(err) {
		t.Errorf("what cannot be done is passed on: %v", err)
	}
}
