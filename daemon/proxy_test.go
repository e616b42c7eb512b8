// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	sandboxapi "github.com/containerd/containerd/api/services/sandbox/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

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
		if failed := p.InitErr != nil; failed != (p.ID == "blobs") {
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
