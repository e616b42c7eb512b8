// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/internal/mount"
)

var three = []Active{
	{Mount: mount.Mount{Source: "/s0", Target: "/t0"}, Point: "/m0"}, {Mount: mount.Mount{Source: "/s1"}, Point: "/m1"}, {Point: "/m2"},
}

func TestPlaceholdersAreReplaced(t *testing.T) {
	for text, want := range map[string]string{
		"plain": "plain", "{{ mount 0 }}/x": "/m0/x", "{{source 1}}:{{ target 0 }}": "/s1:/t0", "lowerdir={{ overlay 0 2 }}": "lowerdir=/m0:/m1:/m2",
		"{{ overlay 2 0 }}": "/m2:/m1:/m0", "{{ overlay 1 1 }}": "/m1",
	} {
		if got, err := expand(text, three); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, bad := range []string{"{{ mount 3 }}", "{{ mount }}", "{{ overlay 0 }}", "{{ mount 0 1 }}", "{{ exec 1 }}", "{{ range 9 }}", "{{", "{{ mount 99999999999999999999 }}"} {
		if got, err := expand(bad, three); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %q, %v", bad, got, err)
		}
	}
}

func FuzzPlaceholders(f *testing.F) {
	for _, s := range []string{"{{ mount 0 }}", "{{overlay 0 2}}x{{", "}}{{source 1}}", "{{ mount -1 }}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := expand(text, three)
		if err == nil && !strings.Contains(text, "{{") && got != text {
			t.Errorf("%q became %q", text, got)
		}
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestFirstSystemMount(t *testing.T) {
	for types, want := range map[string]int{
		"bind": -1, "erofs": 1, "erofs erofs overlay": 2, "bind format/overlay": 1, "erofs bind format/overlay": 2, "mkdir/bind": 0, "mkfs/ext4 format/mkdir/overlay": 1,
	} {
		var list []mount.Mount
		for _, k := range strings.Fields(types) {
			list = append(list, mount.Mount{Type: k})
		}
		first, needed := firstSystem(list)
		if !needed {
			first = -1
		}
		if first != want {
			t.Errorf("%s: %d, want %d", types, first, want)
		}
	}
}

func TestDirectoriesAreMadeBelowTheRootsOnly(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	m := &Manager{roots: []string{root}}
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		outside + "/x", root + "/../x", "relative", root, root + "/link/x", root + "/a:999", root + "/a:0755:1", root + "/a:0755:x:1", root + "/a:0755:1:1:1", "",
	} {
		if err := m.mkdir([]string{optionMkdir + "path=" + bad}); err == nil {
			t.Errorf("%q: made", bad)
		}
	}
	if err := m.mkdir([]string{optionMkdir + "other=1"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown option: %v", err)
	}
	if err := m.mkdir([]string{"ro", optionMkdir + "path=" + root + "/a/b:0711"}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(root, "a/b")); err != nil || fi.Mode().Perm() != 0o711 {
		t.Errorf("directory %v, %v", fi, err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Errorf("made outside: %v", entries)
	}
}

func TestMkfsCommands(t *testing.T) {
	const uuid = "550e8400-e29b-41d4-a716-446655440000"
	for want, settings := range map[string]map[string]string{
		"mkfs.ext4 -q -F /i":                  {"fs": "ext4"},
		"mkfs.ext2 -q -U " + uuid + " -F /i":  {"fs": "ext2", "uuid": uuid},
		"mkfs.xfs -q -m uuid=" + uuid + " /i": {"fs": "xfs", "uuid": uuid},
	} {
		if got, err := mkfsCommand(settings, "/i"); err != nil || !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%v: %v, %v, want %s", settings, got, err, want)
		}
	}
	for _, bad := range []map[string]string{{"fs": "vfat"}, {"fs": "../x"}, {"fs": "ext4", "uuid": "-E x"}} {
		if _, err := mkfsCommand(bad, "/i"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "1k": 1 << 10, "100MiB": 100 << 20, "2 GB": 2 << 30, "1T": 1 << 40, "7b": 7, "0": 0, "0.5G": 1 << 29, "1.5 MiB": 3 << 19, "2p": 2 << 50} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "-1", "x", "1Q", "9999999999T", "MiB", "1kk", "nan", "inf", "1.5.1"} {
		if n, err := ParseSize(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %d, %v", bad, n, err)
		}
	}
}
