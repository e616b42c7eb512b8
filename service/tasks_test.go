// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"slipway/internal/ident"
	"slipway/meta"
	"slipway/task"
)

// fakeTasks is a task.Manager that notes what it is asked.
type fakeTasks struct {
	calls  []string
	opts   task.CreateOpts
	states []task.State
	err    error
}

func (f *fakeTasks) note(format string, args ...any) error {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.err
}

var exited = task.Exit{Pid: 7, Status: 137, At: time.Unix(50, 0)}

func (f *fakeTasks) Create(_ context.Context, ns ident.Namespace, id string, opts task.CreateOpts) (uint32, error) {
	f.opts = opts
	if opts.Checkpoint != "" {
		entries, err := os.ReadDir(opts.Checkpoint)
		if err != nil {
			return 0, err
		}
		f.note("restore %v", entries)
	}
	return 7, f.note("create %s/%s", ns, id)
}

func (f *fakeTasks) Start(_ context.Context, ns ident.Namespace, id, exec string) (uint32, error) {
	return 8, f.note("start %s/%s/%s", ns, id, exec)
}

func (f *fakeTasks) Delete(_ context.Context, ns ident.Namespace, id string) (task.Exit, error) {
	return exited, f.note("delete %s/%s", ns, id)
}

func (f *fakeTasks) DeleteProcess(_ context.Context, ns ident.Namespace, id, exec string) (task.Exit, error) {
	return exited, f.note("delete %s/%s/%s", ns, id, exec)
}

