// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/content"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/snapshot"
)

var scope = ident.Scope{Namespace: "test"}

var linux = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// world is a Service on stores in a temporary directory.
type world struct {
	*Service
	overlay *snapshot.Store
	native  *snapshot.Store
	stuck   *stuckSnapshotter
	dir     string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to unpack")
	}
	return openWorld(t, t.TempDir())
}

// openWorld is newWorld on a directory that may have been used before.
func openWorld(t testing.TB, dir string) *world {
	t.Helper()
	local, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := snapshot.OpenOverlay(filepath.Join(dir, "overlay"), snapshot.OverlayOpts{})
	if err != nil {
		t.Fatal(err)
	}
	native, err := snapshot.OpenNative(filepath.Join(dir, "native"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := snapshot.OpenNative(filepath.Join(dir, "stuck"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*snapshot.Store{"overlayfs": overlay, "native": native, "stuck": other}
	stuck := &stuckSnapshotter{other, make(chan bool, 1)}
	db, err := meta.Open(filepath.Join(dir, "meta.db"), meta.Options{NoSync: true}, local,
		map[string]snapshot.Snapshotter{"overlayfs": overlay, "native": native, "stuck": stuck}, event.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(); overlay.Close(); native.Close(); other.Close() })
	caps := func(name string) []string { return all[name].Capabilities() }
	return &world{New(Config{DB: db, Capabilities: caps, Temp: dir}), overlay, native, stuck, dir}
}

// stuckSnapshotter prepares nothing until its caller gives up.
type stuckSnapshotter struct {
	*snapshot.Store
	begun chan bool
}

func (s *stuckSnapshotter) Prepare(ctx context.Context, _, _ string, _ map[string]string) ([]mount.Mount, error) {
	s.begun <- true
	<-ctx.Done()
	return nil, ctx.Err()
}

func layer(t *testing.T, entries ...string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		n, body, file := strings.Cut(e, "=")
		h := &tar.Header{Name: n, Mode: 0o755, Typeflag: tar.TypeDir}
		if file {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		}
		w.WriteHeader(h)
		io.WriteString(w, body)
	}
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func testImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image,
		layer(t, "a/", "a/one=1", "a/two=2", "gone=x"),
		layer(t, "a/", "a/.wh.one=", ".wh.gone=", "b/", "b/"+arch+"=y"),
		layer(t, "a/three=3"), // implied directory
	)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// serve runs a registry, with something in front of it.
func serve(t *testing.T, front func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if front == nil || !front(w, r) {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func upload(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

func pullOpts(name, snapshotter string) PullOpts {
	return PullOpts{
		Store:  StoreOpts{Name: name, Platforms: []ocispec.Platform{linux}, Unpacks: []Unpack{{linux, snapshotter}}},
		Report: func(Progress) {},
	}
}

// clean checks that a failed transfer left nothing for which only a lease or
// nobody cares.
func (w *world) clean(t *testing.T) {
	t.Helper()
	leases, err := w.DB.Leases(scope.Namespace).List(t.Context())
	if err != nil || len(leases) != 0 {
		t.Errorf("leases left: %v, %v", leases, err)
	}
	if _, err := w.DB.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, store := range []*snapshot.Store{w.overlay, w.native} {
		store.Walk(t.Context(), func(snapshot.Info) error { n++; return nil })
	}
	images, _ := w.DB.Images(scope).List(t.Context())
	if len(images) == 0 && n != 0 {
		t.Errorf("%d snapshots left", n)
	}
}

func (w *world) files(t *testing.T, snapshotter string) string {
	t.Helper()
	sn, err := w.DB.Snapshotter(scope, snapshotter)
	if err != nil {
		t.Fatal(err)
	}
	var top snapshot.Info
	parents := map[string]bool{}
	var all []snapshot.Info
	sn.Walk(t.Context(), func(i snapshot.Info) error { all = append(all, i); parents[i.Parent] = true; return nil })
	for _, i := range all {
		if !parents[i.Name] {
			top = i
		}
	}
	mounts, err := sn.View(t.Context(), "look", top.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Remove(t.Context(), "look")
	var list []string
	err = mount.WithTemp(t.Context(), w.dir, mounts, func(root string) error {
		return filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
			if rel, _ := filepath.Rel(root, p); rel != "." {
				list = append(list, rel)
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestPullUnpacksAndRecords(t *testing.T) {
	for _, snapshotter := range []string{"overlayfs", "native"} {
		t.Run(snapshotter, func(t *testing.T) {
			w := newWorld(t)
			ref := serve(t, nil) + "/x:t"
			upload(t, ref, testImage(t, "amd64"))
			var mu sync.Mutex
			seen := map[string]bool{}
			opts := pullOpts(ref, snapshotter)
			opts.Report = func(p Progress) { mu.Lock(); seen[p.Event] = true; mu.Unlock() }
			if err := w.Pull(t.Context(), scope, ref, opts); err != nil {
				t.Fatal(err)
			}
			for _, e := range []string{"waiting", "complete", "extracted", "saved", "Completed pull from " + ref} {
				if !seen[e] {
					t.Errorf("no progress %q among %v", e, seen)
				}
			}
			w.clean(t)
			if got := w.files(t, snapshotter); got != "a a/three a/two b b/amd64" {
				t.Errorf("files: %s", got)
			}
			if err := w.Pull(t.Context(), scope, ref, opts); err != nil {
				t.Errorf("second pull: %v", err)
			}
			if err := w.Tag(t.Context(), scope, ref, StoreOpts{Name: "other"}); err != nil {
				t.Error(err)
			}
			if err := w.Push(t.Context(), scope, "other", strings.Replace(ref, "/x:", "/y:", 1), PushOpts{Report: func(Progress) {}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConcurrentPullsOfOneImage(t *testing.T) {
	w := newWorld(t)
	ref := serve(t, nil) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if err := w.Pull(t.Context(), scope, ref, pullOpts(fmt.Sprint("i", i), "")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.clean(t)
	if got := w.files(t, "overlayfs"); got != "a a/three a/two b b/amd64" {
		t.Errorf("files: %s", got)
	}
}

// Pulls share downloads, and nothing else if they unpack with different
// snapshotters.
func TestAStuckSnapshotterHoldsUpNoOtherPull(t *testing.T) {
	w := newWorld(t)
	ref := serve(t, nil) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Pull(ctx, scope, ref, pullOpts("first", "stuck")) }()
	<-w.stuck.begun
	for _, ns := range []ident.Namespace{scope.Namespace, "other"} {
		if err := w.Pull(t.Context(), ident.Scope{Namespace: ns}, ref, pullOpts("second", "overlayfs")); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the pull that is stuck ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the pull that was stuck has ended well")
	}
	w.clean(t)
}

func TestBadRegistriesLeaveNothing(t *testing.T) {
	isBlob := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	}
	for name, c := range map[string]struct {
		front func(http.ResponseWriter, *http.Request) bool
		is    func(error) bool
	}{
		"wrong digest": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				io.WriteString(w, strings.Repeat("x", 10000))
			}
			return isBlob(r)
		}, errdefs.IsFailedPrecondition},
		"gone": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				http.NotFound(w, r)
			}
			return isBlob(r)
		}, errdefs.IsNotFound},
		"forbidden": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				w.WriteHeader(http.StatusForbidden)
			}
			return isBlob(r)
		}, errdefs.IsPermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			armed := false
			ref := serve(t, func(w http.ResponseWriter, r *http.Request) bool { return armed && c.front(w, r) }) + "/x:t"
			upload(t, ref, testImage(t, "amd64"))
			armed = true
			err := w.Pull(t.Context(), scope, ref, pullOpts(ref, ""))
			if !c.is(err) || !strings.Contains(err.Error(), ref) {
				t.Errorf("got %v", err)
			}
			w.clean(t)
		})
	}
}

func TestOtherPlatformIsNotFound(t *testing.T) {
	w := newWorld(t)
	ref := serve(t, nil) + "/x:t"
	idx := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: testImage(t, "s390x"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}})
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, idx); err != nil {
		t.Fatal(err)
	}
	if err := w.Pull(t.Context(), scope, ref, pullOpts(ref, "")); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	w.clean(t)
}

func TestCancelledPullLeavesNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	armed := false
	ref := serve(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if armed && strings.Contains(r.URL.Path, "/blobs/") {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}) + "/x:t"
	upload(t, ref, testImage(t, "amd64"))
	armed = true
	if err := w.Pull(ctx, scope, ref, pullOpts(ref, "")); err == nil {
		t.Error("a cancelled pull succeeded")
	}
	w.clean(t)
}
