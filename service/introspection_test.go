// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func introspection(t *testing.T, uuid string) api.IntrospectionClient {
	w := newWorld(t, func(*world) []registrar {
		return []registrar{NewIntrospection(IntrospectionConfig{
			UUIDFile: uuid,
			Plugins: func() []Plugin {
				return []Plugin{
					{Type: "io.containerd.snapshotter.v1", ID: "overlayfs", Capabilities: []string{"rebase"}, Exports: map[string]string{"root": "/r"}, Platforms: []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}},
					{Type: "io.containerd.snapshotter.v1", ID: "zfs", InitErr: fmt.Errorf("skip plugin: no zfs: %w", errdefs.ErrNotImplemented)},
					{Type: "io.containerd.runtime.v2", ID: "task", Requires: []string{"io.containerd.metadata.v1"}},
				}
			},
			Deprecations: func() []Deprecation {
				return []Deprecation{{ID: "io.containerd.deprecation/x", Message: "x goes away", LastOccurrence: time.Unix(5, 0)}}
			},
			RuntimeInfo: func(_ context.Context, runtime string, options *anypb.Any) (*types.RuntimeInfo, error) {
				return &types.RuntimeInfo{Name: runtime + " " + options.GetTypeUrl()}, nil
			},
		})}
	})
	return api.NewIntrospectionClient(w.conn)
}

func TestPluginsAreFiltered(t *testing.T) {
	c := introspection(t, filepath.Join(t.TempDir(), "uuid"))
	for filter, want := range map[string]string{
		"": "overlayfs zfs task", "type==io.containerd.snapshotter.v1, id==overlayfs": "overlayfs", "id~=/^z/": "zfs", "capabilities==rebase": "",
	} {
		r, err := c.Plugins(in(t, ""), &api.PluginsRequest{Filters: []string{filter}})
		fatal(t, err)
		var got []string
		for _, p := range r.Plugins {
			got = append(got, p.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("filter %q: %v, want %s", filter, got, want)
		}
	}
	r, err := c.Plugins(in(t, ""), &api.PluginsRequest{})
	fatal(t, err)
	if p := r.Plugins[0]; p.Capabilities[0] != "rebase" || p.Exports["root"] != "/r" || p.Platforms[0].Architecture != "amd64" || p.InitErr != nil {
		t.Errorf("plugin %v", p)
	}
	if e := r.Plugins[1].InitErr; codes.Code(e.GetCode()) != codes.Unimplemented || !strings.Contains(e.GetMessage(), "no zfs") {
		t.Errorf("skipped plugin: %v", e)
	}
	_, err = c.Plugins(in(t, ""), &api.PluginsRequest{Filters: []string{"=="}})
	wantCode(t, "bad filter", err, codes.InvalidArgument)
}

func TestServerKeepsItsUUID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "introspection", "uuid")
	first, err := introspection(t, file).Server(in(t, ""), &emptypb.Empty{})
	fatal(t, err)
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(first.UUID) {
		t.Errorf("uuid %q", first.UUID)
	}
	if first.Pid != uint64(os.Getpid()) || first.Pidns == 0 || first.Deprecations[0].LastOccurrence.Seconds != 5 {
		t.Errorf("server %v", first)
	}
	second, err := introspection(t, file).Server(in(t, ""), &emptypb.Empty{})
	fatal(t, err)
	if text, _ := os.ReadFile(file); second.UUID != first.UUID || string(text) != first.UUID {
		t.Errorf("uuid %s after %s, file %q", second.UUID, first.UUID, text)
	}
}

func TestPluginInfo(t *testing.T) {
	c := introspection(t, filepath.Join(t.TempDir(), "uuid"))
	options := anyOf(t, &types.RuntimeRequest{RuntimePath: "/shim", Options: &anypb.Any{TypeUrl: "o"}})
	r, err := c.PluginInfo(in(t, ""), &api.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "task", Options: options})
	fatal(t, err)
	var info types.RuntimeInfo
	fatal(t, typeurl.UnmarshalTo(r.Extra, &info))
	if info.Name != "/shim o" || r.Plugin.ID != "task" {
		t.Errorf("info %v", r)
	}
	r, err = c.PluginInfo(in(t, ""), &api.PluginInfoRequest{Type: "io.containerd.snapshotter.v1", ID: "zfs"})
	fatal(t, err)
	if r.Plugin.ID != "zfs" || r.Extra != nil {
		t.Errorf("info without options %v", r)
	}
	for want, req := range map[codes.Code]*api.PluginInfoRequest{
		codes.NotFound:        {Type: "x", ID: "y"},
		codes.Unimplemented:   {Type: "io.containerd.snapshotter.v1", ID: "zfs", Options: options},
		codes.InvalidArgument: {Type: "io.containerd.runtime.v2", ID: "task", Options: &anypb.Any{TypeUrl: options.TypeUrl, Value: []byte{0xff}}},
	} {
		_, err := c.PluginInfo(in(t, ""), req)
		wantCode(t, fmt.Sprint(req), err, want)
	}
	_, err = c.PluginInfo(in(t, ""), &api.PluginInfoRequest{Type: "io.containerd.runtime.v2", ID: "task", Options: &anypb.Any{TypeUrl: "other"}})
	wantCode(t, "request of another type", err, codes.Unimplemented)
}
