// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/content"
	"slipway/content/contenttest"
	"slipway/proxy"
	"slipway/snapshot"
	"slipway/snapshot/snapshottest"
)

// A snapshotter keeps its contract when another daemon serves it.
func TestASnapshotterBehindASocketKeepsTheContract(t *testing.T) {
	conf := configAt(shortDir(t))
	conf.DisabledPlugins = []string{gcURI} // nothing refers to what the suite makes
	start(t, conf)
	n := 0
	snapshottest.Run(t, func(t *testing.T) snapshot.Snapshotter {
		n++
		s := proxy.NewSnapshotter(connect(t, conf.Address(), fmt.Sprint("case", n)), "native")
		t.Cleanup(func() { s.Close() })
		return s
	})
}

// connect dials without the client's conversion of errors.
func connect(t *testing.T, address, namespace string) *grpc.ClientConn {
	t.Helper()
	header := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, namespaceHeader, namespace)
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(header(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(header(ctx), desc, cc, method, opts...)
		}))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestProxyPluginsAreComponents(t *testing.T) {
	backend := configAt(shortDir(t))
	start(t, backend)
	conf := configAt(shortDir(t))
	conf.DisabledPlugins = []string{contentType + ".content"}
	conf.ProxyPlugins = map[string]ProxyPlugin{
		"native2": {Type: "snapshot", Address: backend.Address(), Platform: "linux/arm64", Capabilities: []string{"a"}, Exports: map[string]string{"k": "v"}},
		"boxes":   {Type: "sandbox", Address: "unix://" + filepath.Join(conf.Root, "absent.sock")},
		"blobs":   {Type: "content", Address: backend.Address()},
	}
	_, c, _ := start(t, conf)
	r, err := c.Introspection().Plugins(t.Context(), &introspectionapi.PluginsRequest{Filters: []string{"id==native2", "id==boxes", "id==blobs"}})
	if err != nil || len(r.Plugins) != 3 {
		t.Fatalf("plugins %v, %v", r, err)
	}
	for _, p := range r.Plugins {
		if p.InitErr != nil {
			t.Errorf("%s: %v", p.ID, p.InitErr)
		}
		if p.ID == "native2" && (p.Type != snapshotterType || p.Platforms[0].Architecture != "arm64" || !slices.Equal(p.Capabilities, []string{"a"}) || p.Exports["k"] != "v") {
			t.Errorf("native2 is %v", p)
		}
	}
	// The names that the backend has for its snapshotters are its own.
	_, err = c.Snapshots().Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native2", Key: "k"})
	if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		t.Errorf("a snapshotter that the backend does not have: %v", err)
	}
	_, err = c.SandboxController().Create(t.Context(), &sandboxapi.ControllerCreateRequest{SandboxID: "s", Sandboxer: "boxes"})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("a controller that is not up: %v", err)
	}
}

func TestSnapshotsGoThroughTheProxy(t *testing.T) {
	backend := configAt(shortDir(t))
	backend.DisabledPlugins = []string{gcURI}
	_, direct, _ := start(t, backend)
	conf := configAt(shortDir(t))
	conf.ProxyPlugins = map[string]ProxyPlugin{"native": {Type: "snapshot", Address: backend.Address()}}
	_, c, _ := start(t, conf)
	if _, err := c.Snapshots().Prepare(t.Context(), &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: "k"}); err != nil {
		t.Fatal(err)
	}
	list, err := direct.Snapshots().List(t.Context(), &snapshotsapi.ListSnapshotsRequest{Snapshotter: "native"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := list.Recv(); err != nil || len(r.Info) != 1 || r.Info[0].Kind != snapshotsapi.Kind_ACTIVE {
		t.Errorf("the backend has %v, %v", r, err)
	}
}

// serveProxy serves what register adds on a socket, as a plug-in does: it
// knows no namespaces.
func serveProxy(t *testing.T, register func(*grpc.Server)) (address string) {
	t.Helper()
	address = filepath.Join(shortDir(t), "p.sock")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.WaitForHandlers(true), // they write into directories of the test
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, errgrpc.ToGRPC(err)
		}),
		grpc.StreamInterceptor(func(s any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return errgrpc.ToGRPC(h(s, stream))
		}))
	register(srv)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return address
}