func (f *fakeTasks) Get(_ context.Context, ns ident.Namespace, id, exec string) (task.State, error) {
	if len(f.states) == 0 {
		return task.State{}, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return f.states[0], nil
}

func (f *fakeTasks) List(context.Context, ident.Namespace) ([]task.State, error) {
	return f.states, f.err
}

func (f *fakeTasks) Kill(_ context.Context, ns ident.Namespace, id, exec string, signal uint32, all bool) error {
	return f.note("kill %s/%s/%s %d %v", ns, id, exec, signal, all)
}

func (f *fakeTasks) Exec(_ context.Context, ns ident.Namespace, id, exec string, spec *anypb.Any, io task.Stdio) error {
	return f.note("exec %s/%s/%s %s %v", ns, id, exec, spec.GetTypeUrl(), io)
}

func (f *fakeTasks) ResizePty(_ context.Context, ns ident.Namespace, id, exec string, w, h uint32) error {
	return f.note("resize %s/%s/%s %dx%d", ns, id, exec, w, h)
}

func (f *fakeTasks) CloseIO(_ context.Context, ns ident.Namespace, id, exec string, stdin bool) error {
	return f.note("close %s/%s/%s %v", ns, id, exec, stdin)
}

func (f *fakeTasks) Pause(_ context.Context, ns ident.Namespace, id string) error {
	return f.note("pause %s/%s", ns, id)
}

func (f *fakeTasks) Resume(_ context.Context, ns ident.Namespace, id string) error {
	return f.note("resume %s/%s", ns, id)
}

func (f *fakeTasks) Pids(context.Context, ident.Namespace, string) ([]task.Process, error) {
	return []task.Process{{Pid: 7}, {Pid: 8, Info: &anypb.Any{TypeUrl: "d"}}}, f.err
}

func (f *fakeTasks) Checkpoint(_ context.Context, ns ident.Namespace, id, path string, _ *anypb.Any) error {
	if err := os.WriteFile(filepath.Join(path, "core.img"), []byte("memory"), 0o600); err != nil {
		return err
	}
	return f.note("checkpoint %s/%s", ns, id)
}

func (f *fakeTasks) Update(_ context.Context, ns ident.Namespace, id string, r *anypb.Any, a map[string]string) error {
	return f.note("update %s/%s %s %v", ns, id, r.GetTypeUrl(), a)
}

func (f *fakeTasks) Stats(_ context.Context, _ ident.Namespace, id string) (*anypb.Any, error) {
	if id == "deaf" {
		return nil, context.DeadlineExceeded
	}
	return &anypb.Any{TypeUrl: "stats of " + id}, nil
}

func (f *fakeTasks) Wait(_ context.Context, ns ident.Namespace, id, exec string) (task.Exit, error) {
	return exited, f.note("wait %s/%s/%s", ns, id, exec)
}

// taskWorld is a server of tasks, with the container x in the namespace a.
func taskWorld(t *testing.T) (*fakeTasks, *world, api.TasksClient) {
	f := &fakeTasks{}
	w := newWorld(t, func(w *world) []registrar {
		return []registrar{NewTasks(f, w.db, t.TempDir()), NewContent(w.db)}
	})
	_, err := w.db.Containers(ident.Scope{Namespace: "a"}).Create(t.Context(), meta.Container{
		ID: "x", Spec: &anypb.Any{TypeUrl: "spec"}, Runtime: meta.Runtime{Name: "r"},
	})
	fatal(t, err)
	return f, w, api.NewTasksClient(w.conn)
}

func anyOf(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := typeurl.MarshalAnyToProto(m)
	fatal(t, err)
	return a
}

func TestTaskCallsArriveWhole(t *testing.T) {
	f, _, c := taskWorld(t)
	ctx := in(t, "a")
	opts := anyOf(t, &options.Options{BinaryName: "crun"})
	r, err := c.Create(ctx, &api.CreateTaskRequest{
		ContainerID: "x", Rootfs: []*types.Mount{{Type: "bind", Source: "/s", Target: "t", Options: []string{"ro"}}},
		Stdin: "i", Stdout: "o", Stderr: "e", Terminal: true, Options: opts, RuntimePath: "/bin/shim", TaskApiAddress: "unix:///a", TaskApiVersion: 3,
	})
	fatal(t, err)
	if r.ContainerID != "x" || r.Pid != 7 {
		t.Errorf("created %v", r)
	}
	if got, want := fmt.Sprintf("%v %+v %s %s %d", f.opts.Rootfs, f.opts.Stdio, f.opts.RuntimePath, f.opts.Endpoint.Address, f.opts.Endpoint.Version),
		"[{bind /s t [ro]}] {Stdin:i Stdout:o Stderr:e Terminal:true} /bin/shim unix:///a 3"; got != want {
		t.Errorf("options %s, want %s", got, want)
	}
	must := func(_ any, err error) {
		t.Helper()
		fatal(t, err)
	}
	must(c.Start(ctx, &api.StartRequest{ContainerID: "x", ExecID: "e"}))
	must(c.Exec(ctx, &api.ExecProcessRequest{ContainerID: "x", ExecID: "e", Spec: &anypb.Any{TypeUrl: "p"}, Stdout: "o"}))
	must(c.Kill(ctx, &api.KillRequest{ContainerID: "x", Signal: 9, All: true}))
	must(c.ResizePty(ctx, &api.ResizePtyRequest{ContainerID: "x", Width: 80, Height: 24}))
	must(c.CloseIO(ctx, &api.CloseIORequest{ContainerID: "x", ExecID: "e", Stdin: true}))
	must(c.Pause(ctx, &api.PauseTaskRequest{ContainerID: "x"}))
	must(c.Resume(ctx, &api.ResumeTaskRequest{ContainerID: "x"}))
	must(c.Update(ctx, &api.UpdateTaskRequest{ContainerID: "x", Resources: &anypb.Any{TypeUrl: "res"}, Annotations: map[string]string{"k": "v"}}))
	wait, err := c.Wait(ctx, &api.WaitRequest{ContainerID: "x"})
	fatal(t, err)
	if wait.ExitStatus != 137 || wait.ExitedAt.Seconds != 50 {
		t.Errorf("wait %v", wait)
	}
	d, err := c.DeleteProcess(ctx, &api.DeleteProcessRequest{ContainerID: "x", ExecID: "e"})
	fatal(t, err)
	if d.ID != "e" || d.Pid != 7 || d.ExitStatus != 137 || d.ExitedAt.Seconds != 50 {
		t.Errorf("deleted %v", d)
	}
	must(c.Delete(ctx, &api.DeleteTaskRequest{ContainerID: "x"}))
	want := "create a/x|start a/x/e|exec a/x/e p { o  false}|kill a/x/ 9 true|resize a/x/ 80x24|close a/x/e true|pause a/x|resume a/x|" +
		"update a/x res map[k:v]|wait a/x/|delete a/x/e|delete a/x"
	if got := strings.Join(f.calls, "|"); got != want {
		t.Errorf("calls\n%s, want\n%s", got, want)
	}
}

func TestTasksAreDescribedWithoutTheirContainer(t *testing.T) {
	f, _, c := taskWorld(t)
	f.states = []task.State{{ID: "x", Pid: 7, Status: task.Paused, Stdio: task.Stdio{Stdin: "i", Terminal: true}}, {ID: "y", Status: task.Stopped, ExitStatus: 3, ExitedAt: time.Unix(9, 0)}}
	g, err := c.Get(in(t, "a"), &api.GetRequest{ContainerID: "x"})
	fatal(t, err)
	if p := g.Process; p.ContainerID != "" || p.ID != "x" || p.Pid != 7 || p.Status.String() != "PAUSED" || p.Stdin != "i" || !p.Terminal {
		t.Errorf("process %v", p)
	}
	l, err := c.List(in(t, "a"), &api.ListTasksRequest{Filter: "id==nothing"})
	fatal(t, err)
	if len(l.Tasks) != 2 || l.Tasks[1].Status.String() != "STOPPED" || l.Tasks[1].ExitStatus != 3 || l.Tasks[1].ExitedAt.Seconds != 9 {
		t.Errorf("tasks %v", l.Tasks)
	}
	p, err := c.ListPids(in(t, "a"), &api.ListPidsRequest{ContainerID: "x"})
	fatal(t, err)
	if len(p.Processes) != 2 || p.Processes[1].Pid != 8 || p.Processes[1].Info.TypeUrl != "d" {
		t.Errorf("pids %v", p.Processes)
	}
}

func TestMetricsAreFilteredAndLeaveOutTheDeaf(t *testing.T) {
	f, _, c := taskWorld(t)
	f.states = []task.State{{ID: "x"}, {ID: "deaf"}, {ID: "y"}}
	for filter, want := range map[string]string{"": "x y", "id==y": "y", "namespace==a": "x y", "namespace==b": "", "id==deaf": ""} {
		r, err := c.Metrics(in(t, "a"), &api.MetricsRequest{Filters: []string{filter}})
		fatal(t, err)
		var got []string
		for _, m := range r.Metrics {
			got = append(got, m.ID)
			if m.Data.TypeUrl != "stats of "+m.ID || m.Timestamp.Seconds == 0 {
				t.Errorf("metric %v", m)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("filter %q: %v, want %s", filter, got, want)
		}
	}
}

func TestTasksRefuseBadInput(t *testing.T) {
	f, w, c := taskWorld(t)
	put(t, contentapi.NewContentClient(w.conn), in(t, "a"), "r", "no archive, but long enough to have a header: "+strings.Repeat("x", 512))
	noTar := digestOfText("no archive, but long enough to have a header: " + strings.Repeat("x", 512))
	create := func(r *api.CreateTaskRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Create(ctx, r)
			return err
		}
	}
	runBad(t, "a", []badCall{
		{"no container", codes.NotFound, create(&api.CreateTaskRequest{ContainerID: "z"})},
		{"options of another type", codes.Unknown, create(&api.CreateTaskRequest{ContainerID: "x", Options: &anypb.Any{TypeUrl: "other"}})},
		{"checkpoint of another type", codes.InvalidArgument, create(&api.CreateTaskRequest{ContainerID: "x", Checkpoint: &types.Descriptor{MediaType: "m", Digest: someDigest}})},
		{"missing checkpoint", codes.NotFound, create(&api.CreateTaskRequest{ContainerID: "x", Checkpoint: &types.Descriptor{MediaType: mediaCheckpoint, Digest: someDigest}})},
		{"checkpoint without a digest", codes.InvalidArgument, create(&api.CreateTaskRequest{ContainerID: "x", Checkpoint: &types.Descriptor{MediaType: mediaCheckpoint}})},
		{"checkpoint that is no archive", codes.InvalidArgument, create(&api.CreateTaskRequest{ContainerID: "x", Checkpoint: &types.Descriptor{MediaType: mediaCheckpoint, Digest: noTar}})},
		{"exec without an id", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Exec(ctx, &api.ExecProcessRequest{ContainerID: "x"})
			return err
		}},
		{"metrics with a bad filter", codes.InvalidArgument, func(ctx context.Context) error {
			_, err := c.Metrics(ctx, &api.MetricsRequest{Filters: []string{"="}})
			return err
		}},
		{"checkpoint of no container", codes.NotFound, func(ctx context.Context) error {
			_, err := c.Checkpoint(ctx, &api.CheckpointTaskRequest{ContainerID: "z"})
			return err
		}},
	})
	runBad(t, "", []badCall{
		{"create without namespace", codes.FailedPrecondition, create(&api.CreateTaskRequest{ContainerID: "x"})},
		{"list without namespace", codes.FailedPrecondition, func(ctx context.Context) error {
			_, err := c.List(ctx, &api.ListTasksRequest{})
			return err
		}},
	})
	if len(f.calls) != 0 {
		t.Errorf("the manager was called: %v", f.calls)
	}
}

