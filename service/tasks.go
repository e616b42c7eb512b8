// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	api "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"slipway/internal/filter"
	"slipway/internal/ident"
	"slipway/internal/mount"
	"slipway/meta"
	"slipway/task"
)

// taskManager is what Tasks needs of task.Manager: one method per method of
// the service.
type taskManager interface {
	taskLife
	taskControl
	taskState
	Checkpoint(ctx context.Context, ns ident.Namespace, id, path string, options *anypb.Any) error
	Update(ctx context.Context, ns ident.Namespace, id string, resources *anypb.Any, annotations map[string]string) error
}

type taskLife interface {
	Create(ctx context.Context, ns ident.Namespace, id string, opts task.CreateOpts) (pid uint32, err error)
	Start(ctx context.Context, ns ident.Namespace, id, exec string) (pid uint32, err error)
	Delete(ctx context.Context, ns ident.Namespace, id string) (task.Exit, error)
	Exec(ctx context.Context, ns ident.Namespace, id, exec string, spec *anypb.Any, io task.Stdio) error
	DeleteProcess(ctx context.Context, ns ident.Namespace, id, exec string) (task.Exit, error)
}

type taskControl interface {
	Kill(ctx context.Context, ns ident.Namespace, id, exec string, signal uint32, all bool) error
	Pause(ctx context.Context, ns ident.Namespace, id string) error
	Resume(ctx context.Context, ns ident.Namespace, id string) error
	ResizePty(ctx context.Context, ns ident.Namespace, id, exec string, width, height uint32) error
	CloseIO(ctx context.Context, ns ident.Namespace, id, exec string, stdin bool) error
}

type taskState interface {
	Get(ctx context.Context, ns ident.Namespace, id, exec string) (task.State, error)
	List(ctx context.Context, ns ident.Namespace) ([]task.State, error)
	Pids(ctx context.Context, ns ident.Namespace, id string) ([]task.Process, error)
	Stats(ctx context.Context, ns ident.Namespace, id string) (*anypb.Any, error)
	Wait(ctx context.Context, ns ident.Namespace, id, exec string) (task.Exit, error)
}

// Tasks serves containerd.services.tasks.v1.Tasks. Checkpoints are in
// checkpoint.go.
type Tasks struct {
	api.UnimplementedTasksServer
	tasks       taskManager
	db          *meta.DB
	checkpoints string
}

// NewTasks returns the service of a manager. Checkpoints are unpacked in
// <root>/checkpoints, which is made when it is needed.
func NewTasks(tasks taskManager, db *meta.DB, root string) *Tasks {
	return &Tasks{tasks: tasks, db: db, checkpoints: filepath.Join(root, "checkpoints")}
}

// Register puts the service on a server.
func (s *Tasks) Register(r grpc.ServiceRegistrar) { api.RegisterTasksServer(r, s) }

// Create makes a task of a container.
func (s *Tasks) Create(ctx context.Context, r *api.CreateTaskRequest) (_ *api.CreateTaskResponse, err error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.db.Containers(scope).Get(ctx, r.ContainerID); err != nil {
		return nil, err
	}
	opts := task.CreateOpts{
		Rootfs:      mount.FromProto(r.Rootfs),
		Stdio:       task.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		RuntimePath: r.RuntimePath, Options: r.Options,
		Endpoint: task.Endpoint{Address: r.TaskApiAddress, Version: int(r.TaskApiVersion)},
	}
	if opts.Checkpoint, err = restorePath(r.ContainerID, r.Options); err != nil {
		return nil, err
	}
	if opts.Checkpoint == "" && r.Checkpoint != nil {
		if opts.Checkpoint, err = s.unpackCheckpoint(ctx, scope, r.ContainerID, descriptorOf(r.Checkpoint)); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				os.RemoveAll(opts.Checkpoint)
			}
		}()
	}
	pid, err := s.tasks.Create(ctx, scope.Namespace, r.ContainerID, opts)
	if err != nil {
		return nil, err
	}
	return &api.CreateTaskResponse{ContainerID: r.ContainerID, Pid: pid}, nil
}

// restorePath is the checkpoint that the options of a runtime name. Upstream
// takes options of runc only here, and answers others with a plain error.
func restorePath(id string, a *anypb.Any) (string, error) {
	if a == nil {
		return "", nil
	}
	var o options.Options
	if err := typeurl.UnmarshalTo(a, &o); err != nil {
		return "", fmt.Errorf("container %s: task options of type %q: %w", id, a.TypeUrl, err)
	}
	return o.CriuImagePath, nil
}

// Start runs the first process of a task, or one that Exec has added.
func (s *Tasks) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	pid, err := s.tasks.Start(ctx, scope.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.StartResponse{Pid: pid}, nil
}

// Delete removes a task that has stopped.
func (s *Tasks) Delete(ctx context.Context, r *api.DeleteTaskRequest) (*api.DeleteResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	exit, err := s.tasks.Delete(ctx, scope.Namespace, r.ContainerID)
	if err != nil {
		return nil, err
	}
	s.dropCheckpoint(scope, r.ContainerID)
	return deleteResponse("", exit), nil
}

