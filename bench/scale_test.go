// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"slipway/client"
	"slipway/test/host"
)

// dial returns a client of the system. Both systems get the same one.
func (s *system) dial(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), s.d.Address, client.Options{Namespace: "default"})
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestList(t *testing.T) {
	wanted(t, "list")
	const objects = 1000
	ours, upstream, ref := pair(t)
	clients := map[*system]*client.Client{ours: ours.dial(t), upstream: upstream.dial(t)}
	ours.do(t, "c", "create", ref, "model")
	like := recordsOf(t, clients[ours], ref, "model")
	ours.do(t, "c", "rm", "model")
	for s, c := range clients {
		like.fill(t, c, objects)
		r, err := c.Containers().List(t.Context(), &containersapi.ListContainersRequest{})
		if err != nil || len(r.Containers) != objects {
			t.Fatalf("%s: %d containers: %v", s.name, len(r.GetContainers()), err)
		}
	}
	for _, l := range []struct{ name, method string }{
		{"Containers.List of 1,000", "/containerd.services.containers.v1.Containers/List"},
		{"Containers.ListStream of 1,000", "/containerd.services.containers.v1.Containers/ListStream"},
		{"Images.List of 1,000", "/containerd.services.images.v1.Images/List"},
	} {
		a, b := both(ours, upstream, nil, func(t *testing.T, s *system, _ int) {
			if n, err := listed(t.Context(), clients[s], l.method); err != nil || n < objects*100 {
				t.Fatalf("%s: %s: %d bytes: %v", s.name, l.method, n, err)
			}
		})
		row{l.name, 31, 0.50, a, b, "2.3.4"}.measure(t)
	}
}

// listed asks for all and returns the size of the answer. It does not decode
// that, which takes a client as long as the daemon, whoever answers.
func listed(ctx context.Context, c *client.Client, method string) (size int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Conn().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodecV2(sizes{encoding.GetCodecV2(grpcproto.Name)}))
	if err != nil {
		return 0, err
	}
	// The requests of both lists are the same without filters.
	if err := stream.SendMsg(&imagesapi.ListImagesRequest{}); err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	for {
		switch err := stream.RecvMsg(&size); err {
		case nil:
		case io.EOF:
			return size, nil
		default:
			return size, err
		}
	}
}

// sizes receives the sizes of messages, and adds them up.
type sizes struct{ encoding.CodecV2 }

func (sizes) Unmarshal(message mem.BufferSlice, sum any) error {
	*sum.(*int) += message.Len()
	return nil
}

// records are what ctr makes of a container and an image.
type records struct {
	container *containersapi.Container
	image     *imagesapi.Image
}