// serveContent serves a content store of its own.
func serveContent(t *testing.T) (address string, local *content.Local) {
	t.Helper()
	local, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return serveProxy(t, func(srv *grpc.Server) {
		contentapi.RegisterContentServer(srv, &contenttest.Server{Local: local})
	}), local
}

// withContent is a configuration whose content store is at address.
func withContent(t *testing.T, address string) *Config {
	conf := configAt(shortDir(t))
	conf.DisabledPlugins = []string{contentType + ".content"}
	conf.ProxyPlugins = map[string]ProxyPlugin{"blobs": {Type: "content", Address: address}}
	return conf
}

func TestAContentStoreBehindASocketKeepsTheContract(t *testing.T) {
	contenttest.Run(t, func(t *testing.T) content.Store {
		address, _ := serveContent(t)
		return proxy.NewContent(connect(t, address, "n"), "blobs")
	})
}

// A daemon whose blobs are elsewhere serves its clients as any other, and its
// collections reach there.
func TestBlobsGoThroughTheProxy(t *testing.T) {
	address, local := serveContent(t)
	conf := withContent(t, address)
	// The contract's blobs have nothing that keeps them from a collection.
	options[gcOptions](conf, gcURI).StartupDelay = Duration(time.Hour)
	d, c, _ := start(t, conf)
	contenttest.Run(t, func(t *testing.T) content.Store { return dial(t, conf.Address(), path.Base(t.Name())).Store() })
	if err := put(t.Context(), c.Store(), "r", "text"); err != nil {
		t.Fatal(err)
	}
	sum := digest.FromString("text")
	if info, err := local.Info(t.Context(), sum); err != nil || info.Size != 4 {
		t.Errorf("the backend has %v, %v", info, err)
	}
	w, err := local.Writer(t.Context(), content.WriterOpts{Ref: "n/1/lost"})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := c.Store().Delete(t.Context(), sum); err != nil {
		t.Fatal(err)
	}
	if _, err := d.db.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Info(t.Context(), sum); !errdefs.IsNotFound(err) {
		t.Errorf("a blob that was deleted is still in the backend: %v", err)
	}
	if _, err := local.Status(t.Context(), "n/1/lost"); !errdefs.IsNotFound(err) {
		t.Errorf("an ingest of nobody is still in the backend: %v", err)
	}
}

func TestThereIsOneContentStore(t *testing.T) {
	address, _ := serveContent(t)
	conf := withContent(t, address)
	conf.DisabledPlugins = nil
	conf.RequiredPlugins = []string{metaURI}
	_, err := New(t.Context(), conf)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "there are 2 (blobs, content)") {
		t.Errorf("two content stores: %v", err)
	}
}

// fakeDiffer notes what it is asked and passes on layers of text.
type fakeDiffer struct {
	diffapi.UnimplementedDiffServer
	applied  []*diffapi.ApplyRequest
	compared []*diffapi.DiffRequest
}

func (f *fakeDiffer) Apply(_ context.Context, r *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	if f.applied = append(f.applied, r); r.Diff.MediaType != "text/x-layer" {
		return nil, fmt.Errorf("media type %s: %w", r.Diff.MediaType, errdefs.ErrNotImplemented)
	}
	return &diffapi.ApplyResponse{Applied: &types.Descriptor{MediaType: "text/applied", Digest: r.Diff.Digest, Size: 7}}, nil
}

func (f *fakeDiffer) Diff(_ context.Context, r *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	if f.compared = append(f.compared, r); r.MediaType != "text/x-layer" {
		return nil, fmt.Errorf("media type %s: %w", r.MediaType, errdefs.ErrNotImplemented)
	}
	return &diffapi.DiffResponse{Diff: &types.Descriptor{MediaType: r.MediaType, Size: 9}}, nil
}

