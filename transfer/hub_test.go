// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/diff"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/snapshot"
	"slipway/test/hub"
	"slipway/test/tree"
)

// entries makes a tar archive of any entries.
func entries(t testing.TB, list ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range list {
		body := ""
		if h.Typeflag == 0 {
			h.Typeflag, body, h.Linkname, h.Size = tar.TypeReg, h.Linkname, "", int64(len(h.Linkname))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		h.ModTime = time.Unix(1700000000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	return buf.Bytes()
}

func file(name, body string) tar.Header { return tar.Header{Name: name, Linkname: body} }
func dir(name string, mode int64) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}
}
func link(kind byte, name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Linkname: to}
}

// corpus is an image with every shape of whiteout and hard link.
func corpus(t testing.TB) [][]byte {
	return [][]byte{
		entries(t, dir("./", 0o755), dir("a/", 0o755), file("a/one", "1"), file("a/two", "2"), dir("b/", 0o700), file("b/x", "x"), dir("c/", 0o755), dir("c/d/", 0o755),
			file("c/d/y", "y"), link(tar.TypeSymlink, "lib", "a"), file("f", "f"), link(tar.TypeLink, "g", "f"), link(tar.TypeLink, "a/h", "f"), dir("gone/", 0o755), file("gone/z", "z")),
		entries(t, dir("a/", 0o711), file("a/.wh.one", ""), dir("b/", 0o755), file("b/.wh..wh..opq", ""), file("b/new", "n"), file(".wh.gone", ""),
			tar.Header{Name: "suid", Linkname: "s", Mode: 0o4755, Uid: 3, Gid: 4}),
		entries(t, file(".wh.f", ""), dir("gone/", 0o2755), file("gone/again", "g"), file("c", "a file now"), link(tar.TypeLink, "suid2", "suid")),
		entries(t, file("a/implied", "i"), file("lib/through", "t")),
		entries(t, link(tar.TypeLink, "two", "a/two"), file(".wh.lib", ""), dir("lib/", 0o755), file("lib/own", "o"),
			tar.Header{Name: "attr", Linkname: "x", Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}}),
		// Directories that a layer puts something into without an entry for
		// them get the time of day; this one gives them a time again.
		entries(t, dir("./", 0o755), dir("a/", 0o711), file("n", "n"), link(tar.TypeLink, "m", "n"), dir("b/", 0o755), file("b/.wh.new", ""), tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
			tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}),
	}
}