func recordsOf(t *testing.T, c *client.Client, ref, id string) records {
	t.Helper()
	container, err := c.Containers().Get(t.Context(), &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.Images().Get(t.Context(), &imagesapi.GetImageRequest{Name: ref})
	if err != nil {
		t.Fatal(err)
	}
	return records{container.Container, image.Image}
}

// fill makes n containers, and images up to n.
func (r records) fill(t *testing.T, c *client.Client, n int) {
	t.Helper()
	for i := range n {
		r.container.ID = fmt.Sprintf("list-%04d", i)
		// The snapshot is not there, and nothing looks for it.
		r.container.SnapshotKey = r.container.ID
		if _, err := c.Containers().Create(t.Context(), &containersapi.CreateContainerRequest{Container: r.container}); err != nil {
			t.Fatal(err)
		}
	}
	first := r.image.Name
	defer func() { r.image.Name = first }()
	for i := range n - 1 {
		r.image.Name = fmt.Sprintf("%s-%04d", first, i)
		if _, err := c.Images().Create(t.Context(), &imagesapi.CreateImageRequest{Image: r.image}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStart(t *testing.T) {
	wanted(t, "start")
	const containers, images = 100, 200
	archive := manyImages(t, images)
	ours, upstream := systems(t, "")
	for _, s := range []*system{ours, upstream} {
		t.Cleanup(func() { s.recover(t) })
		s.do(t, "i", "import", archive)
		for i := range containers {
			s.do(t, "run", "-d", "--null-io", manyImage(0), fmt.Sprintf("start-%s-%d", s.name, i), "sleep", "inf")
		}
	}
	prepare := func(t *testing.T, s *system, _ int) {
		s.d.Stop(t)
		// What starts the daemon and asks it is in its group: to move there
		// takes the kernel longer than to answer.
		s.group.enter(t)
	}
	a, b := both(ours, upstream, prepare, func(t *testing.T, s *system, _ int) {
		s.d.Launch(t)
		s.answers(t, func(ctx context.Context, c *client.Client) error {
			_, err := c.Version().Version(ctx, nil)
			return err
		})
	})
	row{"start, 100 containers, 200 images: version", 11, 0.50, a, b, "2.3.4"}.measure(t)
	a, b = both(ours, upstream, prepare, func(t *testing.T, s *system, _ int) {
		s.d.Launch(t)
		s.answers(t, func(ctx context.Context, c *client.Client) error {
			r, err := c.Tasks().List(ctx, &tasksapi.ListTasksRequest{})
			for _, p := range r.GetTasks() {
				if p.Status != tasktypes.Status_RUNNING {
					return fmt.Errorf("task %s is %s", p.ID, p.Status)
				}
			}
			if n := len(r.GetTasks()); err == nil && n != containers {
				return fmt.Errorf("%d tasks, not %d", n, containers)
			}
			return err
		})
	})
	row{"start, 100 containers, 200 images: tasks", 11, 0.50, a, b, "2.3.4"}.measure(t)
}

// answers asks a daemon that starts as soon as it listens.
func (s *system) answers(t *testing.T, ask func(context.Context, *client.Client) error) {
	t.Helper()
	for end := time.Now().Add(host.Patience); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", s.d.Address)
		if err == nil {
			conn.Close()
			break
		}
		if s.d.Ended() || time.Now().After(end) {
			t.Fatalf("%s: %v\n%s", s.name, err, s.d.Tail())
		}
	}
	c, err := client.Dial(t.Context(), s.d.Address, client.Options{Namespace: "default"})
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), host.Patience)
	defer cancel()
	if err := ask(ctx, c); err != nil {
		t.Fatalf("%s: %v\n%s", s.name, err, s.d.Tail())
	}
}

// recover leaves a daemon that can be asked to remove its containers, whatever
// has failed, and this process outside of its group.
func (s *system) recover(t *testing.T) {
	s.group.enter(t)()
	if t.Failed() && !s.d.Ended() {
		s.d.Kill(t)
	}
	if s.d.Ended() {
		s.d.Run(t)
	}
}

func manyImage(i int) string { return fmt.Sprintf("example.test/bench/many:%d", i) }

// manyImages is an archive of n images with manifests of their own, which have
// the layer of busybox in common.
func manyImages(t *testing.T, n int) string {
	t.Helper()
	dir := host.Busybox(t)
	blobs := filepath.Join(dir, "blobs", "sha256")
	var index ocispec.Index
	readJSON(t, filepath.Join(dir, ocispec.ImageIndexFile), &index)
	top := index.Manifests[0]
	var manifest ocispec.Manifest
	readJSON(t, filepath.Join(blobs, top.Digest.Encoded()), &manifest)
	index.Manifests = nil
	for i := range n {
		manifest.Annotations = map[string]string{ocispec.AnnotationTitle: manyImage(i)}
		text := writeJSON(t, filepath.Join(dir, "manifest"), manifest)
		top.Digest, top.Size = digest.FromBytes(text), int64(len(text))
		top.Annotations = map[string]string{"io.containerd.image.name": manyImage(i), ocispec.AnnotationRefName: fmt.Sprint(i)}
		if err := os.Rename(filepath.Join(dir, "manifest"), filepath.Join(blobs, top.Digest.Encoded())); err != nil {
			t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, top)
	}
	writeJSON(t, filepath.Join(dir, ocispec.ImageIndexFile), index)
	archive := filepath.Join(host.TempDir(t), "many.tar")
	host.Must(t, "tar", "-C", dir, "-cf", archive, ".")
	return archive
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func writeJSON(t *testing.T, file string, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return text
}
