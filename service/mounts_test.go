// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	api "github.com/containerd/containerd/api/services/mounts/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"

	"slipway/mounts"
)

// mountWorld is a server of mount activations, and a directory where mkdir is
// allowed.
func mountWorld(t *testing.T) (api.MountsClient, string) {
	root := t.TempDir()
	w := newWorld(t, func(w *world) []registrar {
		m, err := mounts.Open(mounts.Config{State: t.TempDir(), Roots: []string{root}, DB: w.db})
		fatal(t, err)
		t.Cleanup(func() { m.Close() })
		return []registrar{NewMounts(m)}
	})
	return api.NewMountsClient(w.conn), root
}

func TestMountsAreActivatedAndListed(t *testing.T) {
	c, root := mountWorld(t)
	ctx := in(t, "a")
	for _, name := range []string{"two", "one"} {
		r, err := c.Activate(ctx, &api.ActivateRequest{
			Name: name, Labels: map[string]string{"k": "v"},
			Mounts: []*types.Mount{{Type: "mkdir/bind", Source: root, Options: []string{"X-containerd.mkdir.path=" + root + "/" + name, "rbind"}}},
		})
		fatal(t, err)
		if len(r.Info.Active) != 0 || len(r.Info.System) != 1 || r.Info.System[0].Type != "bind" || strings.Join(r.Info.System[0].Options, " ") != "rbind" {
			t.Errorf("activated %v", r.Info)
		}
		if _, err := os.Stat(root + "/" + name); err != nil {
			t.Error(err)
		}
	}
	i, err := c.Info(ctx, &api.InfoRequest{Name: "one"})
	fatal(t, err)
	if i.Info.Name != "one" || i.Info.Labels["k"] != "v" {
		t.Errorf("info %v", i)
	}
	s, err := c.List(ctx, &api.ListRequest{Filters: []string{"name==nothing"}})
	fatal(t, err)
	got := ""
	for {
		m, err := s.Recv()
		if err == io.EOF {
			break
		}
		fatal(t, err)
		got += " " + m.Info.Name
	}
	if got != " one two" {
		t.Errorf("list%s", got)
	}
	_, err = c.Deactivate(ctx, &api.DeactivateRequest{Name: "one"})
	fatal(t, err)
}

func TestMountsRefuseBadInput(t *testing.T) {
	c, root := mountWorld(t)
	activate := func(name string, labels map[string]string, mounts ...*types.Mount) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Activate(ctx, &api.ActivateRequest{Name: name, Mounts: mounts, Labels: labels})
			return err
		}
	}
	mkdir := func(path string) *types.Mount {
		return &types.Mount{Type: "mkdir/bind", Source: root, Options: []string{"X-containerd.mkdir.path=" + path}}
	}
	fatal(t, activate("there", nil, mkdir(root+"/x"))(in(t, "a")))
	many := make([]*types.Mount, 257)
	for i := range many {
		many[i] = mkdir(root + "/x")
	}
	runBad(t, "a", []badCall{
		{"no mounts", codes.Unimplemented, activate("n", nil)},
		{"plain mounts", codes.Unimplemented, activate("n", nil, &types.Mount{Type: "overlay"})},
		{"no name", codes.InvalidArgument, activate("", nil, mkdir(root+"/x"))},
		{"huge name", codes.InvalidArgument, activate(hugeName, nil, mkdir(root+"/x"))},
		{"long label", codes.InvalidArgument, activate("n", longLabel, mkdir(root+"/x"))},
		{"many mounts", codes.InvalidArgument, activate("n", nil, many...)},
		{"directory elsewhere", codes.Unimplemented, activate("n", nil, mkdir("/etc/x"))},
		{"missing active mount", codes.InvalidArgument, activate("n", nil, &types.Mount{Type: "format/bind", Source: "{{ mount 0 }}"})},
		{"exists", codes.AlreadyExists, activate("there", nil, mkdir(root+"/x"))},
		{"update", codes.Unimplemented, func(ctx context.Context) error {
			_, err := c.Update(ctx, &api.UpdateRequest{})
			return err
		}},
		{"info of a missing one", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Info(ctx, &api.InfoRequest{Name: "n"})
			return err
		}},
		{"deactivate a missing one", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Deactivate(ctx, &api.DeactivateRequest{Name: "n"})
			return err
		}},
	})
	runBad(t, "b", []badCall{{"of another namespace", codes.NotFound, func(ctx context.Context) error {
		_, err := c.Info(ctx, &api.InfoRequest{Name: "there"})
		return err
	}}})
	runBad(t, "", []badCall{{"no namespace", codes.FailedPrecondition, activate("n", nil, mkdir(root+"/x"))}})
}
