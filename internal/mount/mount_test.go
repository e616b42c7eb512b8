// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func mounted(t *testing.T, below string) int {
	t.Helper()
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(below))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func mkdirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadOnlyBind(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	err := WithTemp(t.Context(), t.TempDir(), []Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}, func(root string) error {
		if err := os.WriteFile(root+"/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write through a read-only bind mount: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestManyLayers mounts an overlay whose options are longer than a page.
func TestManyLayers(t *testing.T) {
	needsRoot(t)
	dir, tmp := t.TempDir(), t.TempDir()
	var lower []string
	for i := range 100 {
		d := fmt.Sprintf("%s/snapshots-with-a-rather-long-name/%d/fs", dir, i)
		mkdirs(t, d)
		os.WriteFile(fmt.Sprintf("%s/file%d", d, i), nil, 0o600)
		lower = append(lower, d)
	}
	mkdirs(t, dir+"/upper", dir+"/work")
	m := Mount{Type: "overlay", Source: "overlay", Options: []string{"workdir=" + dir + "/work", "upperdir=" + dir + "/upper", "lowerdir=" + strings.Join(lower, ":")}}
	err := WithTemp(t.Context(), tmp, []Mount{m}, func(root string) error {
		entries, err := os.ReadDir(root)
		if len(entries) != 100 {
			t.Errorf("%d files are visible", len(entries))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFailureUndoesWhatWasMounted(t *testing.T) {
	needsRoot(t)
	dir, at := t.TempDir(), t.TempDir()
	err := All([]Mount{
		{Type: "bind", Source: dir, Options: []string{"rbind"}},
		{Type: "bind", Source: dir + "/missing", Options: []string{"rbind"}},
	}, at)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), dir+"/missing") {
		t.Errorf("All = %v", err)
	}
	if n := mounted(t, at); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

func TestTargetStaysBelow(t *testing.T) {
	needsRoot(t)
	dir, at := t.TempDir(), t.TempDir()
	if err := os.Symlink("/", at+"/out"); err != nil {
		t.Fatal(err)
	}
	mkdirs(t, filepath.Join(at, dir))
	m := Mount{Type: "bind", Source: dir, Target: "out/" + dir, Options: []string{"bind"}}
	if err := All([]Mount{m}, at); err != nil {
		t.Fatal(err)
	}
	if n := mounted(t, at); n != 1 {
		t.Errorf("%d mounts below the target", n)
	}
	if err := UnmountRecursive(at); err != nil || mounted(t, at) != 0 {
		t.Errorf("UnmountRecursive: %v, %d left", err, mounted(t, at))
	}
}

func TestUnmountOfNothing(t *testing.T) {
	needsRoot(t)
	for _, at := range []string{t.TempDir(), "/no/such/dir"} {
		if err := Unmount(at); err != nil {
			t.Error(err)
		}
		if err := UnmountRecursive(at); err != nil {
			t.Error(err)
		}
	}
}

func TestParseOptions(t *testing.T) {
	o := parseOptions([]string{"ro", "nosuid", "rw", "rslave", "X-containerd.mkdir.path=/x", "lowerdir=/a:/b", "size=1m"})
	if o.flags != unix.MS_NOSUID || o.propagation != unix.MS_SLAVE|unix.MS_REC {
		t.Errorf("flags %x, propagation %x", o.flags, o.propagation)
	}
	if !slices.Equal(o.data, []string{"lowerdir=/a:/b", "size=1m"}) {
		t.Errorf("data %q", o.data)
	}
}

func TestReadOnlyOverlayKeepsItsUpper(t *testing.T) {
	got := ReadOnly([]Mount{{Type: "overlay", Options: []string{"workdir=/w", "upperdir=/u", "lowerdir=/l", "index=off"}}})
	if want := []string{"lowerdir=/u:/l", "index=off", "ro"}; !slices.Equal(got[0].Options, want) {
		t.Errorf("got %q, want %q", got[0].Options, want)
	}
}

func TestWithRootMountsForNobodyElse(t *testing.T) {
	needsRoot(t)
	lower, upper := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(lower, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]Mount{
		"bind":    {Type: "bind", Source: lower, Options: []string{"ro", "rbind"}},
		"overlay": {Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + lower + ":" + upper}},
	} {
		before, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		called := false
		err = WithRoot(t.Context(), []Mount{m}, func(root string) error {
			called = true
			if during, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(during) != string(before) {
				t.Errorf("%s: the mount is in the table, %v", name, err)
			}
			r, err := os.OpenRoot(root)
			if err != nil {
				return err
			}
			defer r.Close()
			if data, err := r.ReadFile("f"); err != nil || string(data) != "x" {
				t.Errorf("%s: %q, %v", name, data, err)
			}
			if f, err := r.Create("new"); err == nil {
				f.Close()
				t.Errorf("%s: can be written to", name)
			}
			return nil
		})
		if err != nil || !called {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := WithRoot(t.Context(), []Mount{{Type: "bind", Source: lower + "/none"}}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}
