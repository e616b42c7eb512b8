// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	shimapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
)

func TestVersionSaysWhatItWasGiven(t *testing.T) {
	w := newWorld(t, stores)
	r, err := versionapi.NewVersionClient(w.conn).Version(in(t, ""), &emptypb.Empty{})
	fatal(t, err)
	if r.Version != "v1" || r.Revision != "abc" {
		t.Errorf("version %v", r)
	}
}

func TestNamespacesComeAndGo(t *testing.T) {
	w := newWorld(t, stores)
	c := namespacesapi.NewNamespacesClient(w.conn)
	ctx := in(t, "")
	got, err := c.Get(ctx, &namespacesapi.GetNamespaceRequest{Name: "never-seen"})
	fatal(t, err)
	if got.Namespace.Name != "never-seen" || len(got.Namespace.Labels) != 0 {
		t.Errorf("a namespace that does not exist: %v", got)
	}
	_, err = c.Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: &namespacesapi.Namespace{Name: "a", Labels: map[string]string{"x": "1", "y.z": "2"}}})
	fatal(t, err)
	r, err := c.Update(ctx, &namespacesapi.UpdateNamespaceRequest{
		Namespace: &namespacesapi.Namespace{Name: "a", Labels: map[string]string{"y.z": "3", "x": "9"}}, UpdateMask: mask("labels.y.z"),
	})
	fatal(t, err)
	if fmt.Sprint(r.Namespace.Labels) != "map[x:1 y.z:3]" {
		t.Errorf("labels after a masked update: %v", r.Namespace.Labels)
	}
	_, err = c.Update(ctx, &namespacesapi.UpdateNamespaceRequest{Namespace: &namespacesapi.Namespace{Name: "a", Labels: map[string]string{"q": "1"}}})
	fatal(t, err)
	put(t, contentapi.NewContentClient(w.conn), in(t, "implied"), "r", "x")
	all, err := c.List(ctx, &namespacesapi.ListNamespacesRequest{Filter: "name==nothing"})
	fatal(t, err)
	if len(all.Namespaces) != 2 || fmt.Sprint(all.Namespaces[0].Labels) != "map[q:1]" || all.Namespaces[1].Name != "implied" {
		t.Errorf("namespaces %v", all.Namespaces)
	}
	_, err = c.Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: "implied"})
	wantCode(t, "delete", err, codes.FailedPrecondition)
	wantText(t, err, `namespace "implied" must be empty, but it still has blobs: failed precondition`)
	_, err = c.Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: "a"})
	fatal(t, err)
}

func TestImagesKeepTheirTimes(t *testing.T) {
	w := newWorld(t, stores)
	c := imagesapi.NewImagesClient(w.conn)
	ctx := in(t, "a")
	target := &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1, Annotations: map[string]string{"n": "1"}}
	forged := timestamppb.New(time.Unix(7, 0))
	epoch := timestamppb.New(time.Unix(1000, 0))
	r, err := c.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "x", Target: target, CreatedAt: forged, Labels: map[string]string{"a": "1"}}})
	fatal(t, err)
	if r.Image.CreatedAt.Seconds == 7 {
		t.Error("the client set the time of creation")
	}
	e, err := c.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "y", Target: target}, SourceDateEpoch: epoch})
	fatal(t, err)
	if e.Image.CreatedAt.Seconds != 1000 || e.Image.UpdatedAt.Seconds != 1000 {
		t.Errorf("with an epoch: %v", e.Image)
	}
	for _, step := range []struct {
		img   *imagesapi.Image
		paths []string
		want  string // labels, annotations, size
	}{
		{&imagesapi.Image{Labels: map[string]string{"b": "2"}}, []string{"labels.b"}, "map[a:1 b:2] map[n:1] 1"},
		{&imagesapi.Image{Target: &types.Descriptor{Annotations: map[string]string{"m": "2"}}}, []string{"annotations.m"}, "map[a:1 b:2] map[m:2 n:1] 1"},
		{&imagesapi.Image{Target: &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 2}}, []string{"target"}, "map[a:1 b:2] map[] 2"},
		{&imagesapi.Image{Labels: map[string]string{"c": "3"}}, []string{"labels"}, "map[c:3] map[] 2"},
		{&imagesapi.Image{Target: target}, nil, "map[] map[n:1] 1"},
	} {
		step.img.Name = "x"
		u, err := c.Update(ctx, &imagesapi.UpdateImageRequest{Image: step.img, UpdateMask: mask(step.paths...)})
		fatal(t, err)
		if got := fmt.Sprint(u.Image.Labels, u.Image.Target.Annotations, u.Image.Target.Size); got != step.want {
			t.Errorf("update of %v: %s, want %s", step.paths, got, step.want)
		}
		if !u.Image.CreatedAt.AsTime().Equal(r.Image.CreatedAt.AsTime()) {
			t.Error("an update changed the time of creation")
		}
	}
}

