// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func ownersOf(t *testing.T, path string) [2]uint32 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}
}

// TestMappedMountsShiftOwners: of an overlay what is below, of a bind mount
// all. Nothing stays mounted elsewhere.
func TestMappedMountsShiftOwners(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if !IDMapsOverlay() {
		t.Skip("the kernel has no overlays of id-mapped mounts (Linux 5.19)")
	}
	dir := t.TempDir()
	for _, sub := range []string{"a", "b", "upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"a/root", "b/user"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "b/user"), 5, 6); err != nil {
		t.Fatal(err)
	}
	maps := []string{"uidmap=0:100000:10", "gidmap=0:200000:3,3:300000:10"}
	for name, m := range map[string]Mount{
		"overlay": {Type: "overlay", Source: "overlay", Options: append(maps,
			"workdir="+dir+"/work", "upperdir="+dir+"/upper", "lowerdir="+dir+"/a:"+dir+"/b")},
		"bind": {Type: "bind", Source: dir + "/b", Options: append(maps, "rbind", "ro")},
	} {
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(dir, "at")
			if err := All([]Mount{m}, at); err != nil {
				t.Fatal(err)
			}
			defer Unmount(at)
			if got := ownersOf(t, at+"/user"); got != [2]uint32{100005, 300003} {
				t.Errorf("owner of user: %v", got)
			}
			if name == "overlay" && ownersOf(t, at+"/root") != [2]uint32{100000, 200000} {
				t.Errorf("owner of root: %v", ownersOf(t, at+"/root"))
			}
		})
	}
}

func TestIDMapsAreChecked(t *testing.T) {
	for _, options := range [][]string{
		{"uidmap=0:1:1"}, {"uidmap=0:1", "gidmap=0:1:1"}, {"uidmap=0:1:0", "gidmap=0:1:1"}, {"uidmap=0:-1:1", "gidmap=0:1:1"},
		{"uidmap=0:1:1,", "gidmap=0:1:1"}, {"uidmap=0:1:99999999999", "gidmap=0:1:1"},
	} {
		err := All([]Mount{{Type: "bind", Source: "/", Options: options}}, t.TempDir())
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want an invalid argument", options, err)
		}
	}
}

func FuzzParseIDMaps(f *testing.F) {
	for _, seed := range []string{"", "0:1000:1", "0:0:4294967295,1:2:3", "::", "0:1:2:3", "-1:0:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		maps, err := parseIDMaps(text)
		if err == nil && len(maps) == 0 {
			t.Errorf("%q: neither mappings nor an error", text)
		}
	})
}
