// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestContainersAreListedAsTheyAreGot(t *testing.T) {
	w := newWorld(t, stores)
	c := containersapi.NewContainersClient(w.conn)
	ctx := in(t, "a")
	any := func(n int) *anypb.Any { return &anypb.Any{TypeUrl: "s", Value: []byte(strings.Repeat("x", n))} }
	for i, made := range []*containersapi.Container{
		{Runtime: &containersapi.Container_Runtime{Name: "r"}},
		{Runtime: &containersapi.Container_Runtime{Name: "r", Options: &anypb.Any{}}, Spec: &anypb.Any{}, Extensions: map[string]*anypb.Any{"none": {}}},
		{
			Runtime: &containersapi.Container_Runtime{Name: "r", Options: any(3)}, Spec: any(5000), Image: "i", Snapshotter: "native", SnapshotKey: "k",
			Sandbox: "sb", Labels: map[string]string{"a": "1", "dotted.key": strings.Repeat("v", 200)}, Extensions: map[string]*anypb.Any{"x": any(0), "y": any(40000)},
		},
		{Runtime: &containersapi.Container_Runtime{Name: "r"}, Spec: any(3 << 20)}, // many pieces
		{Runtime: &containersapi.Container_Runtime{Name: "r"}, Spec: any(pieceSize)},
	} {
		made.ID = fmt.Sprint("c", i)
		_, err := c.Create(ctx, &containersapi.CreateContainerRequest{Container: made})
		fatal(t, err)
	}
	list, err := c.List(ctx, &containersapi.ListContainersRequest{})
	fatal(t, err)
	stream, err := c.ListStream(ctx, &containersapi.ListContainersRequest{})
	fatal(t, err)
	for _, listed := range list.Containers {
		got, err := c.Get(ctx, &containersapi.GetContainerRequest{ID: listed.ID})
		fatal(t, err)
		sent, err := stream.Recv()
		fatal(t, err)
		if !proto.Equal(listed, got.Container) || !proto.Equal(sent.Container, got.Container) {
			t.Errorf("container %s is listed as %.300q and sent as %.300q, got as %.300q", listed.ID, listed, sent, got)
		}
	}
	if _, err := stream.Recv(); err != io.EOF || len(list.Containers) != 5 {
		t.Errorf("%d containers, the stream ends with %v", len(list.Containers), err)
	}
	none, err := c.List(in(t, "empty"), &containersapi.ListContainersRequest{})
	fatal(t, err)
	if len(none.Containers) != 0 {
		t.Errorf("an empty namespace has %v", none.Containers)
	}
}

func TestImagesAreListedAsTheyAreGot(t *testing.T) {
	w := newWorld(t, stores)
	c := imagesapi.NewImagesClient(w.conn)
	ctx := in(t, "a")
	for i, made := range []*imagesapi.Image{
		{Target: &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1}},
		{
			Target: &types.Descriptor{MediaType: "m", Digest: someDigest, Size: 1 << 40, Annotations: map[string]string{"n": "1", "o": "2"}},
			Labels: map[string]string{"a": "1", "b": "2"},
		},
	} {
		made.Name = fmt.Sprint("i", i)
		// Before the epoch seconds are negative.
		epoch := timestamppb.New(time.Unix(int64(i-1)*100, 5))
		_, err := c.Create(ctx, &imagesapi.CreateImageRequest{Image: made, SourceDateEpoch: epoch})
		fatal(t, err)
	}
	list, err := c.List(ctx, &imagesapi.ListImagesRequest{})
	fatal(t, err)
	for _, listed := range list.Images {
		got, err := c.Get(ctx, &imagesapi.GetImageRequest{Name: listed.Name})
		fatal(t, err)
		if !proto.Equal(listed, got.Image) {
			t.Errorf("image %s is listed as %v, got as %v", listed.Name, listed, got.Image)
		}
	}
	if len(list.Images) != 2 {
		t.Errorf("%d images, not 2", len(list.Images))
	}
}