func TestListFilters(t *testing.T) {
	w := newWorld(t, stores)
	images := imagesapi.NewImagesClient(w.conn)
	containers := containersapi.NewContainersClient(w.conn)
	ctx := in(t, "a")
	for i, name := range []string{"b/one:1", "a/two:2"} {
		_, err := images.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
			Name: name, Labels: map[string]string{"dotted.key": fmt.Sprint(i)}, Target: &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1},
		}})
		fatal(t, err)
		_, err = containers.Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
			ID: fmt.Sprint("c", i), Image: name, Spec: &anypb.Any{TypeUrl: "s"}, Runtime: &containersapi.Container_Runtime{Name: "io.x"},
		}})
		fatal(t, err)
	}
	for filters, want := range map[string][]string{
		"":                                 {"a/two:2", "b/one:1"},
		"name==b/one:1":                    {"b/one:1"},
		`labels."dotted.key"==1`:           {"a/two:2"},
		"target.mediatype==m, name~=/two/": {"a/two:2"},
		"target.digest==nothing":           nil,
	} {
		r, err := images.List(ctx, &imagesapi.ListImagesRequest{Filters: []string{filters}})
		fatal(t, err)
		var got []string
		for _, i := range r.Images {
			got = append(got, i.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("filter %q: %v, want %v", filters, got, want)
		}
	}
	s, err := containers.ListStream(ctx, &containersapi.ListContainersRequest{Filters: []string{"id==c0", "image==a/two:2"}})
	fatal(t, err)
	n := 0
	for ; ; n++ {
		m, err := s.Recv()
		if err == io.EOF {
			break
		}
		fatal(t, err)
		if m.Container.Runtime.Name != "io.x" {
			t.Errorf("container %v", m.Container)
		}
	}
	if n != 2 {
		t.Errorf("%d messages, want one for each of 2 containers", n)
	}
}

func TestContainersChangeByMask(t *testing.T) {
	w := newWorld(t, stores)
	c := containersapi.NewContainersClient(w.conn)
	ctx := in(t, "a")
	base := &containersapi.Container{
		ID: "x", Spec: &anypb.Any{TypeUrl: "s"}, Runtime: &containersapi.Container_Runtime{Name: "r", Options: &anypb.Any{TypeUrl: "o"}},
		Snapshotter: "native", SnapshotKey: "k", Sandbox: "sb", Labels: map[string]string{"a": "1"}, CreatedAt: timestamppb.New(time.Unix(7, 0)),
	}
	made, err := c.Create(ctx, &containersapi.CreateContainerRequest{Container: base})
	fatal(t, err)
	if made.Container.CreatedAt.Seconds == 7 || made.Container.Sandbox != "sb" {
		t.Errorf("created %v", made.Container)
	}
	r, err := c.Update(ctx, &containersapi.UpdateContainerRequest{
		Container:  &containersapi.Container{ID: "x", SnapshotKey: "k2", Image: "ignored", Extensions: map[string]*anypb.Any{"e.f": {TypeUrl: "ext"}, "g": {TypeUrl: "ignored"}}},
		UpdateMask: mask("snapshotkey", "extensions.e.f"),
	})
	fatal(t, err)
	got := r.Container
	if got.SnapshotKey != "k2" || got.Image != "" || len(got.Extensions) != 1 || got.Extensions["e.f"].GetTypeUrl() != "ext" || got.Labels["a"] != "1" {
		t.Errorf("after a masked update: %v", got)
	}
	base.Image, base.Labels = "img", nil
	r, err = c.Update(ctx, &containersapi.UpdateContainerRequest{Container: base})
	fatal(t, err)
	if got := r.Container; got.Image != "img" || len(got.Labels) != 0 || len(got.Extensions) != 0 || got.SnapshotKey != "k" || got.Runtime.Options.GetTypeUrl() != "o" {
		t.Errorf("after an update of everything: %v", got)
	}
	_, err = c.Delete(ctx, &containersapi.DeleteContainerRequest{ID: "x"})
	fatal(t, err)
	made, err = c.Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{ID: "x", Runtime: base.Runtime}})
	fatal(t, err)
	if made.Container.Spec.GetTypeUrl() != "" {
		t.Errorf("without a spec: %v", made.Container)
	}
}