func TestACheckpointIsStoredAndRestored(t *testing.T) {
	f, _, c := taskWorld(t)
	ctx := in(t, "a")
	r, err := c.Checkpoint(ctx, &api.CheckpointTaskRequest{ContainerID: "x"})
	fatal(t, err)
	if len(r.Descriptors) != 2 || r.Descriptors[0].MediaType != mediaCheckpoint || r.Descriptors[1].MediaType != mediaCheckpointSpec {
		t.Fatalf("descriptors %v", r.Descriptors)
	}
	_, err = c.Create(ctx, &api.CreateTaskRequest{ContainerID: "x", Checkpoint: r.Descriptors[0]})
	fatal(t, err)
	if got := f.calls[len(f.calls)-2]; got != "restore [- core.img]" {
		t.Errorf("the manager found %s", got)
	}
	_, err = c.Delete(ctx, &api.DeleteTaskRequest{ContainerID: "x"})
	fatal(t, err)
	if _, err := os.Stat(f.opts.Checkpoint); !os.IsNotExist(err) {
		t.Errorf("the unpacked checkpoint stayed: %v", err)
	}
	dir := t.TempDir()
	r, err = c.Checkpoint(ctx, &api.CheckpointTaskRequest{ContainerID: "x", Options: anyOf(t, &options.CheckpointOptions{ImagePath: dir})})
	fatal(t, err)
	if _, err := os.Stat(filepath.Join(dir, "core.img")); err != nil || len(r.Descriptors) != 0 {
		t.Errorf("checkpoint into a directory: %v, %v", err, r.Descriptors)
	}
}

func TestARefusedTaskLeavesNoCheckpoint(t *testing.T) {
	f, _, c := taskWorld(t)
	ctx := in(t, "a")
	r, err := c.Checkpoint(ctx, &api.CheckpointTaskRequest{ContainerID: "x"})
	fatal(t, err)
	f.err = fmt.Errorf("no: %w", errdefs.ErrUnavailable)
	_, err = c.Create(ctx, &api.CreateTaskRequest{ContainerID: "x", Checkpoint: r.Descriptors[0]})
	wantCode(t, "create", err, codes.Unavailable)
	if _, err := os.Stat(f.opts.Checkpoint); f.opts.Checkpoint == "" || !os.IsNotExist(err) {
		t.Errorf("the unpacked checkpoint stayed at %q: %v", f.opts.Checkpoint, err)
	}
}
