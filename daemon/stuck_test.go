// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"slipway/client"
)

// stuck is a snapshotter that has what nobody knows and never ends what it
// begins.
type stuck struct {
	snapshotsapi.UnimplementedSnapshotsServer
	begun chan string
}

func (s *stuck) hang(ctx context.Context, what string) error {
	s.begun <- what
	<-ctx.Done()
	return ctx.Err()
}

func (s *stuck) Prepare(ctx context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	if r.Parent == "" && r.Labels["containerd.io/snapshot/works"] != "" {
		return &snapshotsapi.PrepareSnapshotResponse{}, nil
	}
	return nil, s.hang(ctx, "prepare")
}

func (s *stuck) Commit(ctx context.Context, _ *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	return nil, s.hang(ctx, "commit")
}

func (s *stuck) Remove(ctx context.Context, _ *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	return nil, s.hang(ctx, "remove")
}

func (s *stuck) List(_ *snapshotsapi.ListSnapshotsRequest, stream snapshotsapi.Snapshots_ListServer) error {
	return stream.Send(&snapshotsapi.ListSnapshotsResponse{Info: []*snapshotsapi.Info{{Name: "n/1/lost", Kind: snapshotsapi.Kind_COMMITTED}}})
}

// await returns when the snapshotter is stuck in what.
func (s *stuck) await(t *testing.T, what string) {
	t.Helper()
	for late := time.After(deadline); ; {
		select {
		case got := <-s.begun:
			if got == what {
				return
			}
		case <-late:
			t.Fatalf("the snapshotter is not asked to %s", what)
		}
	}
}

// A snapshotter that another process serves may hang in whatever it is asked:
// only who uses it waits.
func TestAStuckSnapshotterHoldsUpNobodyElse(t *testing.T) {
	s := &stuck{begun: make(chan string, 100)}
	address := serveProxy(t, func(srv *grpc.Server) { snapshotsapi.RegisterSnapshotsServer(srv, s) })
	conf := configAt(shortDir(t))
	conf.ProxyPlugins = map[string]ProxyPlugin{"stuck": {Type: "snapshot", Address: address}}
	options[gcOptions](conf, gcURI).StartupDelay = Duration(time.Hour)
	_, c, stop := start(t, conf)
	ctx, cancel := context.WithTimeout(t.Context(), 2*deadline)
	defer cancel()
	works := map[string]string{"containerd.io/snapshot/works": "1", "containerd.io/gc.root": "1"}
	if _, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "stuck", Key: "active", Labels: works}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for what, call := range map[string]func() error{
		"prepare": func() error {
			_, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "stuck", Key: "k"})
			return err
		},
		"commit": func() error {
			_, err := c.Snapshots().Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "stuck", Key: "active", Name: "done"})
			return err
		},
	} {
		go func() { ended <- call() }()
		s.await(t, what)
		everything(t, ctx, c, what)
		everything(t, ctx, dial(t, conf.Address(), "other"), what)
	}
	select {
	case err := <-ended:
		t.Errorf("a call to the snapshotter that is stuck ended with %v", err)
	default:
	}
	stop()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a call to the snapshotter that is stuck has ended well")
		}
	}
}

// everything does what has nothing to do with a snapshotter that is in trouble.
func everything(t *testing.T, ctx context.Context, c *client.Client, id string) {
	t.Helper()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s beside %s: %v", what, id, err)
		}
	}
	root := map[string]string{"containerd.io/gc.root": "1"}
	_, err := c.Snapshots().Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Snapshotter: "native", Key: id, Labels: root})
	must("prepare", err)
	_, err = c.Snapshots().Commit(ctx, &snapshotsapi.CommitSnapshotRequest{Snapshotter: "native", Key: id, Name: id + "-done", Labels: root})
	must("commit", err)
	must("write", put(ctx, c.Store(), id, id))
	_, err = c.Images().Create(ctx, &imagesapi.CreateImageRequest{Image: &imagesapi.Image{
		Name: id, Target: &types.Descriptor{MediaType: "text/plain", Digest: digest.FromString(id).String(), Size: int64(len(id))},
	}})
	must("image", err)
	_, err = c.Containers().Create(ctx, &containersapi.CreateContainerRequest{Container: &containersapi.Container{
		ID: id, Runtime: &containersapi.Container_Runtime{Name: "r"}, Spec: &anypb.Any{}, Snapshotter: "stuck", SnapshotKey: id,
	}})
	must("container", err)
	_, err = c.Containers().List(ctx, &containersapi.ListContainersRequest{})
	must("list", err)
	_, err = c.Leases().Create(ctx, &leasesapi.CreateRequest{ID: id})
	must("lease", err)
	_, err = c.Snapshots().Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "native", Key: id + "-done"})
	must("remove", err)
	_, err = c.Containers().Delete(ctx, &containersapi.DeleteContainerRequest{ID: id})
	must("delete", err)
	// Each waits for a collection.
	_, err = c.Leases().Delete(ctx, &leasesapi.DeleteRequest{ID: id, Sync: true})
	must("lease delete", err)
	_, err = c.Images().Delete(ctx, &imagesapi.DeleteImageRequest{Name: id, Sync: true})
	must("image delete", err)
	if _, err := c.Store().Info(ctx, digest.FromString(id)); err == nil {
		t.Errorf("beside %s, the blob of an image that was removed is still there", id)
	}
}

// Nor does one that is not there fail what others ask.
func TestASnapshotterThatIsDownFailsNobodyElse(t *testing.T) {
	conf := configAt(shortDir(t))
	conf.ProxyPlugins = map[string]ProxyPlugin{"down": {Type: "snapshot", Address: filepath.Join(shortDir(t), "none.sock")}}
	_, c, _ := start(t, conf)
	everything(t, t.Context(), c, "nothing")
}