func TestSyncDeleteFreesTheSpace(t *testing.T) {
	w := newWorld(t, stores)
	images, leases, blobs := imagesapi.NewImagesClient(w.conn), leasesapi.NewLeasesClient(w.conn), contentapi.NewContentClient(w.conn)
	ctx := in(t, "a")
	l, err := leases.Create(ctx, &leasesapi.CreateRequest{Labels: map[string]string{"l": "1"}})
	fatal(t, err)
	put(t, blobs, leased(ctx, l.Lease.ID), "r", "kept by the lease")
	_, err = leases.Delete(ctx, &leasesapi.DeleteRequest{ID: l.Lease.ID, Sync: true})
	fatal(t, err)
	_, err = blobs.Info(ctx, &contentapi.InfoRequest{Digest: digestOfText("kept by the lease")})
	wantCode(t, "blob of a deleted lease", err, codes.NotFound)

	put(t, blobs, ctx, "r", "kept by the image")
	_, err = images.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name: "x", Target: &types.Descriptor{MediaType: "m", Digest: digestOfText("kept by the image"), Size: 17},
	}})
	fatal(t, err)
	_, err = images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "x", Sync: true, Target: &types.Descriptor{Digest: digestOfText("kept by the image")}})
	fatal(t, err)
	_, err = blobs.Info(ctx, &contentapi.InfoRequest{Digest: digestOfText("kept by the image")})
	wantCode(t, "blob of a deleted image", err, codes.NotFound)
}

func TestLeasesKeepEveryTypeOfResource(t *testing.T) {
	w := newWorld(t, stores)
	c := leasesapi.NewLeasesClient(w.conn)
	ctx := in(t, "a")
	l, err := c.Create(ctx, &leasesapi.CreateRequest{ID: "l", Labels: map[string]string{"k": "v"}})
	fatal(t, err)
	all := []*leasesapi.Resource{{Type: "content", ID: someDigest}, {Type: "images", ID: "i"}, {Type: "ingests", ID: "r"}, {Type: "snapshots/native", ID: "s"}}
	for _, r := range all {
		_, err := c.AddResource(ctx, &leasesapi.AddResourceRequest{ID: l.Lease.ID, Resource: r})
		fatal(t, err)
	}
	got, err := c.ListResources(ctx, &leasesapi.ListResourcesRequest{ID: "l"})
	fatal(t, err)
	if len(got.Resources) != len(all) {
		t.Errorf("resources %v", got.Resources)
	}
	_, err = c.DeleteResource(ctx, &leasesapi.DeleteResourceRequest{ID: "l", Resource: all[3]})
	fatal(t, err)
	got, err = c.ListResources(ctx, &leasesapi.ListResourcesRequest{ID: "l"})
	fatal(t, err)
	if len(got.Resources) != 3 {
		t.Errorf("resources after a deletion %v", got.Resources)
	}
	for filter, n := range map[string]int{"": 1, "id==l": 1, "labels.k==v": 1, "id==z": 0} {
		r, err := c.List(ctx, &leasesapi.ListRequest{Filters: []string{filter}})
		fatal(t, err)
		if len(r.Leases) != n {
			t.Errorf("filter %q: %d leases, want %d", filter, len(r.Leases), n)
		}
	}
}

