// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/content"
	"slipway/event"
	"slipway/internal/ident"
	"slipway/meta"
	"slipway/task"
)

// fakeTasks has at most one task and records what is done with it.
type fakeTasks struct {
	state *task.State
	done  []string
	stdio task.Stdio
	fail  string // the call that fails
}

func (f *fakeTasks) do(call string) error {
	f.done = append(f.done, call)
	if call == f.fail {
		return fmt.Errorf("%s: %w", call, errdefs.ErrUnavailable)
	}
	return nil
}

func (f *fakeTasks) Get(context.Context, ident.Namespace, string, string) (task.State, error) {
	if f.state == nil {
		return task.State{}, errdefs.ErrNotFound
	}
	return *f.state, nil
}

func (f *fakeTasks) Create(_ context.Context, _ ident.Namespace, _ string, o task.CreateOpts) (uint32, error) {
	f.stdio = o.Stdio
	return 1, f.do("create")
}

func (f *fakeTasks) Start(context.Context, ident.Namespace, string, string) (uint32, error) {
	return 1, f.do("start")
}

func (f *fakeTasks) Kill(context.Context, ident.Namespace, string, string, uint32, bool) error {
	return f.do("kill")
}

func (f *fakeTasks) Wait(context.Context, ident.Namespace, string, string) (task.Exit, error) {
	return task.Exit{}, f.do("wait")
}

func (f *fakeTasks) Delete(context.Context, ident.Namespace, string) (task.Exit, error) {
	return task.Exit{}, f.do("delete")
}

func openDB(t *testing.T) *meta.DB {
	t.Helper()
	dir := t.TempDir()
	local, err := content.Open(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(filepath.Join(dir, "meta.db"), meta.Options{NoSync: true}, local, nil, event.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestTasksAreMadeAsTheirLabelsSay(t *testing.T) {
	ended := func(status uint32) *task.State { return &task.State{Status: task.Stopped, ExitStatus: status} }
	end, start := []string{"kill", "wait", "delete"}, []string{"create", "start"}
	replace := slices.Concat(end, start)
	for _, c := range []struct {
		name   string
		labels map[string]string // beyond the status
		status string
		state  *task.State
		want   []string
	}{
		{"gone", nil, "running", nil, start},
		{"ended", nil, "running", ended(0), replace},
		{"runs", nil, "running", &task.State{Status: task.Running}, nil},
		{"paused", nil, "running", &task.State{Status: task.Paused}, nil},
		{"no", map[string]string{labelPolicy: "no"}, "running", ended(1), nil},
		{"failed", map[string]string{labelPolicy: "on-failure"}, "running", ended(1), replace},
		{"succeeded", map[string]string{labelPolicy: "on-failure"}, "running", ended(0), nil},
		{"failed often", map[string]string{labelPolicy: "on-failure:2", labelCount: "2"}, "running", ended(1), nil},
		{"failed once", map[string]string{labelPolicy: "on-failure:2", labelCount: "1"}, "running", ended(1), replace},
		{"unless", map[string]string{labelPolicy: "unless-stopped"}, "running", ended(1), replace},
		{"stopped by hand", map[string]string{labelPolicy: "unless-stopped", labelStopped: "true"}, "running", ended(1), nil},
		{"to stop", nil, "stopped", &task.State{Status: task.Running}, end},
		{"is stopped", nil, "stopped", ended(0), nil},
		{"without a label", nil, "", ended(0), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := openDB(t)
			labels := map[string]string{labelLogURI: "file:///log"}
			for k, v := range c.labels {
				labels[k] = v
			}
			if c.status != "" {
				labels[labelStatus] = c.status
			}
			containers := db.Containers(ident.Scope{Namespace: "n"})
			_, err := containers.Create(t.Context(), meta.Container{
				ID: "c", Labels: labels, Runtime: meta.Runtime{Name: "r"}, Spec: &anypb.Any{TypeUrl: "t"},
			})
			if err != nil {
				t.Fatal(err)
			}
			f := &fakeTasks{state: c.state}
			(&Restarts{DB: db, Tasks: f}).reconcile(t.Context())
			if !slices.Equal(f.done, c.want) {
				t.Errorf("did %v, want %v", f.done, c.want)
			}
			if !slices.Contains(c.want, "start") {
				return
			}
			if f.stdio != (task.Stdio{Stdout: "file:///log", Stderr: "file:///log"}) {
				t.Errorf("output to %+v", f.stdio)
			}
			got, err := containers.Get(t.Context(), "c")
			if err != nil || got.Labels[labelCount] == c.labels[labelCount] {
				t.Errorf("restarts are not counted: %v, %v", got.Labels, err)
			}
		})
	}
}

func TestATaskThatDoesNotStartIsRemoved(t *testing.T) {
	f := &fakeTasks{fail: "start"}
	err := (&Restarts{DB: openDB(t), Tasks: f}).start(t.Context(), "n", meta.Container{ID: "c"}, false)
	if !errdefs.IsNotFound(err) { // there is no container to count for
		t.Errorf("got %v", err)
	}
	db := openDB(t)
	if _, err := db.Containers(ident.Scope{Namespace: "n"}).Create(t.Context(), meta.Container{
		ID: "c", Runtime: meta.Runtime{Name: "r"}, Spec: &anypb.Any{TypeUrl: "t"},
	}); err != nil {
		t.Fatal(err)
	}
	f = &fakeTasks{fail: "start"}
	err = (&Restarts{DB: db, Tasks: f}).start(t.Context(), "n", meta.Container{ID: "c"}, false)
	if !errdefs.IsUnavailable(err) || !slices.Equal(f.done, []string{"create", "start", "kill", "wait", "delete"}) {
		t.Errorf("did %v: %v", f.done, err)
	}
}
