// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	testPasswd = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100::/home/bob:/bin/sh\nfar:x:1:4294967296::/:/bin/sh\n5:x:77:77::/:/bin/sh\n"
	testGroup  = "root:x:0:\nwheel:x:10:root,bob\nusers:x:100:\naudio:x:29:bob\n"
)

func rootfs(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"passwd": testPasswd, "group": testGroup} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func userOf(t *testing.T, name, root string) (specs.User, error) {
	s := Default("n", "i")
	err := Apply(t.Context(), s, WithUser(name, root))
	return s.Process.User, err
}

func TestUsersAreLookedUpInTheRoot(t *testing.T) {
	root := rootfs(t)
	for _, c := range []struct {
		name     string
		uid, gid uint32
		more     []uint32
	}{
		{"", 0, 0, []uint32{0, 10}},
		{"root", 0, 0, []uint32{0, 10}},
		{"bob", 1000, 100, []uint32{100, 10, 29}},
		{"1000", 1000, 100, []uint32{100, 10, 29}},
		{"bob:audio", 1000, 29, []uint32{29, 10}},
		{"bob:7", 1000, 7, []uint32{7, 10, 29}},
		{"bob:", 1000, 0, []uint32{0, 10, 29}},
		{":29", 0, 29, []uint32{29, 10}},
		{":", 0, 0, []uint32{0, 10}},
		{"4000", 4000, 0, []uint32{0}},
		{"4000:4001", 4000, 4001, []uint32{4001}},
		{"5", 5, 0, []uint32{0}}, // a number is never a name
	} {
		got, err := userOf(t, c.name, root)
		if want := (specs.User{UID: c.uid, GID: c.gid, AdditionalGids: c.more}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", c.name, got, err)
		}
	}
}

func TestUsersThatAreNotThere(t *testing.T) {
	root := rootfs(t)
	for _, name := range []string{"alice", "bob:none", "Bob"} {
		if _, err := userOf(t, name, root); !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"a:b:c", "-1", "2147483648", "0:4294967296", "99999999999999999999", "far"} {
		if _, err := userOf(t, name, root); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, root := range []string{"", t.TempDir()} {
		if u, err := userOf(t, "7:8", root); err != nil || u.UID != 7 || u.GID != 8 {
			t.Errorf("numbers in root %q: %+v, %v", root, u, err)
		}
		if _, err := userOf(t, "bob", root); !errdefs.IsNotFound(err) {
			t.Errorf("a name in root %q: %v", root, err)
		}
	}
}

// The secret file outside the root names a user that must never be found.
func TestSymlinksStayInTheRoot(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("eve:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40)
	for claim, make := range map[string]func(root string) error{
		"an absolute link":        func(root string) error { return relink(root, "etc/passwd", outside) },
		"a link that climbs":      func(root string) error { return relink(root, "etc/passwd", up+outside[1:]) },
		"a directory that climbs": func(root string) error { return relink(root, "etc", up+filepath.Dir(outside)[1:]) },
		"a magic link":            func(root string) error { return relink(root, "etc/passwd", "/proc/self/root"+outside) },
	} {
		root := rootfs(t)
		if err := make(root); err != nil {
			t.Fatal(err)
		}
		if u, err := userOf(t, "eve", root); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %+v, %v", claim, u, err)
		}
	}
	root := rootfs(t)
	if err := os.Rename(filepath.Join(root, "etc/passwd"), filepath.Join(root, "users")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/users", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	if u, err := userOf(t, "bob", root); err != nil || u.UID != 1000 {
		t.Errorf("an absolute link within the root: %+v, %v", u, err)
	}
}

func relink(root, name, target string) error {
	path := filepath.Join(root, name)
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

func TestOtherThanFilesAreNotRead(t *testing.T) {
	for claim, make := range map[string]func(path string) error{
		"a FIFO":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"a huge file": func(path string) error { return sparse(path, maxDatabase+1) },
	} {
		root := rootfs(t)
		path := filepath.Join(root, "etc/passwd")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		done := timeBomb(t, claim)
		if _, err := userOf(t, "bob", root); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", claim, err)
		}
		done()
	}
}

func sparse(path string, size int64) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// timeBomb ends the test run if the returned function is not called in time.
func timeBomb(t *testing.T, claim string) func() {
	timer := time.AfterFunc(10*time.Second, func() { panic(claim + " blocks") })
	return func() { timer.Stop() }
}