// DeleteProcess removes a process that Exec has added and that has stopped.
func (s *Tasks) DeleteProcess(ctx context.Context, r *api.DeleteProcessRequest) (*api.DeleteResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	exit, err := s.tasks.DeleteProcess(ctx, scope.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return deleteResponse(r.ExecID, exit), nil
}

func deleteResponse(id string, e task.Exit) *api.DeleteResponse {
	return &api.DeleteResponse{ID: id, Pid: e.Pid, ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}
}

// Get describes a process.
func (s *Tasks) Get(ctx context.Context, r *api.GetRequest) (*api.GetResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	st, err := s.tasks.Get(ctx, scope.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.GetResponse{Process: processProto(st)}, nil
}

// List describes the tasks of the namespace; the filter of the request has
// no meaning.
func (s *Tasks) List(ctx context.Context, _ *api.ListTasksRequest) (*api.ListTasksResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.tasks.List(ctx, scope.Namespace)
	if err != nil {
		return nil, err
	}
	return &api.ListTasksResponse{Tasks: protos(all, processProto)}, nil
}

// Kill sends a signal.
func (s *Tasks) Kill(ctx context.Context, r *api.KillRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error {
		return s.tasks.Kill(ctx, ns, r.ContainerID, r.ExecID, r.Signal, r.All)
	})
}

// do makes the call of a handler that answers with nothing.
func (s *Tasks) do(ctx context.Context, call func(ident.Namespace) error) (*emptypb.Empty, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := call(scope.Namespace); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Exec adds a process, which Start runs.
func (s *Tasks) Exec(ctx context.Context, r *api.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec id must be set: %w", errdefs.ErrInvalidArgument)
	}
	io := task.Stdio{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	return s.do(ctx, func(ns ident.Namespace) error {
		return s.tasks.Exec(ctx, ns, r.ContainerID, r.ExecID, r.Spec, io)
	})
}

// ResizePty tells a terminal its size.
func (s *Tasks) ResizePty(ctx context.Context, r *api.ResizePtyRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error {
		return s.tasks.ResizePty(ctx, ns, r.ContainerID, r.ExecID, r.Width, r.Height)
	})
}

// CloseIO closes the standard input of a process.
func (s *Tasks) CloseIO(ctx context.Context, r *api.CloseIORequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error {
		return s.tasks.CloseIO(ctx, ns, r.ContainerID, r.ExecID, r.Stdin)
	})
}

// Pause freezes a task.
func (s *Tasks) Pause(ctx context.Context, r *api.PauseTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error { return s.tasks.Pause(ctx, ns, r.ContainerID) })
}

// Resume thaws a task.
func (s *Tasks) Resume(ctx context.Context, r *api.ResumeTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error { return s.tasks.Resume(ctx, ns, r.ContainerID) })
}

// Update changes the resources of a task.
func (s *Tasks) Update(ctx context.Context, r *api.UpdateTaskRequest) (*emptypb.Empty, error) {
	return s.do(ctx, func(ns ident.Namespace) error {
		return s.tasks.Update(ctx, ns, r.ContainerID, r.Resources, r.Annotations)
	})
}

// ListPids lists the processes in a task.
func (s *Tasks) ListPids(ctx context.Context, r *api.ListPidsRequest) (*api.ListPidsResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.tasks.Pids(ctx, scope.Namespace, r.ContainerID)
	if err != nil {
		return nil, err
	}
	resp := &api.ListPidsResponse{}
	for _, p := range all {
		resp.Processes = append(resp.Processes, &tasktypes.ProcessInfo{Pid: p.Pid, Info: p.Info})
	}
	return resp, nil
}

// Wait answers when a process has exited.
func (s *Tasks) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	exit, err := s.tasks.Wait(ctx, scope.Namespace, r.ContainerID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
}

// Metrics gives the counters of the tasks that match. One that does not
// answer is left out.
func (s *Tasks) Metrics(ctx context.Context, r *api.MetricsRequest) (*api.MetricsResponse, error) {
	scope, err := ident.ScopeOf(ctx)
	if err != nil {
		return nil, err
	}
	match, err := filter.Parse(r.Filters...)
	if err != nil {
		return nil, err
	}
	all, err := s.tasks.List(ctx, scope.Namespace)
	if err != nil {
		return nil, err
	}
	metrics := make([]*types.Metric, len(all))
	var wg sync.WaitGroup
	for i, st := range all {
		if match(taskFields(scope.Namespace, st.ID)) {
			wg.Go(func() { metrics[i] = s.metric(ctx, scope.Namespace, st.ID) })
		}
	}
	wg.Wait()
	resp := &api.MetricsResponse{}
	for _, m := range metrics {
		if m != nil {
			resp.Metrics = append(resp.Metrics, m)
		}
	}
	return resp, nil
}

func (s *Tasks) metric(ctx context.Context, ns ident.Namespace, id string) *types.Metric {
	data, err := s.tasks.Stats(ctx, ns, id)
	if err != nil {
		return nil
	}
	return &types.Metric{ID: id, Timestamp: timestamppb.New(time.Now()), Data: data}
}

func taskFields(ns ident.Namespace, id string) filter.Fields {
	return func(path []string) (string, bool) {
		switch path[0] {
		case "id":
			return id, len(path) == 1
		case "namespace":
			return string(ns), len(path) == 1
		}
		return "", false
	}
}