// show describes the top of the chain that has been pulled.
func (w *world) show(t *testing.T, snapshotter string) string {
	t.Helper()
	sn, err := w.DB.Snapshotter(scope, snapshotter)
	if err != nil {
		t.Fatal(err)
	}
	parents, top := map[string]bool{}, ""
	var all []snapshot.Info
	sn.Walk(t.Context(), func(i snapshot.Info) error { all = append(all, i); parents[i.Parent] = true; return nil })
	for _, i := range all {
		if !parents[i.Name] {
			top = i.Name
		}
	}
	mounts, err := sn.View(t.Context(), "look", top, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Remove(t.Context(), "look")
	var list string
	if err := mount.WithTemp(t.Context(), w.dir, mounts, func(root string) (err error) {
		list, err = tree.List(root)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// withoutInodes drops what overlayfs cannot keep: the names that a file has in
// common across layers.
func withoutInodes(list string) string {
	var b strings.Builder
	for line := range strings.Lines(list) {
		if i := strings.Index(line, " same as "); i >= 0 {
			rest := line[i+len(" same as "):]
			line = line[:i] + rest[strings.Index(rest, " "):]
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestUnpackingSideBySideIsUnpackingInOrder(t *testing.T) {
	h := hub.New(t, hub.Options{})
	layers := corpus(t)
	h.Image("x", "t", "amd64", layers...)
	overlay, native := newWorld(t), newWorld(t)
	plain := t.TempDir()
	for _, l := range layers {
		if _, err := diff.Apply(t.Context(), plain, bytes.NewReader(l), diff.ApplyOpts{}); err != nil {
			t.Fatal(err)
		}
	}
	want, err := tree.List(plain)
	if err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]*world{"native": native, "overlayfs": overlay} {
		if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", name)); err != nil {
			t.Fatal(err)
		}
		got, want := w.show(t, name), want
		if name == "overlayfs" {
			got, want = withoutInodes(got), withoutInodes(want)
		}
		if got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
}

// noise is a layer of n bytes that do not compress.
func noise(t testing.TB, name string, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	return entries(t, file(name, string(data)))
}

func TestManyPullsFetchAndUnpackOnce(t *testing.T) {
	h := hub.New(t, hub.Options{})
	base := [][]byte{noise(t, "base", 1<<20), noise(t, "more", 1<<20)}
	for i := range 4 {
		h.Image("x", fmt.Sprint("t", i), "amd64", append(base, noise(t, "own", 1000))...)
	}
	w := newWorld(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	extracted := 0
	for i := range 4 {
		wg.Go(func() {
			opts := pullOpts(fmt.Sprint("i", i), "overlayfs")
			opts.Report = func(p Progress) {
				mu.Lock()
				defer mu.Unlock()
				if p.Event == "extracted" {
					extracted++
				}
			}
			if err := w.Pull(t.Context(), scope, h.Ref("x", fmt.Sprint("t", i)), opts); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if extracted != 2+4 {
		t.Errorf("%d layers were unpacked", extracted)
	}
	got := map[string]int{}
	for _, r := range h.Requests() {
		if r.Method == http.MethodGet && strings.Contains(r.Path, "/blobs/") {
			got[r.Path]++
		}
	}
	for path, n := range got {
		if n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	w.clean(t)
}

func TestPullSurvivesABadNetwork(t *testing.T) {
	h := hub.New(t, hub.Options{})
	var layers [][]byte
	total := 0
	for i := range 8 {
		layers = append(layers, noise(t, fmt.Sprint("f", i), 1<<20))
		total += 1 << 20
	}
	h.Image("x", "t", "amd64", layers...)
	for i := range 8 {
		h.Fail(hub.Fault{Method: http.MethodGet, Path: "/blobs/", Skip: i, Times: 1, Cut: int64(100_000 * (i + 1))})
	}
	for i := range 4 {
		h.Fail(hub.Fault{Status: http.StatusTooManyRequests, Skip: i, Times: 2, Header: http.Header{"Retry-After": {"0"}}})
		h.Fail(hub.Fault{Status: http.StatusServiceUnavailable, Skip: 3 * i, Times: 1})
	}
	w := newWorld(t)
	if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	// What was sent and is lost in a connection is not fetched again by us.
	if sent := int(h.Sent()); sent > total+total/10 {
		t.Errorf("%d bytes for an image of %d", sent, total)
	}
	w.clean(t)
}

func TestInterruptedPullGoesOnWhereItWas(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "t", "amd64", noise(t, "f", 4<<20))
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h.Fail(hub.Fault{Path: "/blobs/", Skip: 1, Times: 1, Stall: 2 << 20})
	// The lease is the client's, as with a client that comes back.
	lease, err := w.DB.Leases(scope.Namespace).Create(t.Context(), "mine", nil)
	if err != nil {
		t.Fatal(err)
	}
	kept := scope
	kept.Lease = lease.ID
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		w.awaitIngest(t, kept, 2<<20)
	})
	if err := w.Pull(ctx, kept, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err == nil {
		t.Fatal("the pull was not interrupted")
	}
	wg.Wait()
	h.Forget()
	if err := w.Pull(t.Context(), kept, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	if sent := h.Sent(); sent > 3<<20 {
		t.Errorf("%d bytes after half of 4 MiB was there", sent)
	}
}

// awaitIngest returns when an ingest holds size bytes.
func (w *world) awaitIngest(t *testing.T, scope ident.Scope, size int64) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		all, err := w.DB.Content(scope).ListStatuses(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		for _, st := range all {
			if st.Offset >= size {
				return
			}
		}
	}
	t.Error("no ingest came that far")
}

func TestFaultyBlobsLeaveNothing(t *testing.T) {
	for claim, c := range map[string]struct {
		fault hub.Fault
		is    func(error) bool
	}{
		"wrong digest": {hub.Fault{Flip: true}, errdefs.IsFailedPrecondition},
		"truncated":    {hub.Fault{Body: func() io.Reader { return strings.NewReader("short") }}, errdefs.IsUnavailable},
		"not found":    {hub.Fault{Status: 404}, errdefs.IsNotFound},
		"server error": {hub.Fault{Status: 500}, errdefs.IsUnavailable},
		"forbidden":    {hub.Fault{Status: 403}, errdefs.IsPermissionDenied},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, hub.Options{})
			h.Image("x", "t", "amd64", corpus(t)...)
			c.fault.Path, c.fault.Method, c.fault.Skip = "/blobs/", http.MethodGet, 3
			h.Fail(c.fault)
			w := newWorld(t)
			err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs"))
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), h.Host) {
				t.Errorf("got %v", err)
			}
			w.clean(t)
			if left, _ := os.ReadDir(w.dir + "/content/ingest"); len(left) != 0 {
				t.Errorf("ingests left: %v", left)
			}
		})
	}
}

func TestHostileLayersLeaveNothing(t *testing.T) {
	good := entries(t, file("ok", "x"))
	for claim, c := range map[string]struct {
		image func(h *hub.Hub)
		is    func(error) bool
	}{
		"leads out": {func(h *hub.Hub) { h.Image("x", "t", "amd64", good, entries(t, file("../../etc/x", "x"))) }, errdefs.IsInvalidArgument},
		"no tar":    {func(h *hub.Hub) { h.Image("x", "t", "amd64", good, bytes.Repeat([]byte("no tar"), 1000)) }, errdefs.IsInvalidArgument},
		"other diff id": {func(h *hub.Hub) {
			m := h.Image("x", "", "amd64", good)
			_ = m
			config := h.Blob("x", ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`))
			h.Manifest("x", "t", ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{h.Blob("x", ocispec.MediaTypeImageLayerGzip, hub.Gzip(good))}})
		}, errdefs.IsFailedPrecondition},
		"fewer diff ids": {func(h *hub.Hub) {
			config := h.Blob("x", ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`))
			h.Manifest("x", "t", ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{h.Blob("x", ocispec.MediaTypeImageLayerGzip, hub.Gzip(good))}})
		}, errdefs.IsInvalidArgument},
	} {
		t.Run(claim, func(t *testing.T) {
			h := hub.New(t, hub.Options{})
			c.image(h)
			for _, snapshotter := range []string{"overlayfs", "native"} {
				w := newWorld(t)
				if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", snapshotter)); !c.is(err) {
					t.Errorf("%s: got %v", snapshotter, err)
				}
				w.clean(t)
			}
		})
	}
}

func TestPushOfPresentPlatforms(t *testing.T) {
	h := hub.New(t, hub.Options{})
	var images []ocispec.Descriptor
	for _, arch := range []string{"amd64", "s390x"} {
		images = append(images, h.Image("x", "", arch, noise(t, arch, 1000)))
	}
	h.Index("x", "t", images...)
	w := newWorld(t)
	if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	to := hub.New(t, hub.Options{})
	missing := ""
	report := func(p Progress) {
		if strings.HasPrefix(p.Event, "missing") {
			missing = p.Event
		}
	}
	if err := w.Push(t.Context(), scope, "i", to.Ref("y", "t"), PushOpts{Report: report}); err != nil {
		t.Fatal(err)
	}
	if missing != "missing linux/s390x" || !to.Has("y", images[0].Digest) || to.Has("y", images[1].Digest) {
		t.Errorf("reported %q", missing)
	}
	again := newWorld(t)
	if err := again.Pull(t.Context(), scope, to.Ref("y", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Errorf("pull of what was pushed: %v", err)
	}
	err := w.Push(t.Context(), scope, "i", to.Ref("y", "all"), PushOpts{Report: report, AllPlatforms: true})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("push of all platforms: %v", err)
	}
	err = w.Push(t.Context(), scope, "i", to.Ref("y", "other"), PushOpts{Report: report, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "s390x"}}})
	if !errdefs.IsNotFound(err) {
		t.Errorf("push of an absent platform: %v", err)
	}
}

