// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var (
	someDigest = "sha256:" + strings.Repeat("0", 64)
	longLabel  = map[string]string{"k": strings.Repeat("v", 4096)}
	longName   = strings.Repeat("n", 77)
	hugeName   = strings.Repeat("n", 40000) // longer than a key of the database may be
	mask       = func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
)

// badCall is a request that is refused.
type badCall struct {
	name string
	want codes.Code
	call func(ctx context.Context) error
}

func runBad(t *testing.T, ns string, calls []badCall) {
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) { wantCode(t, c.name, c.call(in(t, ns)), c.want) })
	}
}

func TestImagesRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := imagesapi.NewImagesClient(w.conn)
	create := func(img *imagesapi.Image) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, &imagesapi.CreateImageRequest{Image: img})
			return err
		}
	}
	target := &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1}
	_, err := c.Create(in(t, "a"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "there", Target: target}})
	fatal(t, err)
	update := func(img *imagesapi.Image, paths ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Update(ctx, &imagesapi.UpdateImageRequest{Image: img, UpdateMask: mask(paths...)})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no image", codes.InvalidArgument, create(nil)},
		{"no name", codes.InvalidArgument, create(&imagesapi.Image{Target: target})},
		{"no target", codes.InvalidArgument, create(&imagesapi.Image{Name: "x"})},
		{"bad digest", codes.InvalidArgument, create(&imagesapi.Image{Name: "x", Target: &types.Descriptor{MediaType: "m", Digest: "sha256:1", Size: 1}})},
		{"no size", codes.InvalidArgument, create(&imagesapi.Image{Name: "x", Target: &types.Descriptor{MediaType: "m", Digest: someDigest}})},
		{"no media type", codes.InvalidArgument, create(&imagesapi.Image{Name: "x", Target: &types.Descriptor{Digest: someDigest, Size: 1}})},
		{"long label", codes.InvalidArgument, create(&imagesapi.Image{Name: "x", Target: target, Labels: longLabel})},
		{"exists", codes.AlreadyExists, create(&imagesapi.Image{Name: "there", Target: target})},
		{"update nothing", codes.InvalidArgument, update(nil)},
		{"update missing", codes.NotFound, update(&imagesapi.Image{Name: "x", Target: target})},
		{"update name", codes.InvalidArgument, update(&imagesapi.Image{Name: "there"}, "name")},
		{"update part of target", codes.InvalidArgument, update(&imagesapi.Image{Name: "there"}, "target.digest")},
		{"update to no target", codes.InvalidArgument, update(&imagesapi.Image{Name: "there"}, "target")},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "x"})
			return err
		}},
		{"delete moved", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &imagesapi.DeleteImageRequest{Name: "there", Target: &types.Descriptor{Digest: "sha256:" + strings.Repeat("1", 64)}})
			return err
		}},
		{"bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.List(ctx, &imagesapi.ListImagesRequest{Filters: []string{"name=="}})
			return err
		}},
	})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, create(&imagesapi.Image{Name: "x", Target: target})}})
	runBad(t, "no/good", []badCall{{"bad namespace", codes.InvalidArgument, create(&imagesapi.Image{Name: "x", Target: target})}})
	_, err = c.Get(in(t, "b"), &imagesapi.GetImageRequest{Name: "there"})
	wantText(t, err, `image "there": not found`)
	_, err = c.Create(in(t, "a"), &imagesapi.CreateImageRequest{Image: &imagesapi.Image{Name: "there", Target: target}})
	wantText(t, err, `image "there": already exists`)
	_, err = c.List(in(t, ""), &imagesapi.ListImagesRequest{})
	wantText(t, err, "namespace is required: failed precondition")
}

func TestContainersRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := containersapi.NewContainersClient(w.conn)
	spec, runtime := &anypb.Any{TypeUrl: "s"}, &containersapi.Container_Runtime{Name: "r"}
	create := func(con *containersapi.Container) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, &containersapi.CreateContainerRequest{Container: con})
			return err
		}
	}
	update := func(con *containersapi.Container, paths ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Update(ctx, &containersapi.UpdateContainerRequest{Container: con, UpdateMask: mask(paths...)})
			return err
		}
	}
	fatal(t, create(&containersapi.Container{ID: "there", Spec: spec, Runtime: runtime})(in(t, "a")))
	runBad(t, "a", []badCall{
		{"no container", codes.InvalidArgument, create(nil)},
		{"bad id", codes.InvalidArgument, create(&containersapi.Container{ID: "a b", Spec: spec, Runtime: runtime})},
		{"long id", codes.InvalidArgument, create(&containersapi.Container{ID: longName, Spec: spec, Runtime: runtime})},
		{"no runtime", codes.InvalidArgument, create(&containersapi.Container{ID: "x", Spec: spec})},
		{"key without snapshotter", codes.InvalidArgument, create(&containersapi.Container{ID: "x", Spec: spec, Runtime: runtime, SnapshotKey: "k"})},
		{"empty extension", codes.InvalidArgument, create(&containersapi.Container{ID: "x", Spec: spec, Runtime: runtime, Extensions: map[string]*anypb.Any{"": spec}})},
		{"long label", codes.InvalidArgument, create(&containersapi.Container{ID: "x", Spec: spec, Runtime: runtime, Labels: longLabel})},
		{"exists", codes.AlreadyExists, create(&containersapi.Container{ID: "there", Spec: spec, Runtime: runtime})},
		{"update nothing", codes.InvalidArgument, update(nil)},
		{"update missing", codes.NotFound, update(&containersapi.Container{ID: "x"})},
		{"other runtime", codes.InvalidArgument, update(&containersapi.Container{ID: "there", Spec: spec, Runtime: &containersapi.Container_Runtime{Name: "z"}})},
		{"other snapshotter", codes.InvalidArgument, update(&containersapi.Container{ID: "there", Spec: spec, Runtime: runtime, Snapshotter: "z"})},
		{"update runtime", codes.InvalidArgument, update(&containersapi.Container{ID: "there"}, "runtime.name")},
		{"update camel case", codes.InvalidArgument, update(&containersapi.Container{ID: "there"}, "snapshotKey")},
		{"get missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Get(ctx, &containersapi.GetContainerRequest{ID: ""})
			return err
		}},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &containersapi.DeleteContainerRequest{ID: "x"})
			return err
		}},
		{"bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			s, err := c.ListStream(ctx, &containersapi.ListContainersRequest{Filters: []string{"labels."}})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}},
	})
	_, err := c.Get(in(t, "b"), &containersapi.GetContainerRequest{ID: "there"})
	wantText(t, err, `container "there" in namespace "b": not found`)
	wantText(t, create(&containersapi.Container{ID: "there", Spec: spec, Runtime: runtime})(in(t, "a")), `container "there": already exists`)
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, create(&containersapi.Container{ID: "x", Spec: spec, Runtime: runtime})}})
}

func TestContentRefusesBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := contentapi.NewContentClient(w.conn)
	put(t, c, in(t, "a"), "r", "hello")
	d := digestOfText("hello")
	read := func(r *contentapi.ReadContentRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			s, err := c.Read(ctx, r)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}
	update := func(info *contentapi.Info, paths ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Update(ctx, &contentapi.UpdateRequest{Info: info, UpdateMask: mask(paths...)})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"info without digest", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Info(ctx, &contentapi.InfoRequest{})
			return err
		}},
		{"delete bad digest", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &contentapi.DeleteContentRequest{Digest: "../../etc/passwd"})
			return err
		}},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &contentapi.DeleteContentRequest{Digest: someDigest})
			return err
		}},
		{"read missing", codes.NotFound, read(&contentapi.ReadContentRequest{Digest: someDigest})},
		{"read bad digest", codes.InvalidArgument, read(&contentapi.ReadContentRequest{Digest: "sha256:zz"})},
		{"read beyond the end", codes.OutOfRange, read(&contentapi.ReadContentRequest{Digest: d, Offset: 6})},
		{"update nothing", codes.InvalidArgument, update(nil)},
		{"update size", codes.InvalidArgument, update(&contentapi.Info{Digest: d}, "size")},
		{"update missing", codes.NotFound, update(&contentapi.Info{Digest: someDigest})},
		{"update long label", codes.InvalidArgument, update(&contentapi.Info{Digest: d, Labels: longLabel})},
		{"status of nothing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Status(ctx, &contentapi.StatusRequest{Ref: "x"})
			return err
		}},
		{"abort nothing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Abort(ctx, &contentapi.AbortRequest{Ref: "x"})
			return err
		}},
		{"statuses with a bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.ListStatuses(ctx, &contentapi.ListStatusesRequest{Filters: []string{"ref~=("}})
			return err
		}},
	})
	runBad(t, "b", []badCall{{"blob of another namespace", codes.NotFound, read(&contentapi.ReadContentRequest{Digest: d})}})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, read(&contentapi.ReadContentRequest{Digest: d})}})
	_, err := c.Info(in(t, "a"), &contentapi.InfoRequest{Digest: someDigest})
	wantText(t, err, "content digest "+someDigest+": not found")
}

func TestSnapshotsRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := snapshotsapi.NewSnapshotsClient(w.conn)
	ctx := in(t, "a")
	_, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"})
	fatal(t, err)
	_, err = c.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Key: "k", Name: "base"})
	fatal(t, err)
	_, err = c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "top", Parent: "base"})
	fatal(t, err)
	prepare := func(sn, key, parent string, labels map[string]string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: sn, Key: key, Parent: parent, Labels: labels})
			return err
		}
	}
	commit := func(name, key string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Name: name, Key: key})
			return err
		}
	}
	remove := func(key string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "native", Key: key})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no snapshotter", codes.InvalidArgument, prepare("", "x", "", nil)},
		{"unknown snapshotter", codes.InvalidArgument, prepare("zfs", "x", "", nil)},
		{"no key", codes.InvalidArgument, prepare("native", "", "", nil)},
		{"unknown parent", codes.NotFound, prepare("native", "x", "y", nil)},
		{"active parent", codes.InvalidArgument, prepare("native", "x", "top", nil)},
		{"long label", codes.InvalidArgument, prepare("native", "x", "", longLabel)},
		{"exists", codes.AlreadyExists, prepare("native", "top", "", nil)},
		{"commit missing", codes.NotFound, commit("n", "x")},
		{"commit without a name", codes.InvalidArgument, commit("", "top")},
		{"commit committed", codes.FailedPrecondition, commit("n", "base")},
		{"commit to a name that exists", codes.AlreadyExists, commit("base", "top")},
		{"remove missing", codes.NotFound, remove("x")},
		{"remove parent", codes.FailedPrecondition, remove("base")},
		{"mounts of committed", codes.FailedPrecondition, func(ctx context.Context) error {
			_, err := c.Mounts(ctx, &snapshotsapi.MountsRequest{Snapshotter: "native", Key: "base"})
			return err
		}},
		{"update parent", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{Snapshotter: "native", Info: &snapshotsapi.Info{Name: "top"}, UpdateMask: mask("parent")})
			return err
		}},
		{"update nothing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{Snapshotter: "native"})
			return err
		}},
		{"stat missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Stat(ctx, &snapshotsapi.StatSnapshotRequest{Snapshotter: "native", Key: "x"})
			return err
		}},
		{"usage missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Usage(ctx, &snapshotsapi.UsageRequest{Snapshotter: "native", Key: "x"})
			return err
		}},
		{"bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			s, err := c.List(ctx, &snapshotsapi.ListSnapshotsRequest{Snapshotter: "native", Filters: []string{"kind=="}})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}},
	})
	runBad(t, "b", []badCall{{"parent in another namespace", codes.NotFound, prepare("native", "x", "base", nil)}})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, prepare("native", "x", "", nil)}})
	for want, err := range map[string]error{
		"snapshot x does not exist: not found":                   remove("x")(ctx),
		`snapshot "top": already exists`:                         prepare("native", "top", "", nil)(ctx),
		"cannot remove snapshot with child: failed precondition": remove("base")(ctx),
	} {
		wantText(t, err, want)
	}
}

func TestLeasesRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := leasesapi.NewLeasesClient(w.conn)
	_, err := c.Create(in(t, "a"), &leasesapi.CreateRequest{ID: "there"})
	fatal(t, err)
	add := func(id string, r *leasesapi.Resource) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.AddResource(ctx, &leasesapi.AddResourceRequest{ID: id, Resource: r})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"exists", codes.AlreadyExists, func(ctx context.Context) error {
			_, err := c.Create(ctx, &leasesapi.CreateRequest{ID: "there"})
			return err
		}},
		{"long label", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Create(ctx, &leasesapi.CreateRequest{ID: "x", Labels: longLabel})
			return err
		}},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &leasesapi.DeleteRequest{ID: "x"})
			return err
		}},
		{"resources of a missing one", codes.NotFound, func(ctx context.Context) error {
			_, err := c.ListResources(ctx, &leasesapi.ListResourcesRequest{ID: "x"})
			return err
		}},
		{"add to a missing one", codes.NotFound, add("x", &leasesapi.Resource{Type: "content", ID: someDigest})},
		{"huge resource", codes.InvalidArgument, add("there", &leasesapi.Resource{Type: "images", ID: hugeName})},
		{"no resource", codes.InvalidArgument, add("there", nil)},
		{"unknown type", codes.Unimplemented, add("there", &leasesapi.Resource{Type: "stream", ID: "x"})},
		{"no snapshotter", codes.InvalidArgument, add("there", &leasesapi.Resource{Type: "snapshots", ID: "x"})},
		{"two snapshotters", codes.InvalidArgument, add("there", &leasesapi.Resource{Type: "snapshots/a/b", ID: "x"})},
		{"part of a type", codes.InvalidArgument, add("there", &leasesapi.Resource{Type: "content/a", ID: someDigest})},
		{"bad digest", codes.InvalidArgument, add("there", &leasesapi.Resource{Type: "content", ID: "x"})},
		{"delete of an unknown type", codes.Unimplemented, func(ctx context.Context) error {
			_, err := c.DeleteResource(ctx, &leasesapi.DeleteResourceRequest{ID: "there", Resource: &leasesapi.Resource{Type: "tasks", ID: "x"}})
			return err
		}},
	})
	runBad(t, "b", []badCall{{"of another namespace", codes.NotFound, add("there", &leasesapi.Resource{Type: "content", ID: someDigest})}})
	_, err = c.Delete(in(t, "a"), &leasesapi.DeleteRequest{ID: "x"})
	wantText(t, err, `lease "x": not found`)
}

func TestNamespacesRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := namespacesapi.NewNamespacesClient(w.conn)
	create := func(n *namespacesapi.Namespace) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, &namespacesapi.CreateNamespaceRequest{Namespace: n})
			return err
		}
	}
	fatal(t, create(&namespacesapi.Namespace{Name: "there"})(in(t, "")))
	runBad(t, "", []badCall{
		{"no namespace", codes.InvalidArgument, create(nil)},
		{"bad name", codes.InvalidArgument, create(&namespacesapi.Namespace{Name: "a/b"})},
		{"long name", codes.InvalidArgument, create(&namespacesapi.Namespace{Name: longName})},
		{"reserved name", codes.InvalidArgument, create(&namespacesapi.Namespace{Name: "version"})},
		{"long label", codes.InvalidArgument, create(&namespacesapi.Namespace{Name: "x", Labels: longLabel})},
		{"exists", codes.AlreadyExists, create(&namespacesapi.Namespace{Name: "there"})},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &namespacesapi.DeleteNamespaceRequest{Name: "x"})
			return err
		}},
		{"update by another path", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Update(ctx, &namespacesapi.UpdateNamespaceRequest{Namespace: &namespacesapi.Namespace{Name: "there"}, UpdateMask: mask("labels")})
			return err
		}},
	})
}

func TestEventsRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := eventsapi.NewEventsClient(w.conn)
	publish := func(topic string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Publish(ctx, &eventsapi.PublishRequest{Topic: topic, Event: &anypb.Any{TypeUrl: "t"}})
			return err
		}
	}
	forward := func(e *types.Envelope) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no topic", codes.InvalidArgument, publish("")},
		{"no slash", codes.InvalidArgument, publish("x")},
		{"bad component", codes.InvalidArgument, publish("/a b")},
		{"impossible time", codes.InvalidArgument, forward(&types.Envelope{Namespace: "a", Topic: "/x", Timestamp: timestamppb.New(time.Time{})})},
		{"no envelope", codes.FailedPrecondition, forward(nil)},
		{"bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			s, err := c.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: []string{"topic=="}})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}},
	})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, publish("/x")}})
}

func TestSandboxesRefuseBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := sandboxapi.NewStoreClient(w.conn)
	create := func(s *types.Sandbox) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, &sandboxapi.StoreCreateRequest{Sandbox: s})
			return err
		}
	}
	update := func(s *types.Sandbox, fields ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Update(ctx, &sandboxapi.StoreUpdateRequest{Sandbox: s, Fields: fields})
			return err
		}
	}
	runtime := &types.Sandbox_Runtime{Name: "r"}
	fatal(t, create(&types.Sandbox{SandboxID: "there", Runtime: runtime})(in(t, "a")))
	runBad(t, "a", []badCall{
		{"no sandbox", codes.InvalidArgument, create(nil)},
		{"no runtime", codes.InvalidArgument, create(&types.Sandbox{SandboxID: "x"})},
		{"long id", codes.InvalidArgument, create(&types.Sandbox{SandboxID: longName, Runtime: runtime})},
		{"exists", codes.AlreadyExists, create(&types.Sandbox{SandboxID: "there", Runtime: runtime})},
		{"update missing", codes.NotFound, update(&types.Sandbox{SandboxID: "x"})},
		{"update nothing", codes.NotFound, update(nil)},
		{"update id", codes.InvalidArgument, update(&types.Sandbox{SandboxID: "there", Runtime: runtime}, "id")},
		{"other runtime", codes.InvalidArgument, update(&types.Sandbox{SandboxID: "there", Runtime: &types.Sandbox_Runtime{Name: "z"}}, "runtime")},
		{"get missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Get(ctx, &sandboxapi.StoreGetRequest{SandboxID: "x"})
			return err
		}},
		{"delete missing", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Delete(ctx, &sandboxapi.StoreDeleteRequest{SandboxID: "x"})
			return err
		}},
	})
}

func TestDiffRefusesBadInput(t *testing.T) {
	w := newWorld(t, stores)
	c := diffapi.NewDiffClient(w.conn)
	put(t, contentapi.NewContentClient(w.conn), in(t, "a"), "r", "hello")
	apply := func(d *types.Descriptor) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Apply(ctx, &diffapi.ApplyRequest{Diff: d})
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no descriptor", codes.InvalidArgument, apply(nil)},
		{"bad digest", codes.InvalidArgument, apply(&types.Descriptor{Digest: "x"})},
		{"missing blob", codes.NotFound, apply(&types.Descriptor{Digest: someDigest, MediaType: "application/vnd.oci.image.layer.v1.tar"})},
		{"encrypted", codes.Unimplemented, apply(&types.Descriptor{Digest: digestOfText("hello"), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"})},
		{"unknown type of a diff", codes.Unimplemented, func(ctx context.Context) error {
			_, err := c.Diff(ctx, &diffapi.DiffRequest{MediaType: "application/x"})
			return err
		}},
		{"long label of a diff", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Diff(ctx, &diffapi.DiffRequest{Labels: longLabel})
			return err
		}},
	})
}
