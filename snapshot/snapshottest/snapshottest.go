// SPDX-License-Identifier: Apache-2.0

// Package snapshottest is the contract of snapshot.Snapshotter as a test
// suite. It mounts, so it needs root.
package snapshottest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"slipway/internal/mount"
	"slipway/snapshot"
)

// A Suite says how to check an implementation; Open is required.
type Suite struct {
	// Open returns an empty Snapshotter. It is called for each case.
	Open func(*testing.T) snapshot.Snapshotter
	// Mount performs mounts while fn runs. The default does it as they are.
	Mount func(t *testing.T, mounts []mount.Mount, fn func(root string) error) error
	// Images says that usage is that of an image, not of the files in it.
	Images bool
}

// Run checks the Snapshotter that open returns. Each case gets an empty one.
func Run(t *testing.T, open func(*testing.T) snapshot.Snapshotter) { Suite{Open: open}.Run(t) }

// subject is the Snapshotter of one case.
type subject struct {
	snapshot.Snapshotter
	suite Suite
}

// Run checks the implementation.
func (u Suite) Run(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if u.Mount == nil {
		u.Mount = func(t *testing.T, mounts []mount.Mount, fn func(root string) error) error {
			return mount.WithTemp(t.Context(), t.TempDir(), mounts, fn)
		}
	}
	for _, c := range []struct {
		claim string
		check func(*testing.T, subject)
	}{
		{"a child shows what its parents hold", layers},
		{"a change of a child does not reach its parent", isolation},
		{"a view cannot be written", views},
		{"only a committed snapshot may be a parent", parents},
		{"names are used once", names},
		{"a parent cannot be removed", removal},
		{"an absent snapshot is not found", absent},
		{"labels", labels},
		{"usage counts what a snapshot adds", usage},
		{"walk filters and sorts", walk},
		{"many may be made at once", concurrent},
		{"cleanup keeps what is in use", cleanup},
	} {
		t.Run(c.claim, func(t *testing.T) {
			c.check(t, subject{u.Open(t), u})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// prepare makes an active snapshot and runs fn in it.
func prepare(t *testing.T, s subject, key, parent string, fn func(root string)) {
	t.Helper()
	mounts, err := s.Prepare(t.Context(), key, parent, nil)
	must(t, err)
	s.inside(t, mounts, fn)
}

func (s subject) inside(t *testing.T, mounts []mount.Mount, fn func(root string)) {
	t.Helper()
	must(t, s.suite.Mount(t, mounts, func(root string) error {
		fn(root)
		return nil
	}))
}

func write(t *testing.T, root, name, data string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
	must(t, os.WriteFile(filepath.Join(root, name), []byte(data), 0o644))
}

func holds(t *testing.T, root, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(root, name))
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
	}
}

// layer commits a snapshot that holds one file.
func layer(t *testing.T, s subject, name, parent, file string) {
	t.Helper()
	prepare(t, s, name+"-active", parent, func(root string) { write(t, root, file, name) })
	must(t, s.Commit(t.Context(), name, name+"-active", snapshot.CommitOpts{}))
}

func layers(t *testing.T, s subject) {
	layer(t, s, "one", "", "a")
	layer(t, s, "two", "one", "dir/b")
	layer(t, s, "three", "two", "a")
	prepare(t, s, "top", "three", func(root string) {
		holds(t, root, "a", "three")
		holds(t, root, "dir/b", "two")
	})
	info, err := s.Stat(t.Context(), "three")
	if err != nil || info.Kind != snapshot.Committed || info.Parent != "two" || info.Name != "three" {
		t.Errorf("Stat = %+v, %v", info, err)
	}
}

func isolation(t *testing.T, s subject) {
	layer(t, s, "base", "", "a")
	prepare(t, s, "x", "base", func(root string) {
		must(t, os.Remove(filepath.Join(root, "a")))
		write(t, root, "b", "x")
	})
	prepare(t, s, "y", "base", func(root string) {
		holds(t, root, "a", "base")
		if _, err := os.Stat(filepath.Join(root, "b")); !os.IsNotExist(err) {
			t.Errorf("the sibling's file: %v", err)
		}
	})
	mounts, err := s.Mounts(t.Context(), "x")
	must(t, err)
	s.inside(t, mounts, func(root string) {
		holds(t, root, "b", "x")
		if _, err := os.Stat(filepath.Join(root, "a")); !os.IsNotExist(err) {
			t.Errorf("the removed file: %v", err)
		}
	})
}

func views(t *testing.T, s subject) {
	layer(t, s, "one", "", "a")
	layer(t, s, "two", "one", "b")
	for _, parent := range []string{"", "one", "two"} {
		mounts, err := s.View(t.Context(), "view of "+parent, parent, nil)
		must(t, err)
		s.inside(t, mounts, func(root string) {
			if err := os.WriteFile(filepath.Join(root, "c"), nil, 0o600); err == nil {
				t.Errorf("a view of %q can be written", parent)
			}
		})
	}
	if err := s.Commit(t.Context(), "no", "view of one", snapshot.CommitOpts{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("commit of a view: %v", err)
	}
}

func parents(t *testing.T, s subject) {
	prepare(t, s, "active", "", func(string) {})
	if _, err := s.Prepare(t.Context(), "x", "active", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("active parent: %v", err)
	}
	if _, err := s.View(t.Context(), "x", "nothing", nil); !errdefs.IsNotFound(err) {
		t.Errorf("absent parent: %v", err)
	}
}

func names(t *testing.T, s subject) {
	layer(t, s, "one", "", "a")
	prepare(t, s, "x", "one", func(string) {})
	prepare(t, s, "y", "one", func(string) {})
	if _, err := s.Prepare(t.Context(), "x", "", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second x: %v", err)
	}
	if err := s.Commit(t.Context(), "one", "x", snapshot.CommitOpts{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("commit to a name in use: %v", err)
	}
	must(t, s.Commit(t.Context(), "two", "x", snapshot.CommitOpts{}))
	if err := s.Commit(t.Context(), "three", "x", snapshot.CommitOpts{}); !errdefs.IsNotFound(err) {
		t.Errorf("second commit: %v", err)
	}
	if _, err := s.Mounts(t.Context(), "two"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mounts of a committed snapshot: %v", err)
	}
}

func removal(t *testing.T, s subject) {
	layer(t, s, "one", "", "a")
	prepare(t, s, "x", "one", func(string) {})
	if err := s.Remove(t.Context(), "one"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove a parent: %v", err)
	}
	must(t, s.Remove(t.Context(), "x"))
	must(t, s.Remove(t.Context(), "one"))
	if _, err := s.Stat(t.Context(), "one"); !errdefs.IsNotFound(err) {
		t.Errorf("removed snapshot: %v", err)
	}
	prepare(t, s, "x", "", func(root string) {
		entries, err := os.ReadDir(root)
		must(t, err)
		for _, e := range entries {
			if e.Name() != "lost+found" { // of an empty ext4
				t.Errorf("a new snapshot holds %v", e)
			}
		}
	})
}

func absent(t *testing.T, s subject) {
	ctx := t.Context()
	_, stat := s.Stat(ctx, "x")
	_, mounts := s.Mounts(ctx, "x")
	_, usage := s.Usage(ctx, "x")
	_, update := s.Update(ctx, snapshot.Info{Name: "x"})
	for _, err := range []error{stat, mounts, usage, update, s.Remove(ctx, "x"), s.Commit(ctx, "y", "x", snapshot.CommitOpts{})} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("got %v, want not found", err)
		}
	}
}

func labels(t *testing.T, s subject) {
	ctx := t.Context()
	_, err := s.Prepare(ctx, "x", "", map[string]string{"a": "1", "b": "2"})
	must(t, err)
	info, err := s.Update(ctx, snapshot.Info{Name: "x", Labels: map[string]string{"a": "3", "c": "4"}}, "labels.a", "labels.b")
	if err != nil || info.Labels["a"] != "3" || info.Labels["b"] != "" || info.Labels["c"] != "" {
		t.Errorf("labels %v, %v", info.Labels, err)
	}
	if _, err := s.Update(ctx, snapshot.Info{Name: "x"}, "parent"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update of the parent: %v", err)
	}
	must(t, s.Commit(ctx, "y", "x", snapshot.CommitOpts{Labels: map[string]string{"d": "5"}}))
	info, err = s.Stat(ctx, "y")
	if err != nil || info.Labels["d"] != "5" {
		t.Errorf("labels after commit: %v, %v", info.Labels, err)
	}
	_, err = s.Prepare(ctx, "z", "", map[string]string{"k": strings.Repeat("v", 5000)})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a label of 5000 bytes: %v", err)
	}
}

func usage(t *testing.T, s subject) {
	prepare(t, s, "x", "", func(root string) {
		write(t, root, "a", strings.Repeat("x", 100<<10))
		must(t, os.Link(filepath.Join(root, "a"), filepath.Join(root, "b")))
	})
	u, err := s.Usage(t.Context(), "x")
	if s.suite.Images {
		if err != nil || u.Size < 100<<10 {
			t.Errorf("active: %+v, %v; want 100 KiB", u, err)
		}
		must(t, s.Commit(t.Context(), "y", "x", snapshot.CommitOpts{}))
		if c, err := s.Usage(t.Context(), "y"); err != nil || c.Size < 100<<10 || c.Inodes != 1 {
			t.Errorf("committed: %+v, %v; want an image of 100 KiB", c, err)
		}
		return
	}
	if err != nil || u.Size < 100<<10 || u.Size > 150<<10 || u.Inodes != 2 {
		t.Errorf("active: %+v, %v; want 2 inodes, 100 KiB", u, err)
	}
	must(t, s.Commit(t.Context(), "y", "x", snapshot.CommitOpts{}))
	if c, err := s.Usage(t.Context(), "y"); err != nil || c != u {
		t.Errorf("committed: %+v, %v; want %+v", c, err, u)
	}
}

func walk(t *testing.T, s subject) {
	layer(t, s, "b", "", "f")
	prepare(t, s, "a", "b", func(string) {})
	prepare(t, s, "c", "", func(string) {})
	for filter, want := range map[string][]string{
		"":                {"a", "b", "c"},
		"kind==committed": {"b"},
		"parent==b":       {"a"},
		"name~=/[ac]/":    {"a", "c"},
	} {
		var got []string
		must(t, s.Walk(t.Context(), func(i snapshot.Info) error {
			got = append(got, i.Name)
			return nil
		}, filter))
		if !slices.Equal(got, want) {
			t.Errorf("filter %q gives %v, want %v", filter, got, want)
		}
	}
}

func concurrent(t *testing.T, s subject) {
	layer(t, s, "base", "", "a")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			key := strings.Repeat("k", i+1)
			if _, err := s.Prepare(t.Context(), key, "base", nil); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := s.Remove(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
			if err := s.Cleanup(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	must(t, s.Walk(t.Context(), func(snapshot.Info) error { n++; return nil }))
	if n != 9 {
		t.Errorf("%d snapshots, want 9", n)
	}
	for i := 1; i < 16; i += 2 {
		mounts, err := s.Mounts(t.Context(), strings.Repeat("k", i+1))
		must(t, err)
		s.inside(t, mounts, func(root string) { holds(t, root, "a", "base") })
	}
}

func cleanup(t *testing.T, s subject) {
	layer(t, s, "base", "", "a")
	prepare(t, s, "gone", "base", func(string) {})
	must(t, s.Remove(t.Context(), "gone"))
	must(t, s.Cleanup(t.Context()))
	prepare(t, s, "x", "base", func(root string) { holds(t, root, "a", "base") })
}