func TestPushMountsWhatTheRegistryHas(t *testing.T) {
	h := hub.New(t, hub.Options{})
	h.Image("x", "t", "amd64", noise(t, "f", 1000))
	w := newWorld(t)
	if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), pullOpts("i", "overlayfs")); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	if err := w.Push(t.Context(), scope, "i", h.Ref("y", "t"), PushOpts{Report: silent}); err != nil {
		t.Fatal(err)
	}
	for _, r := range h.Requests() {
		if r.Method == http.MethodPut && strings.Contains(r.Path, "/blobs/") {
			t.Errorf("sent %s", r.Path)
		}
	}
}

func TestManifestsAreLimited(t *testing.T) {
	h := hub.New(t, hub.Options{})
	var images []ocispec.Descriptor
	archs := []string{"s390x", "386", "amd64"}
	for _, arch := range archs {
		images = append(images, h.Image("x", "", arch, noise(t, arch, 1000)))
	}
	h.Index("x", "t", images...)
	for claim, c := range map[string]struct {
		opts StoreOpts
		want []string
	}{
		"the first":            {StoreOpts{Manifests: 1}, []string{"s390x"}},
		"the best":             {StoreOpts{Manifests: 1, Platforms: []ocispec.Platform{linux}}, []string{"amd64"}},
		"the best and another": {StoreOpts{Manifests: 2, AllMetadata: true, Platforms: []ocispec.Platform{linux}}, []string{"s390x", "amd64"}},
		"more than all":        {StoreOpts{Manifests: 4}, archs},
	} {
		t.Run(claim, func(t *testing.T) {
			w := newWorld(t)
			c.opts.Name = "i"
			if err := w.Pull(t.Context(), scope, h.Ref("x", "t"), PullOpts{Store: c.opts, Report: silent}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, arch := range archs {
				if _, err := w.DB.Content(scope).Info(t.Context(), images[i].Digest); err == nil {
					got = append(got, arch)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q", got)
			}
		})
	}
}
