// SPDX-License-Identifier: Apache-2.0

package meta

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
	"slipway/content/contenttest"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/snapshot"
	"slipway/snapshot/snapshottest"
)

var scope = ident.Scope{Namespace: "test"}

func openAt(t *testing.T, dir string, opts Options) *DB {
	t.Helper()
	local, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	native, err := snapshot.OpenNative(filepath.Join(dir, "native"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { native.Close() })
	db, err := Open(filepath.Join(dir, "meta.db"), opts, local, map[string]snapshot.Snapshotter{"native": native}, event.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t *testing.T) *DB { return openAt(t, t.TempDir(), Options{NoSync: true}) }

func put(t *testing.T, s *Content, data string, labels map[string]string) digest.Digest {
	t.Helper()
	d := digest.FromString(data)
	w, err := s.Writer(t.Context(), content.WriterOpts{Ref: "ref-" + data, Expected: d})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if st, _ := w.Status(); st.Offset == 0 {
		w.Write([]byte(data))
	}
	if err := w.Commit(t.Context(), int64(len(data)), d, labels); err != nil {
		t.Fatal(err)
	}
	return d
}

func collect(t *testing.T, db *DB) GCStats {
	t.Helper()
	st, err := db.GC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func snapshotter(t *testing.T, db *DB, s ident.Scope) snapshot.Snapshotter {
	t.Helper()
	sn, err := db.Snapshotter(s, "native")
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

func TestContentContract(t *testing.T) {
	for _, policy := range []string{"shared", "isolated"} {
		t.Run(policy, func(t *testing.T) {
			contenttest.Run(t, func(t *testing.T) content.Store {
				return openAt(t, t.TempDir(), Options{NoSync: true, SharingPolicy: policy}).Content(scope)
			})
		})
	}
}

func TestSnapshotContract(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter { return snapshotter(t, open(t), scope) })
}

func TestBlobsAreLinkedPerNamespace(t *testing.T) {
	other := ident.Scope{Namespace: "other"}
	for _, policy := range []string{"shared", "isolated"} {
		db := openAt(t, t.TempDir(), Options{NoSync: true, SharingPolicy: policy})
		d := put(t, db.Content(scope), "x", nil)
		if _, err := db.Content(other).Info(t.Context(), d); !errdefs.IsNotFound(err) {
			t.Errorf("%s: seen from another namespace: %v", policy, err)
		}
		w, err := db.Content(other).Writer(t.Context(), content.WriterOpts{Ref: "r", Expected: d})
		if err != nil {
			t.Fatal(err)
		}
		st, _ := w.Status()
		if shared := st.Offset == 1; shared != (policy == "shared") {
			t.Errorf("%s: offset %d", policy, st.Offset)
		}
		if st.Offset == 0 {
			w.Write([]byte("x"))
		}
		if err := w.Commit(t.Context(), 1, d, nil); err != nil {
			t.Errorf("%s: %v", policy, err)
		}
		w.Close()
		if _, err := db.Content(other).Info(t.Context(), d); err != nil {
			t.Errorf("%s: %v", policy, err)
		}
	}
}

// A writer of a blob that is there holds all its bytes: what is written goes
// after them, and the blob stays as it is.
func TestBytesAreAppendedToABlobThatIsThere(t *testing.T) {
	other := ident.Scope{Namespace: "other"}
	db := open(t)
	d := put(t, db.Content(scope), "begin", nil)
	store := db.Content(other)
	w, err := store.Writer(t.Context(), content.WriterOpts{Ref: "r", Expected: d, Total: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, more := range []string{"", " and", " end"} {
		if _, err := w.Write([]byte(more)); err != nil {
			t.Fatal(err)
		}
	}
	all := digest.FromString("begin and end")
	if st, err := w.Status(); err != nil || st.Offset != 13 || st.Ref != "r" || w.Digest() != all {
		t.Errorf("status %+v, %v, digest %s", st, err, w.Digest())
	}
	if err := w.Commit(t.Context(), 13, all, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := store.Info(t.Context(), all); err != nil || info.Size != 13 {
		t.Errorf("what was committed: %+v, %v", info, err)
	}
	if _, err := store.Info(t.Context(), d); !errdefs.IsNotFound(err) {
		t.Errorf("the blob of the other namespace is linked: %v", err)
	}
	if info, err := db.Content(scope).Info(t.Context(), d); err != nil || info.Size != 5 {
		t.Errorf("the blob has become %+v, %v", info, err)
	}
	if _, err := store.Status(t.Context(), "r"); !errdefs.IsNotFound(err) {
		t.Errorf("the ingest is left: %v", err)
	}
}

func image(name string, d digest.Digest, labels map[string]string) Image {
	return Image{Name: name, Labels: labels, Target: ocispec.Descriptor{MediaType: "m", Digest: d, Size: 1}}
}

func TestImageRecords(t *testing.T) {
	images, ctx := open(t).Images(scope), t.Context()
	a, b := digest.FromString("a"), digest.FromString("b")
	if _, err := images.Create(ctx, image("i", a, map[string]string{"k": "v", "dots.in/key": "w"})); err != nil {
		t.Fatal(err)
	}
	if _, err := images.Create(ctx, image("i", a, nil)); !errdefs.IsAlreadyExists(err) || !strings.HasPrefix(err.Error(), `image "i": `) {
		t.Errorf("second create: %v", err)
	}
	if _, err := images.Create(ctx, Image{Name: "bad"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without target: %v", err)
	}
	got, err := images.Update(ctx, image("i", b, nil), "labels.dots.in/key")
	if err != nil || got.Target.Digest != a || len(got.Labels) != 1 {
		t.Errorf("update of one label: %+v, %v", got, err)
	}
	if _, err := images.Update(ctx, image("i", b, nil), "name"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown path: %v", err)
	}
	if got, err = images.Update(ctx, image("i", b, nil)); err != nil || got.Target.Digest != b || len(got.Labels) != 0 || got.CreatedAt.IsZero() {
		t.Errorf("update of everything: %+v, %v", got, err)
	}
	if err := images.Delete(ctx, "i", &a); !errdefs.IsNotFound(err) {
		t.Errorf("delete with another target: %v", err)
	}
	if err := images.Delete(ctx, "i", &b); err != nil {
		t.Error(err)
	}
	if _, err := images.Get(ctx, "i"); !errdefs.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
}

func TestContainerRecords(t *testing.T) {
	containers, ctx := open(t).Containers(scope), t.Context()
	c := Container{ID: "c", Runtime: Runtime{Name: "r"}, Spec: &anypb.Any{TypeUrl: "t"}, Labels: map[string]string{"a": "1"}}
	if _, err := containers.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	got, err := containers.Get(ctx, "c")
	if err != nil || got.Spec.GetTypeUrl() != "t" || got.Runtime.Name != "r" || got.CreatedAt.IsZero() {
		t.Errorf("got %+v, %v", got, err)
	}
	c.Runtime.Name = "other"
	if _, err := containers.Update(ctx, c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "container.Runtime.Name field is immutable") {
		t.Errorf("update of the runtime: %v", err)
	}
	c.Extensions = map[string]*anypb.Any{"e.x": {TypeUrl: "u"}}
	if got, err = containers.Update(ctx, c, "extensions.e.x"); err != nil || got.Extensions["e.x"].GetTypeUrl() != "u" || got.Labels["a"] != "1" {
		t.Errorf("update of an extension: %+v, %v", got, err)
	}
	list, err := containers.List(ctx, `labels.a==1, id==c`, "image==z")
	if err != nil || len(list) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := containers.Delete(ctx, "c"); err != nil {
		t.Error(err)
	}
	if _, err := containers.Get(ctx, "c"); err == nil || err.Error() != `container "c" in namespace "test": not found` {
		t.Errorf("get: %v", err)
	}
}

func TestNamespaceMustBeEmpty(t *testing.T) {
	db, ctx := open(t), t.Context()
	d := put(t, db.Content(scope), "x", nil)
	err := db.Namespaces().Delete(ctx, "test")
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `namespace "test" must be empty, but it still has blobs`) {
		t.Errorf("delete: %v", err)
	}
	if err := db.Content(scope).Delete(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := db.Namespaces().Delete(ctx, "test"); err != nil {
		t.Error(err)
	}
	if labels, err := db.Namespaces().Labels(ctx, "test"); err != nil || len(labels) != 0 {
		t.Errorf("labels of nothing: %v, %v", labels, err)
	}
	if err := db.Namespaces().Create(ctx, "version", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a namespace called version: %v", err)
	}
}

func TestWritingNeedsNamespaceAndLease(t *testing.T) {
	db, ctx := open(t), t.Context()
	if _, err := db.Images(ident.Scope{}).List(ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no namespace: %v", err)
	}
	lost := ident.Scope{Namespace: "test", Lease: "gone"}
	if _, err := db.Content(lost).Writer(ctx, content.WriterOpts{Ref: "r"}); !errdefs.IsNotFound(err) {
		t.Errorf("ingest under an unknown lease: %v", err)
	}
	if _, err := snapshotter(t, db, lost).Prepare(ctx, "k", "", nil); !errdefs.IsNotFound(err) {
		t.Errorf("snapshot under an unknown lease: %v", err)
	}
}

func TestLeaseKeepsUntilDeleted(t *testing.T) {
	db, ctx := open(t), t.Context()
	leases := db.Leases("test")
	l, err := leases.Create(ctx, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	leased := ident.Scope{Namespace: "test", Lease: l.ID}
	d := put(t, db.Content(leased), "x", nil)
	if _, err := snapshotter(t, db, leased).Prepare(ctx, "k", "", nil); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	if _, err := db.Content(scope).Info(ctx, d); err != nil {
		t.Errorf("blob under a lease: %v", err)
	}
	got, err := leases.ListResources(ctx, l.ID)
	want := []Resource{{"content", d.String()}, {"snapshots/native", "k"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("resources %v, %v", got, err)
	}
	if err := leases.Delete(ctx, l.ID); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	if _, err := db.Content(scope).Info(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("record of the blob: %v", err)
	}
	if _, err := db.local.Info(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("file of the blob: %v", err)
	}
	if n := count(t, db.backends["native"]); n != 0 {
		t.Errorf("%d snapshots left in the backend", n)
	}
}

func count(t *testing.T, s snapshot.Snapshotter) (n int) {
	t.Helper()
	if err := s.Walk(t.Context(), func(snapshot.Info) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestReferencesKeep(t *testing.T) {
	db, ctx := open(t), t.Context()
	c := db.Content(scope)
	sn := snapshotter(t, db, scope)
	for _, key := range []string{"base", "top", "loose"} {
		parent := map[string]string{"top": "base"}[key]
		if _, err := sn.Prepare(ctx, key+"-active", parent, nil); err != nil {
			t.Fatal(err)
		}
		if err := sn.Commit(ctx, key, key+"-active", snapshot.CommitOpts{}); err != nil {
			t.Fatal(err)
		}
	}
	layer := put(t, c, "layer", nil)
	config := put(t, c, "config", map[string]string{"containerd.io/gc.ref.snapshot.native": "top"})
	manifest := put(t, c, "manifest", map[string]string{
		"containerd.io/gc.ref.content.l.0": layer.String(), "containerd.io/gc.ref.content.config": config.String(),
	})
	back := put(t, c, "attached", map[string]string{"containerd.io/gc.bref.content.x": manifest.String()})
	root := put(t, c, "root", map[string]string{"containerd.io/gc.root": "now"})
	loose := put(t, c, "loose", nil)
	if _, err := db.Images(scope).Create(ctx, image("i", manifest, nil)); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	for _, d := range []digest.Digest{layer, config, manifest, back, root} {
		if _, err := c.Info(ctx, d); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Info(ctx, loose); !errdefs.IsNotFound(err) {
		t.Errorf("loose blob: %v", err)
	}
	if n := count(t, db.backends["native"]); n != 2 {
		t.Errorf("%d snapshots in the backend, want base and top", n)
	}
	if err := db.Images(scope).Delete(ctx, "i", nil); err != nil {
		t.Fatal(err)
	}
	if st := collect(t, db); st.Removed != 6 { // manifest, config, layer, attached, top, base
		t.Errorf("removed %d records", st.Removed)
	}
	if n := count(t, db.backends["native"]); n != 0 {
		t.Errorf("%d snapshots left in the backend", n)
	}
}

func TestExpiry(t *testing.T) {
	db, ctx := open(t), t.Context()
	past, future := time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	d := put(t, db.Content(scope), "x", nil)
	for name, at := range map[string]string{"old": past, "new": future} {
		if _, err := db.Images(scope).Create(ctx, image(name, d, map[string]string{"containerd.io/gc.expire": at})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Leases("test").Create(ctx, "l", map[string]string{"containerd.io/gc.expire": past}); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	list, err := db.Images(scope).List(ctx)
	if err != nil || len(list) != 1 || list[0].Name != "new" {
		t.Errorf("images %v, %v", list, err)
	}
	if l, err := db.Leases("test").List(ctx); err != nil || len(l) != 0 {
		t.Errorf("leases %v, %v", l, err)
	}
	if _, err := db.Content(scope).Info(ctx, d); err != nil {
		t.Error(err)
	}
}

func TestFlatLeaseKeepsOnlyWhatItNames(t *testing.T) {
	db, ctx := open(t), t.Context()
	c := db.Content(scope)
	child := put(t, c, "child", nil)
	parent := put(t, c, "parent", map[string]string{"containerd.io/gc.ref.content.0": child.String()})
	if _, err := db.Leases("test").Create(ctx, "l", map[string]string{"containerd.io/gc.flat": "1"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Leases("test").AddResource(ctx, "l", Resource{"content", parent.String()}); err != nil {
		t.Fatal(err)
	}
	collect(t, db)
	if _, err := c.Info(ctx, parent); err != nil {
		t.Error(err)
	}
	if _, err := c.Info(ctx, child); !errdefs.IsNotFound(err) {
		t.Errorf("child: %v", err)
	}
}

// A write between mark and sweep must keep what it refers to.
func TestCollectionSeesWritesWhileMarking(t *testing.T) {
	db, ctx := open(t), t.Context()
	c := db.Content(scope)
	leaf := put(t, c, "leaf", nil)
	top := put(t, c, "top", map[string]string{"containerd.io/gc.ref.content.0": leaf.String()})
	m, err := db.mark(ctx)
	if err != nil || len(m.doomed) != 2 {
		t.Fatalf("doomed %v, %v", m.doomed, err)
	}
	if _, err := db.Images(scope).Create(ctx, image("i", top, nil)); err != nil {
		t.Fatal(err)
	}
	if err := db.sweep(ctx, m); err != nil {
		t.Fatal(err)
	}
	db.stopRecording()
	for _, d := range []digest.Digest{leaf, top} {
		if _, err := c.Info(ctx, d); err != nil {
			t.Error(err)
		}
	}
}

func TestCollectionsBesideWriters(t *testing.T) {
	db := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := db.GC(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	for i := range 50 {
		name := strings.Repeat("x", i+1)
		l, err := db.Leases("test").Create(ctx, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		leased := ident.Scope{Namespace: "test", Lease: l.ID}
		d := put(t, db.Content(leased), "blob"+name, nil)
		sn := snapshotter(t, db, leased)
		if _, err := sn.Prepare(ctx, "a"+name, "", nil); err != nil {
			t.Fatal(err)
		}
		if err := sn.Commit(ctx, name, "a"+name, snapshot.CommitOpts{}); err != nil {
			t.Fatal(err)
		}
		if _, err := sn.Stat(ctx, name); err != nil {
			t.Fatal(err)
		}
		ra, err := db.Content(leased).ReaderAt(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		ra.Close()
		if err := db.Leases("test").Delete(ctx, l.ID); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
}

func TestOrphansOfACrashAreRemoved(t *testing.T) {
	dir := t.TempDir()
	db := openAt(t, dir, Options{NoSync: true})
	if _, err := db.backends["native"].Prepare(t.Context(), "test/1/k", "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := db.local.Writer(t.Context(), content.WriterOpts{Ref: "test/1/r"}); err != nil {
		t.Fatal(err)
	}
	// The name is taken in the backend: the next number must be used.
	if _, err := snapshotter(t, db, scope).Prepare(t.Context(), "k", "", nil); err != nil {
		t.Fatal(err)
	}
	db.allDirty()
	collect(t, db)
	if n := count(t, db.backends["native"]); n != 0 { // k has no lease either
		t.Errorf("%d snapshots left", n)
	}
}

func TestUpdateIsDurableAcrossOpen(t *testing.T) {
	dir := t.TempDir()
	db := openAt(t, dir, Options{})
	if _, err := db.Images(scope).Create(t.Context(), image("i", digest.FromString("x"), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "meta.db"), Options{OpenTimeout: time.Millisecond}, nil, nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("opened twice: %v", err)
	}
	db.Close()
	db.backends["native"].Close()
	if _, err := openAt(t, dir, Options{}).Images(scope).Get(t.Context(), "i"); err != nil {
		t.Error(err)
	}
}

func TestSchedulerCollectsForWaitersAndAfterDeletions(t *testing.T) {
	db := open(t)
	s := NewScheduler(db, SchedulerConfig{PauseThreshold: 0.5, MutationThreshold: 100})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	d := put(t, db.Content(scope), "x", nil)
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := db.local.Info(ctx, d); !errdefs.IsNotFound(err) {
		t.Errorf("after Wait: %v", err)
	}
	d = put(t, db.Content(scope), "y", nil)
	db.Leases("test").Create(ctx, "l", nil)
	if err := db.Leases("test").Delete(ctx, "l"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := db.local.Info(ctx, d); errdefs.IsNotFound(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was collected after a deletion")
		}
	}
	cancel()
	<-done
	if err := s.Wait(ctx); err == nil {
		t.Error("Wait after the end succeeded")
	}
}
