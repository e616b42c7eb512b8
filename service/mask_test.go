// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"path/filepath"
	"testing"
	"unicode/utf8"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
)

// Whatever a mask or a filter says, a request is carried out or refused as
// invalid, and the record stays readable.
func FuzzMasksAndFilters(f *testing.F) {
	for _, seed := range []string{"labels", "labels.a.b", "extensions.x", "spec", "snapshotkey", "labels.", ".", "id==x", `labels."a b"~=/x/`, "~=|", "x,y"} {
		f.Add(seed, "v")
	}
	dir := f.TempDir()
	local, err := content.Open(dir)
	fatal(f, err)
	db, err := meta.Open(filepath.Join(dir, "meta.db"), meta.Options{NoSync: true}, local, nil, event.New())
	fatal(f, err)
	f.Cleanup(func() { db.Close() })
	c, scope := NewContainers(db), ident.Scope{Namespace: "a"}
	f.Fuzz(func(t *testing.T, text, value string) {
		if !utf8.ValidString(text) || !utf8.ValidString(value) {
			t.Skip("protobuf lets no such text through")
		}
		ctx := ident.WithScope(t.Context(), scope)
		id := fmt.Sprint("c", len(text))
		con := &api.Container{
			ID: id, Spec: &anypb.Any{TypeUrl: "s"}, Runtime: &api.Container_Runtime{Name: "r"},
			Labels: map[string]string{text: value}, Extensions: map[string]*anypb.Any{text: {TypeUrl: value}},
		}
		if _, err := c.Create(ctx, &api.CreateContainerRequest{Container: con}); err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsAlreadyExists(err) {
			t.Errorf("create: %v", err)
		}
		_, err := c.Update(ctx, &api.UpdateContainerRequest{Container: con, UpdateMask: mask(text)})
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("update of %q: %v", text, err)
		}
		list, err := c.list(ctx, &api.ListContainersRequest{Filters: []string{text}})
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("filter %q: %v", text, err)
		}
		if err := proto.Unmarshal(mem.BufferSlice(list).Materialize(), &api.ListContainersResponse{}); err != nil {
			t.Errorf("list by %q: %v", text, err)
		}
		if _, err := c.Get(ctx, &api.GetContainerRequest{ID: id}); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("get: %v", err)
		}
	})
}