func TestSnapshotsLiveThroughTheirStates(t *testing.T) {
	w := newWorld(t, stores)
	c := snapshotsapi.NewSnapshotsClient(w.conn)
	ctx := in(t, "a")
	m, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k", Labels: map[string]string{"mine": "1"}})
	fatal(t, err)
	if len(m.Mounts) != 1 || m.Mounts[0].Type != "bind" {
		t.Fatalf("mounts %v", m.Mounts)
	}
	fatal(t, os.WriteFile(filepath.Join(m.Mounts[0].Source, "file"), []byte("data"), 0o644))
	again, err := c.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "native", Key: "k"})
	fatal(t, err)
	if again.Mounts[0].Source != m.Mounts[0].Source {
		t.Errorf("mounts changed: %v", again)
	}
	u, err := c.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "native", Key: "k"})
	fatal(t, err)
	if u.Size == 0 || u.Inodes != 2 {
		t.Errorf("usage %v", u)
	}
	_, err = c.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Key: "k", Name: "base", Labels: map[string]string{"c": "1"}})
	fatal(t, err)
	_, err = c.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: "native", Key: "v", Parent: "base"})
	fatal(t, err)
	up, err := c.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{Snapshotter: "native", Info: &snapshotsapi.Info{Name: "base", Labels: map[string]string{"d": "2"}}, UpdateMask: mask("labels.d")})
	fatal(t, err)
	if fmt.Sprint(up.Info.Labels) != "map[c:1 d:2]" || up.Info.Kind != snapshotsapi.Kind_COMMITTED {
		t.Errorf("updated %v", up.Info)
	}
	st, err := c.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "native", Key: "v"})
	fatal(t, err)
	if st.Info.Kind != snapshotsapi.Kind_VIEW || st.Info.Parent != "base" {
		t.Errorf("view %v", st.Info)
	}
	for filter, want := range map[string]string{"": "base v", "kind==view": "v", "parent==base": "v", "name==base": "base", "labels.c==1": "base"} {
		s, err := c.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: "native", Filters: []string{filter}})
		fatal(t, err)
		got := ""
		for {
			m, err := s.Recv()
			if err == io.EOF {
				break
			}
			fatal(t, err)
			for _, i := range m.Info {
				got += " " + i.Name
			}
		}
		if got != " "+want {
			t.Errorf("filter %q:%s, want %s", filter, got, want)
		}
	}
	for _, key := range []string{"v", "base"} {
		_, err = c.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "native", Key: key})
		fatal(t, err)
	}
	_, err = c.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: "native"})
	fatal(t, err)
}

func TestDiffAndApplyRoundTrip(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a diff mounts both sides")
	}
	w := newWorld(t, stores)
	snapshots, d := snapshotsapi.NewSnapshotsClient(w.conn), diffapi.NewDiffClient(w.conn)
	ctx := in(t, "a")
	from, err := snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "from"})
	fatal(t, err)
	fatal(t, os.WriteFile(filepath.Join(from.Mounts[0].Source, "file"), []byte("data"), 0o644))
	layer, err := d.Diff(ctx, &diffapi.DiffRequest{Right: from.Mounts, Ref: "layer", Labels: map[string]string{"k": "v"}})
	fatal(t, err)
	if layer.Diff.MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" {
		t.Errorf("layer %v", layer.Diff)
	}
	info, err := contentapi.NewContentClient(w.conn).Info(ctx, &contentapi.InfoRequest{Digest: layer.Diff.Digest})
	fatal(t, err)
	to, err := snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "to"})
	fatal(t, err)
	applied, err := d.Apply(ctx, &diffapi.ApplyRequest{Diff: layer.Diff, Mounts: to.Mounts, SyncFs: true})
	fatal(t, err)
	if applied.Applied.Digest != info.Info.Labels["containerd.io/uncompressed"] || info.Info.Labels["k"] != "v" {
		t.Errorf("applied %v, labels %v", applied.Applied, info.Info.Labels)
	}
	if data, err := os.ReadFile(filepath.Join(to.Mounts[0].Source, "file")); err != nil || string(data) != "data" {
		t.Errorf("applied file: %q, %v", data, err)
	}
}