// Differs are asked in the configured order, until one can do it.
func TestDiffersAreAskedInTurn(t *testing.T) {
	f := &fakeDiffer{}
	address := serveProxy(t, func(srv *grpc.Server) { diffapi.RegisterDiffServer(srv, f) })
	conf := configAt(shortDir(t))
	conf.ProxyPlugins = map[string]ProxyPlugin{"texts": {Type: "diff", Address: address}}
	options[diffOptions](conf, serviceType+".diff-service").Default = []string{"texts", "walking"}
	_, c, _ := start(t, conf)
	layer, root := []byte("layer"), t.TempDir()
	if err := put(t.Context(), c.Store(), "r", string(layer)); err != nil {
		t.Fatal(err)
	}
	mounts := []*types.Mount{{Type: "bind", Source: root, Options: []string{"rw", "rbind"}}}
	desc := &types.Descriptor{MediaType: "text/x-layer", Digest: digest.FromBytes(layer).String(), Size: int64(len(layer))}
	payloads := map[string]*anypb.Any{"p": {TypeUrl: "t"}}
	r, err := c.Diff().Apply(t.Context(), &diffapi.ApplyRequest{Diff: desc, Mounts: mounts, Payloads: payloads, SyncFs: true})
	if err != nil || r.Applied.MediaType != "text/applied" || r.Applied.Size != 7 || r.Applied.Digest != desc.Digest {
		t.Errorf("applied %v, %v", r, err)
	}
	if a := f.applied[0]; a.Mounts[0].Source != root || !a.SyncFs || a.Payloads["p"].GetTypeUrl() != "t" {
		t.Errorf("the differ was asked %v", a)
	}
	// What it leaves, the next one does: the reason is its own.
	desc.MediaType = "application/vnd.oci.image.layer.v1.tar"
	if _, err := c.Diff().Apply(t.Context(), &diffapi.ApplyRequest{Diff: desc, Mounts: mounts}); err == nil || errdefs.IsNotImplemented(err) {
		t.Errorf("a layer that is no archive: %v", err)
	}
	made, err := c.Diff().Diff(t.Context(), &diffapi.DiffRequest{Right: mounts, MediaType: "text/x-layer", Ref: "r", SourceDateEpoch: timestamppb.New(time.Unix(5, 0))})
	if err != nil || made.Diff.Size != 9 || f.compared[0].Ref != "r" || f.compared[0].SourceDateEpoch.Seconds != 5 {
		t.Errorf("made %v, %v of %v", made, err, f.compared[0])
	}
	if len(f.applied) != 2 || len(f.compared) != 1 {
		t.Errorf("the differ was asked %d and %d times", len(f.applied), len(f.compared))
	}
}

func TestADifferThatIsNotThereIsNamed(t *testing.T) {
	conf := configAt(shortDir(t))
	options[diffOptions](conf, serviceType+".diff-service").Default = []string{"texts"}
	conf.RequiredPlugins = []string{serviceType + ".diff-service"}
	if _, err := New(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "needed differ not loaded: texts") {
		t.Errorf("diff service: %v", err)
	}
	conf = configAt(shortDir(t))
	options[transferOptions](conf, "io.containerd.transfer.v1.local").UnpackConfig = []unpackConfig{{Differ: "texts"}}
	conf.RequiredPlugins = []string{"io.containerd.transfer.v1.local"}
	if _, err := New(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "needed differ not loaded: texts") {
		t.Errorf("transfers: %v", err)
	}
}

// Clients hear of their own names, and of an error's kind once.
func TestErrorsSpeakOfTheClientsNames(t *testing.T) {
	conf := configAt(shortDir(t))
	start(t, conf)
	conn := connect(t, conf.Address(), "n")
	stream, err := contentapi.NewContentClient(conn).Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&contentapi.WriteContentRequest{Action: contentapi.WriteAction_COMMIT, Ref: "mine", Data: []byte("hello"), Total: 4}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if got := errgrpc.ToNative(err); !errdefs.IsFailedPrecondition(got) || got.Error() != `"mine" failed size validation: 5 != 4: failed precondition` {
		t.Errorf("commit of another size: %v", got)
	}
	_, err = contentapi.NewContentClient(conn).ListStatuses(t.Context(), &contentapi.ListStatusesRequest{Filters: []string{"x=="}})
	if got := errgrpc.ToNative(err); !errdefs.IsInvalidArgument(got) || strings.Count(got.Error(), "invalid argument") != 1 {
		t.Errorf("a bad filter: %v", got)
	}
}