func TestSandboxRecordsChangeByField(t *testing.T) {
	w := newWorld(t, stores)
	c := sandboxapi.NewStoreClient(w.conn)
	ctx := in(t, "a")
	sb := &types.Sandbox{SandboxID: "s", Runtime: &types.Sandbox_Runtime{Name: "r"}, Sandboxer: "shim", Labels: map[string]string{"a": "1"}}
	_, err := c.Create(ctx, &sandboxapi.StoreCreateRequest{Sandbox: sb})
	fatal(t, err)
	u, err := c.Update(ctx, &sandboxapi.StoreUpdateRequest{Sandbox: &types.Sandbox{SandboxID: "s", Labels: map[string]string{"b": "2"}}, Fields: []string{"labels.b"}})
	fatal(t, err)
	if fmt.Sprint(u.Sandbox.Labels) != "map[a:1 b:2]" || u.Sandbox.Sandboxer != "shim" {
		t.Errorf("updated %v", u.Sandbox)
	}
	l, err := c.List(ctx, &sandboxapi.StoreListRequest{Filters: []string{"labels.b==2"}})
	fatal(t, err)
	if len(l.List) != 1 || l.List[0].SandboxID != "s" {
		t.Errorf("list %v", l.List)
	}
	_, err = c.Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: "s"})
	fatal(t, err)
}

func TestSubscribersHearOfEverything(t *testing.T) {
	w := newWorld(t, stores)
	c := eventsapi.NewEventsClient(w.conn)
	s, err := c.Subscribe(in(t, ""), &eventsapi.SubscribeRequest{})
	fatal(t, err)
	awaitSubscriber(t, c, s)
	ctx := in(t, "a")
	images := imagesapi.NewImagesClient(w.conn)
	target := &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1}
	_, err = images.Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "x", Target: target}})
	fatal(t, err)
	_, err = images.Update(ctx, &imagesapi.UpdateImageRequest{Image: &imagesapi.Image{Name: "x", Target: target}})
	fatal(t, err)
	_, err = images.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "x"})
	fatal(t, err)
	snapshots := snapshotsapi.NewSnapshotsClient(w.conn)
	_, err = snapshots.View(ctx, &snapshotsapi.ViewSnapshotRequest{Snapshotter: "native", Key: "silent"})
	fatal(t, err)
	_, err = snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"})
	fatal(t, err)
	forwardByShim(t, w, &types.Envelope{Timestamp: timestamppb.New(time.Unix(9, 0)), Namespace: "b", Topic: "/tasks/exit", Event: &anypb.Any{TypeUrl: "t"}})
	for _, want := range []string{
		"a /images/create containerd.services.images.v1.ImageCreate", "a /images/update containerd.services.images.v1.ImageUpdate",
		"a /images/delete containerd.services.images.v1.ImageDelete", "a /snapshot/prepare containerd.events.SnapshotPrepare", "b /tasks/exit t",
	} {
		e, err := s.Recv()
		fatal(t, err)
		if got := fmt.Sprint(e.Namespace, " ", e.Topic, " ", e.Event.TypeUrl); got != want {
			t.Errorf("event %s, want %s", got, want)
		}
	}
}

// awaitSubscriber publishes until the subscription has begun, and takes these
// events from it.
func awaitSubscriber(t *testing.T, c eventsapi.EventsClient, s eventsapi.Events_SubscribeClient) {
	t.Helper()
	heard := make(chan error, 1)
	go func() {
		_, err := s.Recv()
		heard <- err
	}()
	sent := 0
	for ; ; sent++ {
		_, err := c.Publish(in(t, "warm"), &eventsapi.PublishRequest{Topic: "/up", Event: &anypb.Any{TypeUrl: fmt.Sprint(sent)}})
		fatal(t, err)
		select {
		case err := <-heard:
			fatal(t, err)
			_, err = c.Publish(in(t, "warm"), &eventsapi.PublishRequest{Topic: "/ready"})
			fatal(t, err)
			for {
				e, err := s.Recv()
				fatal(t, err)
				if e.Topic == "/ready" {
					return
				}
			}
		default:
		}
	}
}

// forwardByShim sends an event as shims do.
func forwardByShim(t *testing.T, w *world, e *types.Envelope) {
	t.Helper()
	srv, err := ttrpc.NewServer()
	fatal(t, err)
	NewEvents(w.events).RegisterTTRPC(srv)
	l, conn := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(context.Background(), l)
	}()
	c := ttrpc.NewClient(conn())
	_, err = shimapi.NewTTRPCEventsClient(c).Forward(in(t, ""), &shimapi.ForwardRequest{Envelope: e})
	fatal(t, err)
	c.Close()
	srv.Close()
	<-done
}
